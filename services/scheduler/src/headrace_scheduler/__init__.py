"""Headrace's scheduler: one leader runs the loops, and the other schedulers are standbys."""
