"""Headrace's gRPC API: `python -m headrace_gateway`.

A call passes the links in `calls`, then a servicer in `grpc`, then a use case in `api`. A stream
continues in `streams`: its use case returns a generator of events, and the servicer writes them.
"""
