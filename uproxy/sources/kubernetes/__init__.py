"""A cluster as a source: its Services, its EndpointSlices and the own node, as the API server has them.

`source` puts three `reflector`s together. The package `kubernetes` is imported by `access` alone, and
only when a cluster is the source, because it costs 24 MiB.
"""
