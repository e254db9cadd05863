"""How the outside looks in: health, metrics, the services table."""
