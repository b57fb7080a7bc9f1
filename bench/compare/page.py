"""The generated section of docs/benchmarks.md, between two markers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

BEGIN: Final = "<!-- figures of bench/compare: begin -->"
END: Final = "<!-- figures of bench/compare: end -->"


def with_section(page: str, section: str) -> str:
    """Return the page with `section` between the markers.

    Raises:
        ValueError: a marker is missing.
    """
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"the page must contain {BEGIN}, followed by {END}")
    return f"{before}{begin}\n\n{section}\n\n{end}{after}"


def markdown_images(charts: Sequence[tuple[str, str]], folder: str) -> str:
    """Return Markdown images of charts, given as (name, title), in `folder`."""
    return "\n\n".join(f"![{title}]({folder}/{name}.svg)" for name, title in charts)
