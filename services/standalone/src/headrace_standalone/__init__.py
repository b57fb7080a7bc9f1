"""Headrace in one command, with embedded PostgreSQL and Valkey servers."""
