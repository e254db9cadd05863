"""report.html: one file with everything in it, drawn here, that asks the network for nothing."""
