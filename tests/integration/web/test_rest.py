"""The resources under /v1: submit, read, cancel and retry jobs as plain JSON."""

from __future__ import annotations

import json

import httpx2
import pytest

from headrace_gateway.service import Gateway
from support.gateway import FakeWorker

JSON = {"content-type": "application/json"}


async def submit(http: httpx2.AsyncClient, **fields: object) -> dict:
    """Submit a job; return its document."""
    response = await http.post("/v1/jobs", json={"type": "square_sum", **fields})
    assert response.status_code == 201, response.text
    return response.json()["job"]


async def test_submitted_job_has_a_location(worker: FakeWorker, http: httpx2.AsyncClient) -> None:
    response = await http.post(
        "/v1/jobs",
        json={
            "type": "square_sum",
            "payload": {"data": [1, 2, 3]},
            "priority": 3,
            "labels": {"team": "ml"},
            "timeout": "30s",
            "retryPolicy": {"maxAttempts": 2},
        },
    )
    assert response.status_code == 201
    assert response.json()["outcome"] == "SUBMIT_OUTCOME_CREATED"
    job = (await http.get(response.headers["location"])).json()
    assert (job["state"], job["queue"]) == ("JOB_STATE_QUEUED", "math")
    assert (job["priority"], job["labels"]) == (3, {"team": "ml"})
    assert (job["timeout"], job["retryPolicy"]["maxAttempts"]) == ("30s", 2)
    assert job["payload"] == {"data": [1, 2, 3]}
    assert job["attempt"] == 0


async def test_documents_are_exact(worker: FakeWorker, http: httpx2.AsyncClient) -> None:
    payload = '{"data": [9007199254740993, 123456789012345678901], "scale": 1.0}'
    response = await http.post(
        "/v1/jobs", content=f'{{"type": "square_sum", "payload": {payload}}}', headers=JSON
    )
    job_id = response.json()["job"]["id"]
    await worker.start_job(job_id)
    await worker.succeed(job_id, "12345678901234567890123")
    text = (await http.get(f"/v1/jobs/{job_id}")).text
    assert "[9007199254740993, 123456789012345678901]" in text.replace(",1", ", 1")
    assert '"result":12345678901234567890123' in text
    result = await http.get(f"/v1/jobs/{job_id}/result")
    assert result.text == "12345678901234567890123"
    assert result.headers["content-type"] == "application/json"


async def test_idempotency_key_returns_the_same_job(
    worker: FakeWorker, http: httpx2.AsyncClient
) -> None:
    body = {"type": "square_sum", "payload": {"data": []}}
    first = await http.post("/v1/jobs", json=body, headers={"idempotency-key": '"order-17"'})
    again = await http.post("/v1/jobs", json={**body, "requestId": "order-17"})
    assert (first.status_code, again.status_code) == (201, 200)
    assert first.json()["job"]["id"] == again.json()["job"]["id"]
    other = await http.post(
        "/v1/jobs", json={**body, "priority": 1}, headers={"idempotency-key": "order-17"}
    )
    assert other.status_code == 409
    assert other.json()["reason"] == "REQUEST_ID_CONFLICT"
    assert other.json()["metadata"]["job_id"] == first.json()["job"]["id"]
    differing = await http.post(
        "/v1/jobs", json={**body, "requestId": "a"}, headers={"idempotency-key": "b"}
    )
    assert differing.status_code == 400


async def test_validation_stores_no_job(worker: FakeWorker, http: httpx2.AsyncClient) -> None:
    body = {"type": "square_sum", "payload": {"data": []}}
    response = await http.post("/v1/jobs?validateOnly=true", json=body)
    assert (response.status_code, response.json()["outcome"]) == (200, "SUBMIT_OUTCOME_WOULD_RUN")
    assert "location" not in response.headers
    assert (await http.get("/v1/jobs")).json() == {"jobs": [], "nextPageToken": ""}


async def test_batch_is_stored_and_listed_by_page(
    worker: FakeWorker, http: httpx2.AsyncClient
) -> None:
    jobs = [{"type": "square_sum", "payload": {"data": [n]}} for n in range(5)]
    response = await http.post("/v1/jobs:batch", json={"jobs": jobs, "requestId": "b1"})
    assert response.status_code == 201
    batch = response.json()
    assert len(batch["jobs"]) == 5
    found: list[str] = []
    query = {"filter": f'batch_id = "{batch["batchId"]}"', "pageSize": 2, "view": "full"}
    while True:
        page = (await http.get("/v1/jobs", params=query)).json()
        found += [job["id"] for job in page["jobs"]]
        assert all("payload" in job for job in page["jobs"])
        if not page["nextPageToken"]:
            break
        query["pageToken"] = page["nextPageToken"]
    assert found == [job["id"] for job in reversed(batch["jobs"])]


async def test_cancelled_job_can_be_retried(worker: FakeWorker, http: httpx2.AsyncClient) -> None:
    job = await submit(http, payload={"data": []})
    cancelled = await http.post(f"/v1/jobs/{job['id']}:cancel", json={"reason": "wrong input"})
    assert cancelled.json()["state"] == "JOB_STATE_CANCELLED"
    retried = await http.post(f"/v1/jobs/{job['id']}:retry")
    assert retried.json()["state"] == "JOB_STATE_QUEUED"
    again = await http.post(f"/v1/jobs/{job['id']}:retry")
    assert again.status_code == 409
    assert again.json()["metadata"]["allowed"] == "FAILED, CANCELLED"
    events = (await http.get(f"/v1/jobs/{job['id']}/events")).json()["events"]
    assert [event["type"].removeprefix("JOB_EVENT_TYPE_") for event in events] == [
        "SUBMITTED",
        "CANCELLED",
        "REQUEUED",
    ]
    assert events[1]["reason"] == "wrong input"


