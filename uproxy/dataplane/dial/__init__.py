"""Ways to an endpoint: sockets, and from which address and port."""
