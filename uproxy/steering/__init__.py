"""Leading packets for VIPs to the proxy's own sockets, and taking every trace of it away again.

See README.md beside this file for the packet's path.
"""
