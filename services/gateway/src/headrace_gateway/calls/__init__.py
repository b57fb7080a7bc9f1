"""Calls: the value that describes one, and the interceptors around each."""
