"""The composition root: only here are sources, data plane, steering and names introduced to each other."""
