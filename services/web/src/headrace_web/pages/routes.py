"""The routes of the dashboard's pages and files."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final

import jinja2
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import BaseRoute, Mount, Route

from headrace_web.pages.page import PAGES, Page
from headrace_web.pages.static_files import STATIC_PATH, ImmutableFiles, static_url

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
