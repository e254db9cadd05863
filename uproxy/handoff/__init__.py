"""Hot Services carried by the kernel: who moves, what the kernel is told, and how it comes back."""
