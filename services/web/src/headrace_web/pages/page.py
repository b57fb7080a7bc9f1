"""Declares the pages of the dashboard."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """A page of the dashboard.

    Attributes:
        path: the path of its URL; a page of a single resource has the parameter `id`.
        title: its title, also in the navigation.
        script: its module in `static/pages`, without the suffix.
        section: the script of the page that the navigation marks; the page itself by default.
        needs: the right without which the navigation hides it; empty for none.
        listed: whether the navigation has a link to it.
    """

    path: str
    title: str
    script: str
    section: str = ""
    needs: str = ""
    listed: bool = True


PAGES: Final = (
    Page(path="/", title="Overview", script="overview", needs="jobs:read"),
    Page(path="/jobs", title="Jobs", script="jobs", needs="jobs:read"),
    Page(path="/jobs/{id}", title="Job", script="job", section="jobs", listed=False),
    Page(path="/submit", title="Submit", script="submit", needs="jobs:submit"),
    Page(path="/queues", title="Queues", script="queues", needs="jobs:read"),
    Page(path="/workers", title="Workers", script="workers", needs="jobs:read"),
)
