"""Frozen data: what Kubernetes objects and the proxy's own tables are made of.

No input, no output, no clock. Everything here is a value that can be compared and shared.
"""
