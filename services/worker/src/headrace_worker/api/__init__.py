"""The API of handlers: registration, context, errors, payloads."""
