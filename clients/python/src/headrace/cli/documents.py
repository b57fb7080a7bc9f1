"""Values as JSON documents, under the names of the contract."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from headrace import Job, JobError

# The fields of a job that only the full view has.
_FULL_VIEW: Final = {"payload", "result"}


def document(value: Any) -> Any:
    """What JSON can say of a value: times in RFC 3339, spans in seconds, what is absent as null."""
    if is_dataclass(value):
        found = {field.name: document(getattr(value, field.name)) for field in fields(value)}
        if isinstance(value, JobError) and not value.stack_trace:
            # Events and the basic view have none.
            del found["stack_trace"]
        return found
    if isinstance(value, Mapping):
        return {str(key): document(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [document(entry) for entry in value]
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat().replace("+00:00", "Z")
    if isinstance(value, timedelta):
        return value.total_seconds()
    return value


def summary(job: Job) -> dict[str, Any]:
    """A job of the basic view as a document, without the fields that this view leaves out."""
    return {name: value for name, value in document(job).items() if name not in _FULL_VIEW}


def json_line(value: Any) -> str:
    """One line of JSON."""
    return json.dumps(document(value), ensure_ascii=False)


def json_text(value: Any) -> str:
    """JSON for people."""
    return json.dumps(document(value), ensure_ascii=False, indent=2)
