"""The live data of the dashboard, as server-sent events that browsers share."""

from headrace_web.feeds.routes import feed_routes
from headrace_web.feeds.shared import Feeds

__all__ = ["Feeds", "feed_routes"]
