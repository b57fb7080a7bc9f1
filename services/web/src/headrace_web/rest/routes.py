"""The routes of the resources."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Coroutine
from http import HTTPStatus
from importlib.resources import files
from typing import Any, Final, TypeAlias

from google.protobuf import json_format
from google.protobuf.descriptor import EnumDescriptor, FieldDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from grpc.aio import AioRpcError
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from headrace.v1 import access_service_pb2, data_pb2, job_pb2, job_service_pb2
from headrace_web.credentials import request_metadata, stream_metadata
from headrace_web.gateway import Gateway, Method
from headrace_web.problems import Problem, problem_of, refusal_of
from headrace_web.rest.documents import document, encode, fill, parse_array, parse_object
from headrace_web.rest.events import JobEvents, JobLogs, JobsEvents, job_filter
from headrace_web.rest.operations import OPERATIONS, Operation, method_of
from headrace_web.rest.sse import MEDIA_TYPE as EVENT_STREAM
from headrace_web.rest.sse import open_stream

Endpoint: TypeAlias = Callable[[Request], Coroutine[Any, Any, Response]]

# The deadline of a call, in seconds; the same as that of the Python client.
_TIMEOUT_S: Final = 10.0
_DOCUMENT: Final = files("headrace_web.rest") / "openapi.json"
_JSON: Final = "application/json"
_IDEMPOTENCY_KEY: Final = "idempotency-key"
_LAST_EVENT_ID: Final = "last-event-id"
_INTEGER: Final = re.compile(r"-?\d{1,18}").fullmatch
_BOOLEANS: Final = {"true": True, "false": False}


def rest_routes(gateway: Gateway, *, stopping: asyncio.Event) -> list[Route]:
    """Return the routes of all resources.

    Args:
        gateway: the gateway.
        stopping: set when the service stops; event streams then end.
    """
    resources = Resources(gateway, stopping)
    endpoints = {operation.name: resources.endpoint(operation) for operation in OPERATIONS}
    endpoints["listJobEvents"] = resources.job_stream(
        endpoints["listJobEvents"], JobEvents, parameter="afterSeq"
    )
    endpoints["listJobLogs"] = resources.job_stream(
        endpoints["listJobLogs"], JobLogs, parameter="afterPosition"
    )
    return [
        # The path of a job must not swallow its actions.
        Route("/openapi.json", _openapi, methods=["GET"]),
        Route("/v1/events", resources.events, methods=["GET"]),
        Route("/v1/jobs/{jobId}/result", resources.result, methods=["GET"]),
        Route("/v1/me", resources.me, methods=["GET"]),
        *(
            Route(operation.path, endpoints[operation.name], methods=[operation.http])
            for operation in OPERATIONS
        ),
    ]


class Resources:
    """The endpoints.

    Args:
        gateway: the gateway.
        stopping: set when the service stops.
    """

    def __init__(self, gateway: Gateway, stopping: asyncio.Event) -> None:
        self._gateway = gateway
        self._stopping = stopping

    def endpoint(self, operation: Operation) -> Endpoint:
        """Return the endpoint of an operation."""
        method = operation.method
        query = {field.json_name: field for field in operation.other_fields()}

        async def serve(request: Request) -> Response:
            message = method.request_type()
            if operation.http == "GET":
                _read_query(message, request, query)
            else:
                _read_body(operation, message, request, await _body(request))
            for field in operation.path_fields():
                setattr(message, field.name, request.path_params[field.json_name])
            response = await self._call(request, method, message)
            return _answer(operation, response)

        return serve

    def job_stream(
        self, page: Endpoint, feed_type: type[JobEvents | JobLogs], *, parameter: str
    ) -> Endpoint:
        """Return an endpoint that answers with a page, or with a stream if the caller accepts one.

        Args:
            page: the endpoint of the page.
            feed_type: the feed of the stream.
            parameter: the query parameter with the number after which both continue.
        """

        async def serve(request: Request) -> Response:
            if not _accepts_events(request):
                return await page(request)
            after = _event_id(request, parameter) or "0"
            if not _INTEGER(after):
                raise _bad_query(parameter, f"{after!r} is not a number")
            feed = feed_type(
                self._follow(request, endless=False),
                job_id=request.path_params["jobId"],
                after=int(after),
            )
            return await open_stream(feed, request=request, stopping=self._stopping)

        return serve

    async def events(self, request: Request) -> Response:
        """Stream the events of all jobs that match a filter."""
        cursor = _event_id(request, "cursor")
        feed = JobsEvents(
            self._follow(request, endless=True),
            matching=job_filter(request.query_params),
            last_event_id=cursor,
        )
        return await open_stream(feed, request=request, stopping=self._stopping)

    async def result(self, request: Request) -> Response:
        """Return the result of a job that has succeeded, and nothing else."""
        job_id = request.path_params["jobId"]
        response = await self._call(
            request, method_of("JobService/GetJob"), job_service_pb2.GetJobRequest(job_id=job_id)
        )
        job = response.job
        if job.state != job_pb2.JOB_STATE_SUCCEEDED:
            state = job_pb2.JobState.Name(job.state).removeprefix("JOB_STATE_")
            raise Problem(
                HTTPStatus.CONFLICT,
                f"job {job_id} is {state}; only a job that has SUCCEEDED has a result",
                reason="STATE_CONFLICT",
                metadata={"job_id": job_id, "state": state, "allowed": "SUCCEEDED"},
            )
        if "result" in job.withheld_fields:
            raise Problem(
                HTTPStatus.FORBIDDEN,
                "the result is withheld; the right payload:read is needed",
                reason="PERMISSION_DENIED",
                metadata={"right": "payload:read"},
            )
        return Response(job.result.json or b"null", media_type=_JSON)

    async def me(self, request: Request) -> Response:
        """Return the principal of the request, its tenant, and whether access control is off."""
        response = await self._call(
            request, method_of("AccessService/WhoAmI"), access_service_pb2.WhoAmIRequest()
        )
        kind = response.principal.kind
        facts = {
            **document(response.principal),
            "tenant": response.tenant,
            "open": kind == access_service_pb2.PRINCIPAL_KIND_ANONYMOUS,
        }
        return Response(encode(facts), media_type=_JSON)

    async def _call(self, request: Request, method: Method, message: Message) -> Any:
        if "data_encoding" in method.descriptor.input_type.fields_by_name:
            message.data_encoding = data_pb2.DATA_ENCODING_JSON  # type: ignore[attr-defined]
        try:
            return await self._gateway.call(
                method, message, metadata=request_metadata(request), timeout=_TIMEOUT_S
            )
        except AioRpcError as error:
            raise problem_of(refusal_of(error)) from None

    def _follow(self, request: Request, *, endless: bool) -> Any:
        return self._gateway.follow(metadata=stream_metadata(request), endless=endless)


def _openapi(_: Request) -> Response:
    """Return the OpenAPI document of these resources."""
    return Response(_DOCUMENT.read_bytes(), media_type=_JSON)


def _answer(operation: Operation, response: Any) -> Response:
    body = getattr(response, operation.returns) if operation.returns else response
    status = HTTPStatus.OK
    headers = {}
    if isinstance(
        response, job_service_pb2.SubmitJobResponse | job_service_pb2.BatchSubmitJobsResponse
    ):
        if response.outcome == job_service_pb2.SUBMIT_OUTCOME_CREATED:
            status = HTTPStatus.CREATED
        if isinstance(response, job_service_pb2.SubmitJobResponse) and response.job.id:
            headers["location"] = f"/v1/jobs/{response.job.id}"
    return Response(encode(document(body)), status_code=status, headers=headers, media_type=_JSON)


async def _body(request: Request) -> bytes:
    """Return the body of a POST.

    Raises:
        Problem: the body is not declared as JSON. A page of another site cannot declare it without
            a preflight request.
    """
    body = await request.body()
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != _JSON and (body or kind):
        raise Problem(
            HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
            f"the content type is {kind or 'missing'}; use {_JSON}",
            headers={"accept-post": _JSON},
        )
    return body


def _read_body(operation: Operation, message: Any, request: Request, body: bytes) -> None:
    fields = parse_object(body) if body else {}
    own = {
        name: field for field in operation.other_fields() for name in (field.json_name, field.name)
    }
    for name, field in own.items():
        if field.is_repeated and name in fields:
            # Each item can contain a document.
            for place, text in enumerate(parse_array(name, fields.pop(name))):
                item = parse_object(bytes(text))
                fill(getattr(message, field.name).add(), item, path=f"{name}[{place}]")
    spread = fields
    if operation.spread:
        spread = {name: text for name, text in fields.items() if name not in own}
        fields = {name: text for name, text in fields.items() if name in own}
        fill(getattr(message, operation.spread), spread)
    fill(message, fields)
    _read_idempotency_key(message, request)
    if operation.spread:
        # `validateOnly` selects what a submit does, so it may be in the URL too.
        flag = request.query_params.get("validateOnly")
        if flag is not None:
            message.validate_only = _boolean("validateOnly", flag)


def _read_idempotency_key(message: Any, request: Request) -> None:
    key = request.headers.get(_IDEMPOTENCY_KEY)
    if key is None or "request_id" not in message.DESCRIPTOR.fields_by_name:
        return
    # A structured string of RFC 9651, or the plain key.
    key = key.strip()
    if len(key) > 1 and key.startswith('"') and key.endswith('"'):
        key = key[1:-1]
    if message.request_id not in ("", key):
        raise Problem(
            HTTPStatus.BAD_REQUEST,
            "the header Idempotency-Key and the field requestId differ; use one of them",
            reason="INVALID_ARGUMENT",
            violations=[{"field": "requestId", "description": "differs from Idempotency-Key"}],
        )
    message.request_id = key


def _read_query(message: Any, request: Request, known: dict[str, FieldDescriptor]) -> None:
    for name, value in request.query_params.multi_items():
        field = known.get(name)
        if field is None:
            names = ", ".join(sorted(known)) or "none"
            raise _bad_query(name, f"is not a parameter of this resource; it has {names}")
        if field.is_repeated:
            getattr(message, field.name).append(_parameter(field, name, value))
        elif field.message_type is not None:
            getattr(message, field.name).CopyFrom(_parameter(field, name, value))
        else:
            setattr(message, field.name, _parameter(field, name, value))


def _parameter(field: FieldDescriptor, name: str, value: str) -> Any:
    if field.message_type is not None:
        message = GetMessageClass(field.message_type)()
        try:
            return json_format.Parse(encode(value), message)
        except (json_format.ParseError, ValueError) as error:
            raise _bad_query(name, str(error).partition("\n")[0]) from None
    if field.enum_type is not None:
        return _enum_number(field.enum_type, name, value)
    match field.cpp_type:
        case FieldDescriptor.CPPTYPE_INT32 | FieldDescriptor.CPPTYPE_INT64:
            bits = 31 if field.cpp_type == FieldDescriptor.CPPTYPE_INT32 else 63
            if not _INTEGER(value) or not -(2**bits) <= int(value) < 2**bits:
                raise _bad_query(name, f"{value!r} is not an integer of {bits + 1} bits")
            return int(value)
        case FieldDescriptor.CPPTYPE_BOOL:
            return _boolean(name, value)
        case _:
            return value


def _enum_number(kind: EnumDescriptor, name: str, value: str) -> int:
    prefix = kind.values[0].name.removesuffix("UNSPECIFIED")
    for candidate in (value, prefix + value.upper()):
        if candidate in kind.values_by_name:
            return int(kind.values_by_name[candidate].number)
    names = ", ".join(one.name.removeprefix(prefix) for one in kind.values[1:])
    raise _bad_query(name, f"{value!r} is unknown; use one of {names}")


def _boolean(name: str, value: str) -> bool:
    if value not in _BOOLEANS:
        raise _bad_query(name, f"{value!r} is not a boolean; use true or false")
    return _BOOLEANS[value]


def _bad_query(name: str, description: str) -> Problem:
    return Problem(
        HTTPStatus.BAD_REQUEST,
        f"{name}: {description}",
        reason="INVALID_ARGUMENT",
        violations=[{"field": name, "description": description}],
    )


def _accepts_events(request: Request) -> bool:
    return EVENT_STREAM in request.headers.get("accept", "")


def _event_id(request: Request, parameter: str) -> str:
    """Return the place after which to continue: of the last event, or else of the URL."""
    # After a reconnect, a browser sends the header along with the URL of the first request.
    return request.headers.get(_LAST_EVENT_ID) or request.query_params.get(parameter, "")
