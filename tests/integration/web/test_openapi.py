"""The OpenAPI document: it lists each resource, and describes each response."""

from __future__ import annotations

import asyncio
import re
import sys
from importlib.resources import files
from pathlib import Path
from typing import Any

import httpx2
import jsonschema_rs
import pytest
from starlette.routing import Route

from headrace_web.gateway import Gateway as GatewayConnections
from headrace_web.rest.routes import rest_routes
from headrace_web.service import Web
from support.gateway import FakeWorker

# Generated requests of each operation.
EXAMPLES = 4
BIN = Path(sys.executable).parent
DOCUMENT = Path(str(files("headrace_web.rest"))) / "openapi.json"
CHECKS = [
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_schema_conformance",
    "response_headers_conformance",
]


@pytest.fixture
async def openapi(http: httpx2.AsyncClient) -> dict[str, Any]:
    document: dict[str, Any] = (await http.get("/openapi.json")).json()
    return document


async def test_document_is_valid_and_lists_every_route(openapi: dict[str, Any]) -> None:
    routes = rest_routes(GatewayConnections("127.0.0.1:1"), stopping=asyncio.Event())
    served = {
        (route.path, method.lower())
        for route in routes
        if isinstance(route, Route) and route.path.startswith("/v1/")
        for method in route.methods or ()
        if method != "HEAD"
    }
    described = {
        (path, method) for path, operations in openapi["paths"].items() for method in operations
    }
    assert described == served
    operations = [one for each in openapi["paths"].values() for one in each.values()]
    names = [operation["operationId"] for operation in operations]
    assert len(set(names)) == len(names)
    assert all(operation["summary"] for operation in operations)
    for schema in openapi["components"]["schemas"].values():
        jsonschema_rs.validator_for({**schema, "components": openapi["components"]})


def test_field_names_in_descriptions_are_those_of_json() -> None:
    text = DOCUMENT.read_text()
    assert "`nextPageToken`" in text
    assert not re.search(r"`(next_page_token|after_seq|request_id)`", text)


class Validator:
    """Checks responses against the document."""

    def __init__(self, openapi: dict[str, Any], http: httpx2.AsyncClient) -> None:
        self._openapi = openapi
        self._http = http
        self.checked: set[str] = set()

    async def send(self, method: str, path: str, template: str, **options: Any) -> Any:
        """Send a request, check the response, and return its document."""
        response = await self._http.request(method, path, **options)
        operation = self._openapi["paths"][template][method.lower()]
        described = operation["responses"].get(str(response.status_code))
        assert described is not None, (response.status_code, response.text)
        [media_type] = {response.headers["content-type"]} & set(described["content"])
        schema = described["content"][media_type]["schema"]
        components = {"components": self._openapi["components"]}
        jsonschema_rs.validator_for({**schema, **components}).validate(response.json())
        self.checked.add(operation["operationId"])
        return response.json()


async def test_responses_match_their_schemas(
    worker: FakeWorker, http: httpx2.AsyncClient, openapi: dict[str, Any]
) -> None:
    validator = Validator(openapi, http)
    send = validator.send
    job = {
        "type": "square_sum",
        "payload": {"data": [1]},
        "timeout": "2.5s",
        "labels": {"team": "ml"},
        "retryPolicy": {"maxAttempts": 2},
        "scheduleTime": "2020-01-01T00:00:00Z",
    }
    batch = await send("POST", "/v1/jobs:batch", "/v1/jobs:batch", json={"jobs": [job, job]})
    await send("GET", f"/v1/jobs/{batch['jobs'][0]['id']}", "/v1/jobs/{jobId}")
    job_id = (await send("POST", "/v1/jobs", "/v1/jobs", json=job))["job"]["id"]
    path, template = f"/v1/jobs/{job_id}", "/v1/jobs/{jobId}"
    await send("POST", f"{path}:cancel", f"{template}:cancel", json={"reason": "r"})
    await send("POST", f"{path}:retry", f"{template}:retry")
    await worker.start_job(job_id)
    await worker.report(job_id, output='"piece"')
    await worker.succeed(job_id, "[1]")
    for suffix in ("", "/events", "/output", "/logs", "/result"):
        await send("GET", path + suffix, template + suffix)
    for resource in ("jobs", "stats", "handlers", "workers", "queues", "history", "me"):
        await send("GET", f"/v1/{resource}", f"/v1/{resource}")
    # Errors match the schema too.
    problem = openapi["components"]["schemas"]["Problem"]
    missing = await http.get("/v1/jobs/01920000-0000-7000-8000-000000000000")
    jsonschema_rs.validator_for(problem).validate(missing.json())
    operations = [one for each in openapi["paths"].values() for one in each.values()]
    names = {operation["operationId"] for operation in operations}
    assert validator.checked == names - {"watchJobs"}


@pytest.mark.timeout(300)
async def test_generated_requests_cause_no_server_error(
    worker: FakeWorker, web: Web, tmp_path: Path
) -> None:
    process = await asyncio.create_subprocess_exec(
        *(BIN / "schemathesis", "run", str(DOCUMENT), "--url", f"http://127.0.0.1:{web.port}"),
        *("--checks", ",".join(CHECKS), "--max-examples", str(EXAMPLES)),
        *("--phases", "examples,coverage,fuzzing", "--generation-deterministic"),
        # The stream has no end.
        *("--exclude-path", "/v1/events", "--warnings", "off", "--no-color"),
        *("--request-timeout", "60", "--report-json-path", str(tmp_path / "report.json")),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        cwd=tmp_path,
    )
    output, _ = await process.communicate()
    assert process.returncode == 0, output.decode()
    cases = re.search(rb"(\d+) generated", output)
    assert cases is not None, output.decode()
    assert int(cases[1]) >= 150
