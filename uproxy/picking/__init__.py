"""Whom a connection goes to: routes, backends, attempts, waiting, balancing, counts. Pure."""
