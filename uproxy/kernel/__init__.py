"""The doors to the kernel by netlink: what may be said, and how it is asked. No Service in it."""
