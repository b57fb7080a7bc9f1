"""Checks and repairs of stored rows."""
