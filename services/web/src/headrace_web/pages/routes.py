"""The pages of the dashboard, and the routes of pages and files."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

import jinja2
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import BaseRoute, Mount, Route

from headrace_web.pages.static_files import STATIC_PATH, ImmutableFiles, static_url


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
    Page(path="/subscriptions", title="Subscriptions", script="subscriptions", needs="jobs:read"),
    Page(path="/keys", title="API keys", script="keys", needs="access:manage"),
    Page(path="/users", title="Users", script="users", needs="access:manage"),
    Page(path="/tenants", title="Tenants", script="tenants", needs="quotas:manage"),
    Page(path="/audit", title="Audit log", script="audit", needs="audit:read"),
)

# Pages load nothing from elsewhere, and neither scripts nor styles can be part of the HTML.
PAGE_HEADERS: Final = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
        "connect-src 'self'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
    ),
    "cache-control": "no-store",
    "cross-origin-opener-policy": "same-origin",
    "referrer-policy": "same-origin",
    "x-content-type-options": "nosniff",
}

_templates = jinja2.Environment(
    loader=jinja2.PackageLoader("headrace_web.pages"), autoescape=True, trim_blocks=True
)
_templates.globals["static"] = static_url


def page_routes(log_in: Callable[[Request], Awaitable[Response | None]]) -> list[BaseRoute]:
    """Return the routes of all pages and of their files.

    Args:
        log_in: returns the response that leads a browser without a session to the login; None if
            the browser may open the page.
    """
    return [
        *(Route(page.path, _endpoint(page, log_in), methods=["GET"]) for page in PAGES),
        Mount(STATIC_PATH, ImmutableFiles()),
    ]


def render(template: str, *, status: int = 200, **values: object) -> HTMLResponse:
    """Return a page as a response with its security headers.

    Args:
        template: the file in `templates`.
        status: the HTTP status.
        values: the variables of the template.
    """
    html = _templates.get_template(template).render(**values)
    return HTMLResponse(html, status_code=status, headers=PAGE_HEADERS)


def _endpoint(
    page: Page, log_in: Callable[[Request], Awaitable[Response | None]]
) -> Callable[[Request], Awaitable[Response]]:
    async def show(request: Request) -> Response:
        return await log_in(request) or render(
            "shell.html",
            title=page.title,
            page=page.script,
            section=page.section or page.script,
            id=request.path_params.get("id", ""),
            navigation=[
                {"path": each.path, "title": each.title, "page": each.script, "needs": each.needs}
                for each in PAGES
                if each.listed
            ],
        )

    return show
