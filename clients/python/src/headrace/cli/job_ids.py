"""Abbreviated job ids: the start of an id, or its end after an ellipsis, as lists print it."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence
from contextlib import aclosing
from typing import TYPE_CHECKING, Final, TypeAlias
from uuid import UUID

from headrace.cli.usage import UsageError

if TYPE_CHECKING:
    from headrace import Client, Job

_DIGITS: Final = 32
_MIN_DIGITS: Final = 4
_ELLIPSIS: Final = ("…", "...")
# The number of jobs that an id is searched in by its end, because no index contains it.
_NEWEST: Final = 1000
_PREFIX: Final = re.compile(r"[0-9a-f][0-9a-f-]*")

_Found: TypeAlias = "list[Job]"


class NoSuchJob(UsageError):
    """No job has an id like the given text."""


async def resolve_job_ids(client: Client, texts: Sequence[str]) -> list[str]:
    """Return the job ids that texts stand for; see `resolve_job_id`."""
    return list(await asyncio.gather(*(resolve_job_id(client, text) for text in texts)))


async def resolve_job_id(client: Client, text: str) -> str:
    """Return the job id that a text stands for.

    A whole id is returned without a call. The start of an id has at least four digits; the end of
    an id follows an ellipsis and is searched among the newest 1,000 jobs.

    Raises:
        NoSuchJob: no job has such an id.
        UsageError: several jobs have such ids.
    """
    lower = text.lower()
    end = lower.lstrip("….")
    if end and lower.startswith(_ELLIPSIS):
        found, place = await _ending_with(client, end), f"ends with {end}"
        if not found:
            raise NoSuchJob(f"the id of none of the newest {_NEWEST:,} jobs {place}")
    else:
        digits = lower.replace("-", "")
        # The gateway rejects other texts with an explanation.
        if not _PREFIX.fullmatch(lower) or not _MIN_DIGITS <= len(digits) < _DIGITS:
            return text
        found, place = await _starting_with(client, digits), f"starts with {text}"
        if not found:
            raise NoSuchJob(f"no job id {place}")
    if len(found) > 1:
        examples = ", ".join(job.id for job in found[:2])
        raise UsageError(f"more than one job id {place}, for example {examples}; use more digits")
    return found[0].id


async def _starting_with(client: Client, digits: str) -> _Found:
    first, last = (UUID(digits.ljust(_DIGITS, digit)) for digit in "0f")
    query = f"id >= {first} AND id <= {last}"
    async with aclosing(client.list(filter=query, page_size=2)) as jobs:
        found = []
        async for job in jobs:
            found.append(job)
            if len(found) == 2:
                break
    return found


async def _ending_with(client: Client, end: str) -> _Found:
    found, read = [], 0
    async with aclosing(client.list(page_size=_NEWEST)) as jobs:
        async for job in jobs:
            read += 1
            if job.id.endswith(end):
                found.append(job)
            if read == _NEWEST:
                break
    return found
