"""The interface of handlers: registration, context, errors, payloads."""
