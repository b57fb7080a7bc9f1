"""Shared code of the services: domain, store, delivery, wake-ups, settings and logs."""
