"""The interface for handlers: registration, context, errors, payloads."""
