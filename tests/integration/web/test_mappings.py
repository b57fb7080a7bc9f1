"""Requests of other job APIs, translated as docs/http.md says, and run by the built-in handlers."""

from __future__ import annotations

import asyncio
import json
import re
from contextlib import aclosing
from pathlib import Path
from typing import Any

import httpx2
import pytest

from headrace_core.runtime.settings import Settings
from headrace_gateway.service import Gateway
from headrace_worker.api.loading import load_handlers
from support.platform import platform
from support.sse import EventSource

PAGE = Path(__file__).parents[3] / "docs" / "http.md"
DEADLINE_S = 90


def mappings() -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """Return the requests in the table, and their translations."""
    table = PAGE.read_text().partition("| elsewhere |")[2]
    rows = re.findall(r"^\| `(\{.*?\})` \| `(\{.*\})` \|$", table, re.MULTILINE)
    return [(json.loads(elsewhere), json.loads(here)) for elsewhere, here in rows]


def test_table_contains_each_form() -> None:
    assert [set(elsewhere) for elsewhere, _ in mappings()] == [
        {"operation", "numbers"},
        {"file_path"},
        {"name", "job_type", "payload", "priority", "max_retries"},
    ]


@pytest.mark.timeout(180)
async def test_translated_requests_succeed(
    settings: Settings,
    gateway: Gateway,
    http: httpx2.AsyncClient,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "people.csv").write_text("name,age\n Ada ,36\nAda,36\n")
    monkeypatch.setenv("HEADRACE_FILES_ROOT", str(tmp_path))
    handlers = load_handlers(builtins=("numbers", "data_cleaning"))
    async with platform(settings, handlers):
        jobs = []
        for _, body in mappings():
            response = await http.post("/v1/jobs", json=body)
            assert response.status_code == 201, response.text
            jobs.append(response.json()["job"])
        results = [await result(http, job["id"]) for job in jobs]
        assert results[0] == {"result": 14}
        assert (tmp_path / results[1]["output"]).exists()
        assert results[2] == {"result": 8}
        named = (await http.get(f"/v1/jobs/{jobs[2]['id']}")).json()
        assert (named["priority"], named["labels"]) == (5, {"name": "nightly"})
        assert named["retryPolicy"]["maxAttempts"] == 4

        numbers = [{"operation": "square_sum", "numbers": [n]} for n in range(100)]
        batch = await http.post(
            "/v1/jobs:batch",
            json={
                "jobs": [
                    {"type": one["operation"], "payload": {"data": one["numbers"]}}
                    for one in numbers
                ]
            },
        )
        assert batch.status_code == 201
        ids = [job["id"] for job in batch.json()["jobs"]]
        squares = [await result(http, job_id) for job_id in ids]
    assert [one["result"] for one in squares] == [n * n for n in range(100)]


async def result(http: httpx2.AsyncClient, job_id: str) -> Any:
    """Follow a job to its end; return its result."""
    source = EventSource(f"{str(http.base_url).rstrip('/')}/v1/jobs/{job_id}/events")
    async with asyncio.timeout(DEADLINE_S), aclosing(source.messages()) as messages:
        last = [one async for one in messages][-1]
    assert last.event == "succeeded", last.data
    return (await http.get(f"/v1/jobs/{job_id}/result")).json()
