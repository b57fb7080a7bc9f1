"""The dashboard: HTML pages whose scripts load all data from the JSON API."""

from headrace_web.pages.routes import page_routes

__all__ = ["page_routes"]