async def test_output_and_result_of_a_job(worker: FakeWorker, http: httpx2.AsyncClient) -> None:
    job = await submit(http, payload={"data": []})
    early = await http.get(f"/v1/jobs/{job['id']}/result")
    assert early.status_code == 409
    assert early.json()["metadata"]["state"] == "QUEUED"
    await worker.start_job(job["id"])
    await worker.report(job["id"], output='{"token": "a"}')
    await worker.fail(job["id"])
    pieces = (await http.get(f"/v1/jobs/{job['id']}/output")).json()["pieces"]
    assert [piece["output"] for piece in pieces] == [{"token": "a"}]
    failed = (await http.get(f"/v1/jobs/{job['id']}/result")).json()
    assert (failed["status"], failed["metadata"]["state"]) == (409, "FAILED")


async def test_platform_resources(worker: FakeWorker, http: httpx2.AsyncClient) -> None:
    await submit(http, payload={"data": []})
    stats = (await http.get("/v1/stats")).json()
    assert stats["states"] == [{"state": "JOB_STATE_QUEUED", "jobs": "1"}]
    [handler] = (await http.get("/v1/handlers")).json()["handlers"]
    assert handler["payloadSchema"]["required"] == ["data"]
    me = (await http.get("/v1/me")).json()
    assert (me["name"], me["tenant"], me["open"]) == ("anonymous", "default", True)
    assert "jobs:read" in me["rights"]
    assert len((await http.get("/v1/workers")).json()["workers"]) == 1
    assert [one["queue"] for one in (await http.get("/v1/queues")).json()["queues"]] == ["math"]


@pytest.mark.parametrize(
    ("body", "field", "description"),
    [
        ('{"type": "square_sum", "payload": {"data": ["x"]}}', "job.payload.data[0]", "integer"),
        ('{"type": "square_sum", "tpye": 1}', "tpye", "is unknown; use "),
        ('{"type": "square_sum", "priority": "high"}', "priority", ""),
        ('{"type": "square_sum", "deadline": "tomorrow"}', "deadline", ""),
        ('{"type": 7}', "type", ""),
    ],
)
async def test_invalid_field_is_named(
    worker: FakeWorker, http: httpx2.AsyncClient, body: str, field: str, description: str
) -> None:
    response = await http.post("/v1/jobs", content=body, headers=JSON)
    problem = response.json()
    assert (response.status_code, problem["status"]) == (400, 400)
    assert problem["type"] == f"urn:headrace:error:{problem['reason']}"
    assert [one["field"] for one in problem["violations"]] == [field]
    assert description in problem["violations"][0]["description"]


@pytest.mark.parametrize("body", ["", "[]", "{", '"text"', "\x00", '{"a": NaN}', "[" * 100_000])
async def test_malformed_body_is_rejected(http: httpx2.AsyncClient, body: str) -> None:
    response = await http.post("/v1/jobs", content=body, headers=JSON)
    assert response.status_code == 400, response.text
    assert response.json()["reason"] == "INVALID_ARGUMENT"


async def test_body_without_json_type_is_rejected(http: httpx2.AsyncClient) -> None:
    # A page of another site can send these types without a preflight request.
    for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data"):
        response = await http.post("/v1/jobs", content="{}", headers={"content-type": kind})
        assert response.status_code == 415
    job_id = "01920000-0000-7000-8000-000000000000"
    form = await http.post(f"/v1/jobs/{job_id}:cancel", headers={"content-type": "text/plain"})
    assert form.status_code == 415


@pytest.mark.parametrize(
    ("path", "field"),
    [
        ("/v1/jobs?pageSize=x", "pageSize"),
        ("/v1/jobs?pageSize=9999999999", "pageSize"),
        ("/v1/jobs?view=huge", "view"),
        ("/v1/jobs?page_size=1", "page_size"),
        ("/v1/jobs/01920000-0000-7000-8000-000000000000/events?afterSeq=-", "afterSeq"),
        ("/v1/events?state=DONE", "state"),
        ("/v1/events?label=team", "label"),
        ("/v1/history?range=1h", "range"),
        ("/v1/events?filter=x", "filter"),
    ],
)
async def test_invalid_parameter_is_named(http: httpx2.AsyncClient, path: str, field: str) -> None:
    response = await http.get(path)
    assert response.status_code == 400
    assert [one["field"] for one in response.json()["violations"]] == [field]


async def test_unknown_job_is_not_found(http: httpx2.AsyncClient) -> None:
    job_id = "01920000-0000-7000-8000-000000000000"
    response = await http.get(f"/v1/jobs/{job_id}")
    assert response.status_code == 404
    assert response.json()["reason"] == "JOB_NOT_FOUND"
    assert response.json()["metadata"] == {"job_id": job_id}


async def test_stopped_gateway_is_unavailable(gateway: Gateway, http: httpx2.AsyncClient) -> None:
    await gateway.stop()
    response = await http.get("/v1/stats")
    assert response.status_code == 503
    assert json.loads(response.text)["reason"] in {"UNAVAILABLE", "SHUTTING_DOWN"}
    assert "127.0.0.1" not in response.text
