"""The handler interface: registration, context, errors and payloads."""
