"""Credentials of HTTP requests: the gateway decides, and the web service adds no rights."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import aclosing

import httpx2
import pytest

from headrace_core.domain.access import Role
from headrace_core.runtime.settings import Settings
from headrace_core.store.sql.database import Database
from support.access import add_api_key
from support.gateway import FakeWorker
from support.sse import EventSource

JOB = {"type": "square_sum", "payload": {"data": [1]}}
DEADLINE_S = 60


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return settings.model_copy(update={"access_control": True})


@pytest.fixture
async def operator(database: Database, worker: FakeWorker) -> str:
    """The key of an operator, added before the gateway starts."""
    return await add_api_key(database, Role.OPERATOR, "payload:read")


@pytest.fixture
async def viewer(database: Database) -> str:
    return await add_api_key(database, Role.VIEWER, principal="grace")


@pytest.fixture
async def as_operator(operator: str, http: httpx2.AsyncClient) -> AsyncIterator[httpx2.AsyncClient]:
    """A client that sends the key of an operator."""
    headers = {"authorization": f"Bearer {operator}"}
    async with httpx2.AsyncClient(
        base_url=http.base_url, headers=headers, timeout=30, trust_env=False
    ) as client:
        yield client


async def test_request_without_credential_is_unauthenticated(
    operator: str, http: httpx2.AsyncClient
) -> None:
    for response in (
        await http.get("/v1/jobs"),
        await http.get("/v1/events"),
        await http.get("/v1/jobs", headers={"authorization": "Bearer hr_wrong"}),
    ):
        assert response.status_code == 401
        assert response.headers["www-authenticate"] == "Bearer"
        assert response.json()["reason"] == "UNAUTHENTICATED"
    rpc = await http.post("/headrace.v1.JobService/GetStats", json={})
    assert (rpc.status_code, rpc.json()["code"]) == (401, "unauthenticated")


async def test_rights_are_those_of_the_key(
    viewer: str, as_operator: httpx2.AsyncClient, http: httpx2.AsyncClient
) -> None:
    submitted = await as_operator.post("/v1/jobs", json=JOB)
    assert submitted.status_code == 201
    path = f"/v1/jobs/{submitted.json()['job']['id']}"
    assert (await as_operator.get(path)).json()["payload"] == {"data": [1]}
    as_viewer = {"authorization": f"Bearer {viewer}"}
    seen = (await http.get(path, headers=as_viewer)).json()
    assert "payload" not in seen
    assert "payload" in seen["withheldFields"]
    denied = await http.post("/v1/jobs", json=JOB, headers=as_viewer)
    assert denied.status_code == 403
    assert denied.json()["metadata"]["right"] == "jobs:submit"
    me = (await http.get("/v1/me", headers=as_viewer)).json()
    assert (me["name"], me["role"], me["open"]) == ("grace", "ROLE_VIEWER", False)


async def test_watch_token_in_the_url_follows_its_jobs(
    as_operator: httpx2.AsyncClient, http: httpx2.AsyncClient
) -> None:
    minted = await as_operator.post(
        "/headrace.v1.AccessService/MintWatchToken",
        json={"labels": {"user": "42"}, "lifetime": "600s"},
    )
    token = minted.json()["token"]
    base = str(http.base_url).rstrip("/")
    source = EventSource(f"{base}/v1/events?access_token={token}")
    async with asyncio.timeout(DEADLINE_S), aclosing(source.messages()) as messages:
        assert (await anext(messages)).event == "caught_up"
        await as_operator.post("/v1/jobs", json=JOB)
        own = await as_operator.post("/v1/jobs", json={**JOB, "labels": {"user": "42"}})
        event = await anext(messages)
    assert event.data["jobId"] == own.json()["job"]["id"]
    # The token in the header reads, too, but changes nothing.
    headers = {"authorization": f"Bearer {token}"}
    assert (await http.post("/v1/jobs", json=JOB, headers=headers)).status_code == 403


async def test_credentials_never_reach_the_log(
    as_operator: httpx2.AsyncClient,
    operator: str,
    capfd: pytest.CaptureFixture[str],
) -> None:
    await as_operator.post("/v1/jobs", json={**JOB, "payload": {"data": ["not-for-logs"]}})
    await as_operator.get("/v1/events?access_token=secret-token")
    output = "".join(capfd.readouterr())
    assert operator not in output
    assert "secret-token" not in output
    assert "not-for-logs" not in output


async def test_revoked_key_ends_a_stream_with_a_problem(
    database: Database, as_operator: httpx2.AsyncClient, operator: str
) -> None:
    admin = await add_api_key(database, Role.ADMIN, principal="admin")
    async with (
        asyncio.timeout(DEADLINE_S),
        as_operator.stream("GET", "/v1/events") as stream,
    ):
        lines = stream.aiter_lines()
        while (await anext(lines)) != "event: caught_up":
            pass
        revoked = await as_operator.post(
            "/headrace.v1.AccessService/RevokeApiKey",
            json={"id": operator.split("_")[1]},
            headers={"authorization": f"Bearer {admin}"},
        )
        assert revoked.status_code == 200, revoked.text
        rest = [line async for line in lines]
    place = rest.index("event: problem")
    problem = json.loads(rest[place + 1].removeprefix("data: "))
    assert (problem["status"], problem["reason"]) == (401, "UNAUTHENTICATED")
