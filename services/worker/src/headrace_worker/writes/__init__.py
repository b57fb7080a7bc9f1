"""Grouped writes of attempt ends and reports."""
