"""Headrace's gRPC API: `python -m headrace_gateway`.

A call passes through the links in `calls`, a servicer in `grpc` and a use case in `api`. A stream
continues in `streams`: its use case returns a generator of events, and the servicer writes them.
"""
