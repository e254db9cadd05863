"""UDP: flows and their sockets."""
