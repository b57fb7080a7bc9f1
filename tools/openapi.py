"""Write the OpenAPI document of the web service; `make gen` runs it.

    python tools/openapi.py DESCRIPTOR_SET > openapi.json

The descriptor set contains the contract with its comments (protoc --include_source_info). The paths
come from the table of the web service's resources.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from google.protobuf.descriptor_pb2 import FileDescriptorSet

from headrace_web.rest.operations import OPERATIONS, Operation, has_documents

PROBLEM = "application/problem+json"
EVENTS = "text/event-stream"
LARGE_INTEGERS = {"TYPE_INT64", "TYPE_UINT64"}
SCALARS = {
    "TYPE_STRING": {"type": "string"},
    "TYPE_BOOL": {"type": "boolean"},
    "TYPE_INT32": {"type": "integer", "format": "int32"},
    "TYPE_UINT32": {"type": "integer", "minimum": 0, "maximum": 2**32 - 1},
    "TYPE_INT64": {"type": "string", "format": "int64", "pattern": "^-?[0-9]+$"},
    "TYPE_UINT64": {"type": "string", "format": "uint64", "pattern": "^[0-9]+$"},
    "TYPE_DOUBLE": {"type": "number"},
    "TYPE_FLOAT": {"type": "number"},
    "TYPE_BYTES": {"type": "string", "contentEncoding": "base64"},
}
WELL_KNOWN = {
    "google.protobuf.Timestamp": {"type": "string", "format": "date-time"},
    "google.protobuf.Duration": {
        "type": "string",
        "pattern": r"^-?[0-9]+(\.[0-9]{1,9})?s$",
        "examples": ["30s"],
    },
    "google.protobuf.Struct": {"type": "object"},
    "google.protobuf.Value": {},
}
DOCUMENT: dict[str, Any] = {"description": "A JSON document, exactly as it is stored."}
FILTER_PARAMETERS = {
    "queue": "Any of these queues.",
    "type": "Any of these types.",
    "state": "Events that lead to any of these states, such as `FAILED`.",
    "label": "All of these labels, each as KEY=VALUE.",
    "jobId": "Any of these jobs.",
}


class Comments:
    """The comments of all messages, fields, enums and RPCs, by full name."""

    def __init__(self, files: FileDescriptorSet) -> None:
        self._texts: dict[str, str] = {}
        names: set[str] = set()
        for file in files.file:
            if file.package != "headrace.v1":
                continue
            paths = dict(self._paths(file))
            for location in file.source_code_info.location:
                name = paths.get(tuple(location.path))
                if name is not None and location.leading_comments:
                    self._texts[name] = location.leading_comments
            names |= {field.name for message in file.message_type for field in message.field}
        self._fields = {name for name in names if "_" in name}

    @staticmethod
    def _paths(file: Any) -> Iterable[tuple[tuple[int, ...], str]]:
        """Yield the path of each element in the source information, and its name."""
        for kind, elements, part, parts in (
            (4, file.message_type, 2, "field"),
            (5, file.enum_type, 2, "value"),
            (6, file.service, 2, "method"),
        ):
            for index, element in enumerate(elements):
                name = f"{file.package}.{element.name}"
                yield (kind, index), name
                for place, one in enumerate(getattr(element, parts)):
                    yield (kind, index, part, place), f"{name}.{one.name}"

    def of(self, name: str) -> str:
        """Return the comment of an element, with field names as in JSON."""
        paragraphs = self._texts.get(name, "").strip().split("\n\n")
        text = "\n\n".join(" ".join(paragraph.split()) for paragraph in paragraphs)
        return re.sub(r"`([a-z0-9_]+)`", self._in_json, text)

    def _in_json(self, match: re.Match[str]) -> str:
        name = match[1]
        return f"`{camel_case(name)}`" if name in self._fields else match[0]


class Schemas:
    """The schemas of messages and enums, added when they are first used."""

    def __init__(self, comments: Comments) -> None:
        self._comments = comments
        self.components: dict[str, Any] = {"Problem": problem_schema()}

    def message(self, descriptor: Any, *, is_input: bool) -> dict[str, Any]:
        """Return a reference to the schema of a message.

        A message has two schemas if requests contain it too: only in responses, all fields without
        presence are there.
        """
        full_name = descriptor.full_name
        if full_name in WELL_KNOWN:
            return WELL_KNOWN[full_name]
        name = descriptor.name + ("Input" if is_input else "")
        if name not in self.components:
            self.components[name] = {}
            self.components[name] |= self.body(descriptor, descriptor.fields, is_input=is_input)
        return {"$ref": f"#/components/schemas/{name}"}

    def body(self, descriptor: Any, fields: Iterable[Any], *, is_input: bool) -> dict[str, Any]:
        """Return the schema of an object with some fields of a message."""
        fields = list(fields)
        schema: dict[str, Any] = {"type": "object"}
        if text := self._comments.of(descriptor.full_name):
            schema["description"] = text
        schema["properties"] = {
            field.json_name: self.field(field, is_input=is_input) for field in fields
        }
        required = [field.json_name for field in fields if not field.has_presence]
        if is_input:
            schema["additionalProperties"] = False
        elif required:
            schema["required"] = required
        return schema

    def field(self, field: Any, *, is_input: bool) -> dict[str, Any]:
        """Return the schema of a field."""
        schema = self._type(field, is_input=is_input)
        text = self._comments.of(field.full_name)
        return {"description": text, **schema} if text else dict(schema)

    def _type(self, field: Any, *, is_input: bool) -> dict[str, Any]:
        kind = field.message_type
        if kind is not None and kind.GetOptions().map_entry:
            values = self._single(kind.fields_by_name["value"], is_input=is_input)
            return {"type": "object", "additionalProperties": values}
        single = self._single(field, is_input=is_input)
        return {"type": "array", "items": single} if field.is_repeated else single

    def _single(self, field: Any, *, is_input: bool) -> dict[str, Any]:
        if has_documents(field):
            return DOCUMENT
        if field.message_type is not None:
            return self.message(field.message_type, is_input=is_input)
        if field.enum_type is not None:
            return self._enum(field.enum_type)
        return SCALARS[FIELD_TYPES[field.type]]

    def _enum(self, descriptor: Any) -> dict[str, Any]:
        texts = (
            f"- `{value.name}`: {self._comments.of(f'{descriptor.full_name}.{value.name}')}"
            for value in descriptor.values
        )
        self.components[descriptor.name] = {
            "type": "string",
            "enum": [value.name for value in descriptor.values],
            "description": "\n".join((self._comments.of(descriptor.full_name), "", *texts)),
        }
        return {"$ref": f"#/components/schemas/{descriptor.name}"}


def field_types() -> dict[int, str]:
    from google.protobuf.descriptor_pb2 import FieldDescriptorProto  # noqa: PLC0415

    return {number: name for name, number in FieldDescriptorProto.Type.items()}


FIELD_TYPES = field_types()


def camel_case(name: str) -> str:
    first, *others = name.split("_")
    return first + "".join(part.capitalize() for part in others)


def problem_schema() -> dict[str, Any]:
    return {
        "type": "object",
        "description": "An error, as in RFC 9457.",
        "required": ["type", "title", "status", "detail", "requestId"],
        "properties": {
            "type": {"type": "string", "examples": ["urn:headrace:error:JOB_NOT_FOUND"]},
            "title": {"type": "string"},
            "status": {"type": "integer"},
            "detail": {"type": "string", "description": "What is wrong, and what to do."},
            "reason": {"type": "string", "description": "A value of `ErrorReason`."},
            "requestId": {"type": "string", "description": "The id in the logs."},
            "metadata": {"type": "object", "additionalProperties": {"type": "string"}},
            "retryAfter": {"type": "number", "description": "Seconds until the next try."},
            "violations": {
                "type": "array",
                "description": "All invalid fields.",
                "items": {
                    "type": "object",
                    "required": ["field", "description"],
                    "properties": {
                        "field": {"type": "string"},
                        "description": {"type": "string"},
                    },
                },
            },
        },
    }


def content(schema: dict[str, Any], media_type: str = "application/json") -> dict[str, Any]:
    return {media_type: {"schema": schema}}


def responses(*successes: tuple[int, str, dict[str, Any]]) -> dict[str, Any]:
    """Return the responses of an operation: its successes, and any error."""
    error = {
        "description": "The request was rejected or has failed.",
        "content": content({"$ref": "#/components/schemas/Problem"}, PROBLEM),
    }
    found = {
        str(status): {"description": text, **({"content": body} if body else {})}
        for status, text, body in successes
    }
    return {**found, "default": error}


def query(name: str, schema: dict[str, Any]) -> dict[str, Any]:
    schema = dict(schema)
    parameter = {"name": name, "in": "query", "schema": schema}
    if text := schema.pop("description", ""):
        parameter["description"] = text
    return parameter


def path_parameters(operation: Operation, schemas: Schemas) -> list[dict[str, Any]]:
    return [
        query(field.json_name, schemas.field(field, is_input=True))
        | {"in": "path", "required": True}
        for field in operation.path_fields()
    ]


def describe(operation: Operation, comments: Comments, schemas: Schemas) -> dict[str, Any]:
    """Return the OpenAPI operation of a resource."""
    method = operation.method.descriptor
    text = comments.of(method.full_name)
    summary, _, rest = text.partition(". ")
    parameters = path_parameters(operation, schemas)
    described: dict[str, Any] = {
        "operationId": operation.name,
        "summary": summary.rstrip("."),
        "description": rest or text,
        "tags": [method.containing_service.name],
    }
    fields = operation.other_fields()
    if operation.http == "GET":
        parameters += [
            query(field.json_name, schemas.field(field, is_input=True)) for field in fields
        ]
    else:
        body = schemas.body(method.input_type, fields, is_input=True)
        if operation.spread:
            spread = method.input_type.fields_by_name[operation.spread].message_type
            inner = schemas.body(spread, spread.fields, is_input=True)
            body["description"] = inner["description"]
            body["properties"] = inner["properties"] | body["properties"]
            parameters.append(query("validateOnly", body["properties"]["validateOnly"]))
        if "requestId" in body["properties"]:
            parameters.append(
                {
                    "name": "Idempotency-Key",
                    "in": "header",
                    "description": "The same as `requestId`.",
                    "schema": {"type": "string"},
                }
            )
        described["requestBody"] = {
            "required": bool(operation.spread) or operation.name.startswith("batch"),
            "content": content(body),
        }
    if parameters:
        described["parameters"] = parameters
    output = method.output_type
    if operation.returns:
        output = output.fields_by_name[operation.returns].message_type
    result = content(schemas.message(output, is_input=False))
    successes = [(200, "The request has succeeded.", result)]
    if "Submit" in method.name:
        successes.append((201, "The request has stored jobs.", result))
    if operation.name in ("listJobEvents", "listJobLogs"):
        result |= content({"type": "string"}, EVENTS)
        parameters.append(last_event_id("The id of the last message received."))
        successes.append((204, "With `text/event-stream`: the stream has ended.", {}))
    described["responses"] = responses(*successes)
    return described


def last_event_id(text: str) -> dict[str, Any]:
    return {
        "name": "Last-Event-ID",
        "in": "header",
        "description": text,
        "schema": {"type": "string"},
    }


def other_paths(schemas: Schemas) -> dict[str, Any]:
    """Return the paths that are not one unary RPC."""
    who = next(one for one in _methods("AccessService") if one.name == "WhoAmI").output_type
    principal = schemas.message(who.fields_by_name["principal"].message_type, is_input=False)
    me = {
        "allOf": [
            principal,
            {
                "type": "object",
                "required": ["tenant", "open"],
                "properties": {
                    "tenant": {"type": "string", "description": "The tenant of the request."},
                    "open": {"type": "boolean", "description": "Whether access control is off."},
                },
            },
        ]
    }
    job_id = {"name": "jobId", "in": "path", "required": True, "schema": {"type": "string"}}
    filters = [
        query(name, {"description": text, "type": "array", "items": {"type": "string"}})
        for name, text in FILTER_PARAMETERS.items()
    ]
    cursor = query("cursor", {"type": "string", "description": "As Last-Event-ID; it wins."})
    return {
        "/v1/me": {
            "get": {
                "operationId": "whoAmI",
                "summary": "Returns the principal of the request",
                "tags": ["AccessService"],
                "responses": responses((200, "The principal.", content(me))),
            }
        },
        "/v1/jobs/{jobId}/result": {
            "get": {
                "operationId": "getJobResult",
                "summary": "Returns the result of a job that has succeeded",
                "tags": ["JobService"],
                "parameters": [job_id],
                "responses": responses((200, "The result.", content(DOCUMENT))),
            }
        },
        "/v1/events": {
            "get": {
                "operationId": "watchJobs",
                "summary": "Streams the events of all jobs that match a filter",
                "description": "Server-Sent Events. The type of a message is that of the event, "
                "its data is a `JobEvent`, and its id resumes the stream after it. `caught_up` "
                "follows the past events, and `problem` precedes the end.",
                "tags": ["JobService"],
                "parameters": [
                    *filters,
                    query("batchId", {"type": "string", "description": "This batch."}),
                    cursor,
                    last_event_id("The id of the last message received."),
                ],
                "responses": responses(
                    (200, "The events.", content({"type": "string"}, EVENTS)),
                ),
            }
        },
    }


def _methods(service: str) -> list[Any]:
    from headrace_web.gateway import services  # noqa: PLC0415

    [found] = [one for one in services() if one.name == service]
    return list(found.methods)


def openapi(files: FileDescriptorSet) -> dict[str, Any]:
    """Return the OpenAPI document."""
    comments = Comments(files)
    schemas = Schemas(comments)
    paths: dict[str, Any] = {}
    for operation in OPERATIONS:
        paths.setdefault(operation.path, {})[operation.http.lower()] = describe(
            operation, comments, schemas
        )
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Headrace",
            "version": "1",
            "description": "Jobs as JSON resources. Payloads, results and output are plain JSON.",
            "license": {"name": "MIT", "identifier": "MIT"},
        },
        "servers": [{"url": "/"}],
        "security": [{}, {"bearer": []}],
        "paths": paths | other_paths(schemas),
        "components": {
            "schemas": dict(sorted(schemas.components.items())),
            "securitySchemes": {
                "bearer": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "An API key or a token.",
                }
            },
        },
    }


if __name__ == "__main__":
    document = openapi(FileDescriptorSet.FromString(Path(sys.argv[1]).read_bytes()))
    json.dump(document, sys.stdout, indent=1, ensure_ascii=False)
    sys.stdout.write("\n")
