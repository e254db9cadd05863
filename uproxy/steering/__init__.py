"""The kernel's part: what leads packets for a VIP to uproxy's sockets."""
