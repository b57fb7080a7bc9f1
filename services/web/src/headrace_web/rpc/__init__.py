"""The RPCs over HTTP: the Connect protocol and gRPC-Web."""

from headrace_web.rpc.routes import rpc_routes

__all__ = ["rpc_routes"]
