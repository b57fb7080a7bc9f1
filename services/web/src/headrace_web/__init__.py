"""Headrace over HTTP: a client of the gateway."""
