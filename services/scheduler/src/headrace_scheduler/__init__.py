"""Headrace's scheduler: one leader runs the loops, all others are standbys."""
