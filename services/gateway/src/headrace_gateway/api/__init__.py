"""The use cases of the API."""
