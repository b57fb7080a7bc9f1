"""Tenants, credentials, and the log of their changes."""
