"""The section of a page that a run writes, between two marks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

BEGIN: Final = "<!-- figures of bench/compare: begin -->"
END: Final = "<!-- figures of bench/compare: end -->"


def replaced(page: str, section: str) -> str:
    """The page with another section between the marks.

    Raises:
        ValueError: a mark is missing.
    """
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"the page has no {BEGIN} or no {END} behind it")
    return f"{before}{begin}\n\n{section}\n\n{end}{after}"


def images(charts: Sequence[tuple[str, str]], folder: str) -> str:
    """Charts, given as name and title, as they stand in a page; `folder` is where they lie."""
    return "\n\n".join(f"![{title}]({folder}/{name}.svg)" for name, title in charts)
