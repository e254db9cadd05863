"""Pieces that know nothing of Kubernetes."""
