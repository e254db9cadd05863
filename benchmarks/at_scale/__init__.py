"""What `benchmarks/cluster.py` is made of: a big cluster, and what is asked of a proxy that follows it."""
