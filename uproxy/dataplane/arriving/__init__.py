"""How connections arrive: listeners, where they were going, who may come."""
