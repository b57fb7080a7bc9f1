"""Measurements of the dashboard."""
