"""The cost of access control."""
