"""What tests and benchmarks share. Production code does not import it."""
