"""Pure decisions: events folded in, desired state out. No I/O, no clock."""
