"""Logins of browsers: the dashboard's sessions, kept in cookies alone."""

from headrace_web.sessions.middleware import SessionCookies
from headrace_web.sessions.routes import login_required, session_routes
from headrace_web.sessions.sessions import Sessions

__all__ = ["SessionCookies", "Sessions", "login_required", "session_routes"]
