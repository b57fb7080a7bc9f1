"""Calls: the context of each request, and the chain of links around it."""
