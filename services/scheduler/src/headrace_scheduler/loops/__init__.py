"""The loops that run while a scheduler leads: promote, dispatch, recover,
prune, delete tenants, and measure their usage.
"""
