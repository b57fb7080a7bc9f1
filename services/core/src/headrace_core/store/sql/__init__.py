"""Connections, statements and the mapping of rows."""
