"""Writes of the ends and reports of attempts, in groups."""
