"""Which backend is next: one module a policy, and session affinity in front of any of them. Pure."""
