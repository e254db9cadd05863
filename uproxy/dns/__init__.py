"""Names: cluster DNS from the same state as the proxy, and everything else from upstream."""
