"""Events of jobs as Server-Sent Events."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing
from datetime import UTC, datetime

import httpx2
import pytest

from headrace_core.domain.job_log import LogLevel, LogLine
from headrace_core.runtime.settings import Settings
from headrace_gateway.service import Gateway
from headrace_standalone.embedded.port import free_port
from headrace_web.service import Web
from support.gateway import FakeWorker
from support.sse import EventSource, SseMessage

DEADLINE_S = 60


async def submit(http: httpx2.AsyncClient, **fields: object) -> str:
    """Submit a job; return its id."""
    body = {"type": "square_sum", "payload": {"data": []}, **fields}
    response = await http.post("/v1/jobs", json=body)
    assert response.status_code == 201, response.text
    return response.json()["job"]["id"]


async def take(messages: AsyncIterator[SseMessage], count: int) -> list[SseMessage]:
    """Return the next `count` messages."""
    async with asyncio.timeout(DEADLINE_S):
        return [await anext(messages) for _ in range(count)]


def source(http: httpx2.AsyncClient, path: str, **fields: str) -> EventSource:
    return EventSource(str(http.base_url).rstrip("/") + path, **fields)


async def test_events_of_all_jobs_are_pushed(worker: FakeWorker, http: httpx2.AsyncClient) -> None:
    async with aclosing(source(http, "/v1/events").messages()) as messages:
        [caught_up] = await take(messages, 1)
        assert (caught_up.event, caught_up.data) == ("caught_up", {})
        job_id = await submit(http)
        await worker.start_job(job_id)
        await worker.report(job_id, output='{"token": 12345678901234567890}')
        await worker.succeed(job_id)
        found = await take(messages, 4)
    assert [one.event for one in found] == ["submitted", "started", "output", "succeeded"]
    assert {one.data["jobId"] for one in found} == {job_id}
    assert [one.data["seq"] for one in found] == ["1", "2", "3", "4"]
    assert found[2].data["output"] == {"token": 12345678901234567890}
    assert len({one.id for one in found}) == 4


async def test_stream_resumes_after_any_message(
    worker: FakeWorker, http: httpx2.AsyncClient
) -> None:
    async with aclosing(source(http, "/v1/events").messages()) as messages:
        [caught_up] = await take(messages, 1)
        # A batch commits at once, so a response of the gateway can have several events.
        jobs = [{"type": "square_sum", "payload": {"data": [n]}} for n in range(20)]
        await http.post("/v1/jobs:batch", json={"jobs": jobs})
        found = await take(messages, 20)
    names = [one.data["jobId"] for one in found]
    assert len(set(names)) == 20
    for place, one in enumerate([caught_up, *found]):
        resumed = source(http, "/v1/events", last_event_id=one.id)
        async with aclosing(resumed.messages()) as messages:
            rest = await take(messages, 20 - place + 1)
        assert [one.data["jobId"] for one in rest[:-1]] == names[place:]
        assert rest[-1].event == "caught_up"


async def test_filter_selects_events(worker: FakeWorker, http: httpx2.AsyncClient) -> None:
    path = "/v1/events?label=team=ml&state=queued&queue=math&type=square_sum"
    async with aclosing(source(http, path).messages()) as messages:
        await take(messages, 1)
        await submit(http)
        wanted = await submit(http, labels={"team": "ml"})
        [event] = await take(messages, 1)
    assert event.data["jobId"] == wanted


async def test_history_of_one_job_ends_without_reconnect(
    worker: FakeWorker, http: httpx2.AsyncClient
) -> None:
    job_id = await submit(http)
    events = source(http, f"/v1/jobs/{job_id}/events")
    async with aclosing(events.messages()) as messages:
        assert [one.event for one in await take(messages, 1)] == ["submitted"]
        await worker.start_job(job_id)
        await worker.succeed(job_id)
        rest = [one async for one in messages]
    assert [(one.event, one.id) for one in rest] == [("started", "2"), ("succeeded", "3")]
    # The browser connects once more, and is told that the stream has ended.
    assert (events.connects, events.status) == (2, 204)


async def test_log_of_one_job_is_listed_and_followed(
    worker: FakeWorker, http: httpx2.AsyncClient
) -> None:
    job_id = await submit(http)
    await worker.start_job(job_id)
    now = datetime.now(UTC)
    await worker.log(job_id, LogLine(now, LogLevel.WARNING, "shop", "slow", '{"rows": 3}'), last=1)
    [line] = (await http.get(f"/v1/jobs/{job_id}/logs")).json()["lines"]
    assert (line["message"], line["fields"]) == ("slow", {"rows": 3})
    log = source(http, f"/v1/jobs/{job_id}/logs")
    async with aclosing(log.messages()) as messages:
        [first] = await take(messages, 1)
        assert (first.event, first.data["message"]) == ("line", "slow")
        await worker.log(job_id, LogLine(now, LogLevel.INFO, "shop", "done"), last=2)
        await worker.succeed(job_id)
        rest = [one async for one in messages]
    assert [one.data["message"] for one in rest] == ["done"]
    # The last request continues after the last line of an ended job.
    assert (log.connects, log.status) == (2, 204)


async def test_rejected_stream_is_an_http_error(http: httpx2.AsyncClient) -> None:
    missing = source(http, "/v1/jobs/01920000-0000-7000-8000-000000000000/events")
    assert [one async for one in missing.messages()] == []
    assert (missing.connects, missing.status) == (1, 404)
    malformed = source(http, "/v1/events?cursor=bogus")
    assert [one async for one in malformed.messages()] == []
    assert malformed.status == 400


async def test_token_in_url_is_only_for_streams(http: httpx2.AsyncClient) -> None:
    assert (await http.get("/v1/stats?access_token=t")).status_code == 400
    key = await http.get("/v1/events?access_token=hr_abc")
    assert key.status_code == 400
    assert "hr_abc" not in key.text
    headers = {"authorization": "Bearer x"}
    assert (await http.get("/v1/events?access_token=t", headers=headers)).status_code == 400


async def test_stopping_service_ends_streams_at_once(
    settings: Settings, gateway: Gateway, worker: FakeWorker
) -> None:
    web = Web(settings, target=f"127.0.0.1:{gateway.port}")
    await web.start()
    events = EventSource(f"http://127.0.0.1:{web.port}/v1/events")
    async with aclosing(events.messages(reconnect=False)) as messages:
        await take(messages, 1)
        async with asyncio.timeout(DEADLINE_S):
            await web.stop()
            assert [one async for one in messages] == []


@pytest.mark.timeout(240)
async def test_stream_survives_restarts_of_gateway_and_web(
    settings: Settings, worker: FakeWorker
) -> None:
    """An open stream loses and repeats nothing, whichever side restarts."""
    gateway_port, web_port = free_port(), free_port()

    async def start_gateway() -> Gateway:
        address = f"127.0.0.1:{gateway_port}"
        gateway = Gateway(settings.model_copy(update={"gateway_address": address}))
        await gateway.start()
        return gateway

    async def start_web() -> Web:
        web = Web(
            settings.model_copy(update={"web_address": f"127.0.0.1:{web_port}"}),
            target=f"127.0.0.1:{gateway_port}",
        )
        await web.start()
        return web

    gateway, web = await start_gateway(), await start_web()
    url = f"http://127.0.0.1:{web_port}"
    events = EventSource(f"{url}/v1/events")
    submitted: list[str] = []
    received: list[str] = []
    try:
        async with (
            httpx2.AsyncClient(base_url=url, trust_env=False, timeout=30) as http,
            aclosing(events.messages()) as messages,
        ):
            await take(messages, 1)
            for restart in range(6):
                submitted += [await submit(http) for _ in range(3)]
                if restart % 2:
                    await web.stop()
                    web = await start_web()
                else:
                    await gateway.stop()
                    gateway = await start_gateway()
                submitted += [await submit(http) for _ in range(3)]
                while len(received) < len(submitted):
                    [one] = await take(messages, 1)
                    if one.event == "submitted":
                        received.append(one.data["jobId"])
    finally:
        await web.stop()
        await gateway.stop()
    assert received == submitted
    assert events.connects >= 4
