"""The two relays of streams, in Python and in C, and their clocks."""
