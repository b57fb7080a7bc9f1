"""The RPCs over HTTP: Connect with JSON and binary messages, and gRPC-Web."""

from __future__ import annotations

import asyncio
import base64
import json
import struct
from collections.abc import AsyncIterator, Iterator

import httpx2
import pytest
from google.protobuf.message import Message
from google.rpc import error_details_pb2

from headrace.v1 import data_pb2, job_pb2, job_service_pb2
from headrace_core.runtime.settings import Settings
from headrace_gateway.service import Gateway
from headrace_web.gateway import METHODS
from headrace_web.service import Web
from support.gateway import FakeWorker

JOBS = "/headrace.v1.JobService"
DEADLINE_S = 60
# Flags of the messages that end a stream, in Connect and in gRPC-Web.
CONNECT_END, TRAILERS = 0x02, 0x80


def submit_request(**fields: object) -> job_service_pb2.SubmitJobRequest:
    return job_service_pb2.SubmitJobRequest(
        job=job_pb2.JobSpec(type="square_sum", payload=data_pb2.Data(json=b'{"data": []}')),
        **fields,
    )


def envelope(message: bytes) -> bytes:
    return struct.pack(">BI", 0, len(message)) + message


def envelopes(body: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield the flags and the content of each message of a stream."""
    while body:
        flags, length = struct.unpack(">BI", body[:5])
        yield flags, body[5 : 5 + length]
        body = body[5 + length :]


async def submit(http: httpx2.AsyncClient) -> str:
    """Submit a job; return its id."""
    response = await http.post(
        f"{JOBS}/SubmitJob",
        json={"job": {"type": "square_sum", "payload": {"value": {"data": []}}}},
    )
    assert response.status_code == 200, response.text
    return response.json()["job"]["id"]


def test_every_rpc_has_a_route() -> None:
    assert f"{JOBS}/SubmitJob" in METHODS
    assert {path.split("/")[1] for path in METHODS} >= {
        f"headrace.v1.{name}Service"
        for name in (
            "Access",
            "Audit",
            "Handler",
            "Job",
            "Session",
            "Subscription",
            "Tenant",
            "User",
        )
    }


async def test_unary_call_with_json(worker: FakeWorker, http: httpx2.AsyncClient) -> None:
    response = await http.post(
        f"{JOBS}/SubmitJob",
        json={"job": {"type": "square_sum", "payload": {"value": {"data": [1]}}, "future": 1}},
        headers={"connect-protocol-version": "1"},
    )
    assert response.headers["content-type"] == "application/json"
    assert response.json()["outcome"] == "SUBMIT_OUTCOME_CREATED"
    assert "retriesUsed" not in response.json()["job"]
    job_id = response.json()["job"]["id"]
    job = (await http.post(f"{JOBS}/GetJob", json={"jobId": job_id})).json()["job"]
    assert job["payload"] == {"value": {"data": [1]}}


async def test_unary_call_with_binary_messages(
    worker: FakeWorker, http: httpx2.AsyncClient
) -> None:
    response = await http.post(
        f"{JOBS}/SubmitJob",
        content=submit_request().SerializeToString(),
        headers={"content-type": "application/proto"},
    )
    stored = job_service_pb2.SubmitJobResponse.FromString(response.content)
    assert stored.job.state == job_pb2.JOB_STATE_QUEUED


async def test_reading_call_by_get(worker: FakeWorker, http: httpx2.AsyncClient) -> None:
    job_id = await submit(http)
    query = {"encoding": "json", "message": json.dumps({"jobId": job_id}), "connect": "v1"}
    response = await http.get(f"{JOBS}/GetJob", params=query)
    assert response.json()["job"]["id"] == job_id
    # A GET cannot change anything, so a link cannot either.
    query["message"] = json.dumps({"jobId": job_id})
    assert (await http.get(f"{JOBS}/CancelJob", params=query)).status_code == 405


async def test_error_has_code_message_and_details(
    worker: FakeWorker, http: httpx2.AsyncClient
) -> None:
    response = await http.post(
        f"{JOBS}/SubmitJob", json={"job": {"type": "square_sum", "payload": {"value": {}}}}
    )
    assert response.status_code == 400
    error = response.json()
    assert error["code"] == "invalid_argument"
    details = {detail["type"]: detail for detail in error["details"]}
    assert details["google.rpc.ErrorInfo"]["debug"]["reason"] == "PAYLOAD_INVALID"
    packed = base64.b64decode(details["google.rpc.BadRequest"]["value"] + "==")
    [violation] = error_details_pb2.BadRequest.FromString(packed).field_violations
    assert violation.field == "job.payload"
    assert details["google.rpc.BadRequest"]["debug"]["fieldViolations"][0]["field"] == "job.payload"


async def test_entries_of_one_call_have_their_own_results(
    worker: FakeWorker, http: httpx2.AsyncClient
) -> None:
    payloads: list[object] = [{"data": [1]}, {}]
    jobs = [{"type": "square_sum", "payload": {"value": payload}} for payload in payloads]
    response = await http.post(
        f"{JOBS}/SubmitJobs", json={"entries": [{"request": {"job": job}} for job in jobs]}
    )
    assert response.status_code == 200, response.text
    created, invalid = response.json()["results"]
    assert created["response"]["outcome"] == "SUBMIT_OUTCOME_CREATED"
    assert invalid["error"]["code"] == 3
    info, bad = invalid["error"]["details"]
    assert info["@type"] == "type.googleapis.com/google.rpc.ErrorInfo"
    assert info["reason"] == "PAYLOAD_INVALID"
    assert [violation["field"] for violation in bad["fieldViolations"]] == ["job.payload"]


async def connect_stream(
    http: httpx2.AsyncClient, method: str, request: Message | dict, *, kind: str
) -> AsyncIterator[tuple[int, bytes]]:
    """Yield the messages of a Connect stream as they arrive."""
    body = (
        json.dumps(request).encode() if isinstance(request, dict) else request.SerializeToString()
    )
    buffer = b""
    async with http.stream(
        "POST",
        f"{JOBS}/{method}",
        content=envelope(body),
        headers={"content-type": f"application/connect+{kind}"},
    ) as response:
        assert response.status_code == 200
        async for chunk in response.aiter_raw():
            buffer += chunk
            while len(buffer) >= 5 and len(buffer) >= 5 + struct.unpack(">I", buffer[1:5])[0]:
                length = struct.unpack(">I", buffer[1:5])[0]
                yield buffer[0], buffer[5 : 5 + length]
                buffer = buffer[5 + length :]


async def test_stream_with_json_ends_after_the_job(
    worker: FakeWorker, http: httpx2.AsyncClient
) -> None:
    job_id = await submit(http)
    stream = connect_stream(http, "WatchJob", {"jobId": job_id}, kind="json")
    async with asyncio.timeout(DEADLINE_S):
        flags, first = await anext(stream)
        assert (flags, json.loads(first)["events"][0]["seq"]) == (0, "1")
        await worker.start_job(job_id)
        await worker.succeed(job_id)
        rest = [one async for one in stream]
    seqs = [event["seq"] for _, text in rest[:-1] for event in json.loads(text).get("events", [])]
    assert seqs == ["2", "3"]
    assert rest[-1] == (CONNECT_END, b"{}")


async def test_error_of_a_stream_is_its_last_message(http: httpx2.AsyncClient) -> None:
    job_id = "01920000-0000-7000-8000-000000000000"
    request = job_service_pb2.WatchJobRequest(job_id=job_id)
    [(flags, end)] = [one async for one in connect_stream(http, "WatchJob", request, kind="proto")]
    assert flags == CONNECT_END
    error = json.loads(end)["error"]
    assert (error["code"], error["details"][0]["debug"]["reason"]) == ("not_found", "JOB_NOT_FOUND")


async def test_grpc_web_call_and_error(worker: FakeWorker, http: httpx2.AsyncClient) -> None:
    headers = {"content-type": "application/grpc-web+proto", "x-grpc-web": "1"}
    response = await http.post(
        f"{JOBS}/SubmitJob",
        content=envelope(submit_request().SerializeToString()),
        headers=headers,
    )
    [(flags, message), (end, trailers)] = envelopes(response.content)
    assert (flags, end) == (0, TRAILERS)
    assert job_service_pb2.SubmitJobResponse.FromString(message).job.id
    assert b"grpc-status: 0" in trailers.lower()
    failed = await http.post(f"{JOBS}/GetJob", content=envelope(b""), headers=headers)
    assert "grpc-status-details-bin" in failed.headers or b"details-bin" in failed.content


async def test_native_grpc_is_refused_with_a_reason(http: httpx2.AsyncClient) -> None:
    response = await http.post(
        f"{JOBS}/GetJob", content=envelope(b""), headers={"content-type": "application/grpc"}
    )
    assert response.status_code == 415
    assert "call the gateway" in response.json()["detail"]
    plain = await http.post(f"{JOBS}/GetJob", content="{}", headers={"content-type": "text/plain"})
    assert plain.status_code == 415


@pytest.mark.parametrize("body", ["{", "[]", '{"job": 1}', "\x00"])
async def test_malformed_message_is_rejected(http: httpx2.AsyncClient, body: str) -> None:
    response = await http.post(
        f"{JOBS}/SubmitJob", content=body, headers={"content-type": "application/json"}
    )
    assert (response.status_code, response.json()["code"]) == (400, "invalid_argument")


async def test_stopping_service_ends_a_stream_as_unavailable(
    settings: Settings, gateway: Gateway, worker: FakeWorker
) -> None:
    web = Web(settings, target=f"127.0.0.1:{gateway.port}")
    await web.start()
    async with httpx2.AsyncClient(
        base_url=f"http://127.0.0.1:{web.port}", timeout=DEADLINE_S, trust_env=False
    ) as http:
        stream = connect_stream(http, "WatchJobs", {}, kind="json")
        async with asyncio.timeout(DEADLINE_S):
            assert "cursor" in json.loads((await anext(stream))[1])
            stopping = asyncio.create_task(web.stop())
            [(flags, end)] = [one async for one in stream]
            await stopping
    assert flags == CONNECT_END
    error = json.loads(end)["error"]
    assert error["details"][0]["debug"]["reason"] == "SHUTTING_DOWN"
    assert error["code"] == "unavailable"


async def test_unavailable_gateway_reveals_no_address(
    gateway: Gateway, http: httpx2.AsyncClient
) -> None:
    await gateway.stop()
    response = await http.post(f"{JOBS}/GetStats", json={})
    assert (response.status_code, response.json()["code"]) == (503, "unavailable")
    assert "127.0.0.1" not in response.text
