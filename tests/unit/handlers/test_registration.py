"""Registration of the built-in handlers and their schemas."""

from __future__ import annotations

import json
import pickle
from datetime import timedelta

import jsonschema_rs
import pytest

from headrace_worker import Fail, Retry, Stopped
from headrace_worker.api.loading import load_handlers
from support.recording import async_context, sync_context

EXAMPLES = {
    "square_sum": {"data": [1, 2.5, -3]},
    "cube_sum": {"data": []},
    "sum_range": {"start": 1, "end": 100},
    "email": {"to": ["ada@example.org"], "subject": "Hello", "text": "Hello Ada"},
    "data_cleaning": {
        "input": "penguins.csv",
        "deduplicate": ["id"],
        "rules": {"id": {"type": "integer", "required": True, "min": 0, "allowed": [1, 2]}},
    },
    "ai_task": {"task": "sentiment", "text": "What a day!"},
    "http_request": {"url": "https://hooks.example.org/", "body": {"order": 7}},
}
MODES = {
    "square_sum": "process",
    "cube_sum": "process",
    "sum_range": "process",
    "email": "async",
    "data_cleaning": "process",
    "ai_task": "async",
    "http_request": "async",
}


def test_built_in_handlers_are_registered() -> None:
    handlers = {registered.spec.type: registered for registered in load_handlers()}
    assert {name: handlers[name].mode for name in MODES} == MODES
    assert {handlers[name].spec.queue for name in MODES} == {"default"}


@pytest.mark.parametrize("job_type", EXAMPLES)
def test_schema_matches_the_handler_and_describes_fields(job_type: str) -> None:
    registered = load_handlers().get(job_type)
    assert registered is not None
    assert registered.spec.description
    schema = json.loads(registered.spec.payload_schema)
    validator = jsonschema_rs.validator_for(schema)
    validator.validate(EXAMPLES[job_type])
    registered.decode(json.dumps(EXAMPLES[job_type]))
    assert not validator.is_valid({**EXAMPLES[job_type], "typo": 1})
    assert not validator.is_valid({})
    for definition in schema["$defs"].values():
        assert definition["description"]
        for name, field in definition["properties"].items():
            assert field.get("description") or name == "method", (job_type, name)
    jsonschema_rs.validator_for(json.loads(registered.spec.result_schema))


@pytest.mark.parametrize("context", [async_context, sync_context])
async def test_cancelled_context_raises_stopped(context) -> None:
    ctx = context()
    ctx.raise_if_cancelled()
    ctx.cancel_event.set()
    with pytest.raises(Stopped):
        ctx.raise_if_cancelled()


@pytest.mark.parametrize(
    "error", [Retry("busy", after=1.5), Fail("closed", type="AccountClosed"), Stopped()]
)
def test_handler_error_survives_pickling(error: Exception) -> None:
    other = pickle.loads(pickle.dumps(error))
    assert type(other) is type(error)
    assert (str(other), vars(other)) == (str(error), vars(error))


def test_retry_accepts_a_wait_in_seconds() -> None:
    assert Retry(after=1.5).after == timedelta(seconds=1.5)
    assert Retry().after is None
