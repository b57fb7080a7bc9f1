"""The filter of `ListJobs`, from shortcuts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence


def job_filter(
    text: str,
    *,
    states: Sequence[str],
    queues: Sequence[str],
    types: Sequence[str],
    labels: Mapping[str, str],
) -> str:
    """A filter that holds when `text` and every shortcut that is given hold."""
    clauses = [
        text.strip(),
        _any("state", states),
        _any("queue", map(_quoted, queues)),
        _any("type", map(_quoted, types)),
        *(f"labels.{key} = {_quoted(value)}" for key, value in labels.items()),
    ]
    return " AND ".join(clause for clause in clauses if clause)


def _any(field: str, values: Iterable[str]) -> str:
    comparisons = [f"{field} = {value}" for value in values]
    if len(comparisons) > 1:
        return f"({' OR '.join(comparisons)})"
    return "".join(comparisons)


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
