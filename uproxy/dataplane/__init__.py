"""Where connections are accepted, balanced and relayed."""
