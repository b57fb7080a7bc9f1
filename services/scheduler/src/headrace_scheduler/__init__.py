"""Headrace's scheduler: one leader runs the loops, the others are standbys."""
