"""The live data of the dashboard."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, aclosing
from typing import Any

import httpx2

from headrace_core.runtime.settings import Settings
from headrace_gateway.service import Gateway
from headrace_standalone.embedded.port import free_port
from headrace_web.service import Web
from support.gateway import FakeWorker
from support.sse import EventSource, SseMessage

DEADLINE_S = 60


def source(http: httpx2.AsyncClient, path: str) -> EventSource:
    return EventSource(str(http.base_url).rstrip("/") + path)


async def submit(http: httpx2.AsyncClient, **fields: object) -> str:
    """Submit a job; return its id."""
    body = {"type": "square_sum", "payload": {"data": []}, **fields}
    response = await http.post("/v1/jobs", json=body)
    assert response.status_code == 201, response.text
    return response.json()["job"]["id"]


async def wait_for(
    messages: AsyncIterator[SseMessage], matches: Callable[[Any], bool]
) -> SseMessage:
    """Return the first message whose data match."""
    async with asyncio.timeout(DEADLINE_S):
        async for message in messages:
            if matches(message.data):
                return message
    raise AssertionError("the feed ended")


def queued(overview: dict[str, Any]) -> int:
    return sum(
        int(each["jobs"]) for each in overview["states"] if each["state"] == "JOB_STATE_QUEUED"
    )


async def test_overview_follows_a_submit(worker: FakeWorker, http: httpx2.AsyncClient) -> None:
    async with aclosing(source(http, "/feed/overview").messages()) as messages:
        first = await wait_for(messages, lambda _: True)
        assert (first.event, queued(first.data)) == ("overview", 0)
        await submit(http)
        await wait_for(messages, lambda overview: queued(overview) == 1)


async def test_page_of_jobs_shows_each_change_once(
    worker: FakeWorker, http: httpx2.AsyncClient
) -> None:
    old = await submit(http)
    async with aclosing(source(http, "/feed/jobs").messages()) as messages:
        first = await wait_for(messages, lambda _: True)
        assert first.data["order"] == [old] == [job["id"] for job in first.data["jobs"]]
        new = await submit(http)
        change = await wait_for(messages, lambda page: page["order"] == [new, old])
        assert [job["id"] for job in change.data["jobs"]] == [new]
        await worker.start_job(old)
        change = await wait_for(messages, lambda page: page["jobs"] != [])
        assert [(job["id"], job["state"]) for job in change.data["jobs"]] == [
            (old, "JOB_STATE_RUNNING")
        ]


async def test_page_of_jobs_follows_its_filter(
    worker: FakeWorker, http: httpx2.AsyncClient
) -> None:
    path = "/feed/jobs?filter=queue%20%3D%20%22red%22&pageSize=2"
    async with aclosing(source(http, path).messages()) as messages:
        first = await wait_for(messages, lambda _: True)
        assert first.data["order"] == []
        await submit(http, queue="blue")
        reds = [await submit(http, queue="red") for _ in range(3)]
        page = await wait_for(messages, lambda page: page["order"] == [reds[2], reds[1]])
        assert page.data["nextPageToken"] != ""


async def test_invalid_filter_is_rejected_before_the_stream(http: httpx2.AsyncClient) -> None:
    response = await http.get("/feed/jobs?filter=colour%20%3D%20red")
    assert response.status_code == 400
    assert response.json()["violations"][0]["field"] == "filter"
    response = await http.get("/feed/jobs?pageSize=0")
    assert response.json()["violations"][0]["field"] == "pageSize"


async def test_workers_show_their_jobs(worker: FakeWorker, http: httpx2.AsyncClient) -> None:
    async with aclosing(source(http, "/feed/workers").messages()) as messages:
        first = await wait_for(messages, lambda _: True)
        assert [each["id"] for each in first.data["workers"]] == [str(worker.id)]
        job_id = await submit(http)
        await worker.start_job(job_id)

        def runs_the_job(workers: dict[str, Any]) -> bool:
            return [each["jobId"] for each in workers["workers"][0]["runningJobs"]] == [job_id]

        await wait_for(messages, runs_the_job)


async def test_browsers_share_one_stream_of_the_gateway(
    worker: FakeWorker, gateway: Gateway, http: httpx2.AsyncClient
) -> None:
    async with AsyncExitStack() as stack:
        feeds = [
            await stack.enter_async_context(aclosing(source(http, path).messages()))
            for path in ("/feed/overview", "/feed/jobs", "/feed/workers") * 5
        ]
        for messages in feeds:
            await wait_for(messages, lambda _: True)
        assert (gateway.gauges.overview_streams, gateway.gauges.filter_streams) == (1, 0)


async def test_feed_survives_a_restart_of_the_gateway(settings: Settings) -> None:
    settings = settings.model_copy(update={"gateway_address": f"127.0.0.1:{free_port()}"})
    gateway = Gateway(settings)
    await gateway.start()
    web = Web(settings, target=settings.gateway_address)
    await web.start()
    try:
        async with (
            httpx2.AsyncClient(
                base_url=f"http://127.0.0.1:{web.port}", timeout=30, trust_env=False
            ) as http,
            aclosing(source(http, "/feed/jobs").messages()) as messages,
        ):
            await wait_for(messages, lambda page: page["order"] == [])
            await gateway.stop()
            gateway = Gateway(settings)
            await gateway.start()
            job_id = await submit(http)
            await wait_for(messages, lambda page: page["order"] == [job_id])
    finally:
        await web.stop()
        await gateway.stop()
