"""`headrace open`."""

from __future__ import annotations

import os
import webbrowser
from typing import Annotated, Final
from urllib.parse import urlsplit

from cyclopts import Parameter

from headrace.cli.arguments import Flag
from headrace.cli.completion import complete_jobs
from headrace.cli.job_ids import resolve_job_id
from headrace.cli.session import Injected
from headrace.cli.usage import UsageError

_DEFAULT_URL: Final = "http://127.0.0.1:8080"


async def open_page(
    job: Annotated[
        str,
        Parameter(
            name="JOB",
            completer=complete_jobs,
            show_default=False,
            help="The job id, or its start; default: the overview of all jobs.",
        ),
    ] = "",
    /,
    *,
    print_only: Annotated[
        Flag, Parameter(name="--print", help="Print the URL, and open no browser.")
    ] = False,
    session: Injected,
) -> None:
    url = f"{_dashboard_url()}/"
    if job:
        async with session.client() as client:
            url += f"jobs/{await resolve_job_id(client, job)}"
    if print_only or not webbrowser.open(url):
        session.output.value({"url": url}, url)


def _dashboard_url() -> str:
    url = os.environ.get("HEADRACE_WEB_URL") or _DEFAULT_URL
    parts = urlsplit(url)
    if parts.scheme not in {"http", "https"} or not parts.netloc:
        raise UsageError(f"HEADRACE_WEB_URL={url} is not an http or https URL")
    return url.rstrip("/")
