"""Resources under /v1, as plain JSON."""
