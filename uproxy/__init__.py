"""uproxy: a userspace L4 proxy for Kubernetes Services."""

__version__ = "0.1.0"
