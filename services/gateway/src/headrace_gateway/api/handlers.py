"""The handlers of live workers, as far as a submit needs them: queue and payload schema."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from typing import Any, Final

import jsonschema_rs
import msgspec
import structlog

from headrace_core.domain.errors import HeadraceError, Violation
from headrace_core.domain.handler import VALUE_KEYWORD
from headrace_core.domain.job import JsonText
from headrace_core.runtime.tasks import end_tasks
from headrace_core.store.sql.database import Database
from headrace_core.store.workers import live_handlers
from headrace_core.wake import Listener
from headrace_gateway.api.values import ValueKeyword, bounded

_log = structlog.get_logger()

# Seconds after which what is known is read again, rung or not.
MAX_AGE: Final = 2.0
# Seconds after which a tenant that submits nothing is forgotten.
_IDLE: Final = 60.0
# How many violations of one payload are told.
_MAX_VIOLATIONS: Final = 20


@dataclass(frozen=True, slots=True)
class KnownHandler:
    """A type that a live worker runs."""

    type: str
    queue: str
    payload_schema: JsonText

    def takes(self, payload: Any) -> bool:
        """Whether a payload (as Python's objects) keeps to the schema."""
        validator = _validator(self.payload_schema)
        return validator is None or validator.is_valid(payload)

    def violations(self, payload: Any, path: str) -> Iterator[Violation]:
        """Where a payload (as Python's objects) breaks the schema, up to a bound.

        What a violation says never quotes the payload.
        """
        validator = _validator(self.payload_schema)
        if validator is None:
            return
        for error in islice(validator.iter_errors(payload), _MAX_VIOLATIONS):
            yield Violation(path + _path(error.instance_path), error.message)


@dataclass(slots=True)
class _Tenant:
    handlers: Mapping[str, KnownHandler]
    used: float


class HandlerCache:
    """Live handlers by tenant, at most about two seconds old.

    Only tenants that submit are kept up to date.

    Args:
        database: where workers are registered.
        listener: rings when a registration changes.
    """

    def __init__(self, *, database: Database, listener: Listener) -> None:
        self._database = database
        self._listener = listener
        self._tenants: dict[str, _Tenant] = {}
        self._loop: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Begins to follow the registrations."""
        self._loop = asyncio.create_task(self._run(), name="handlers")

    async def stop(self) -> None:
        """Ends that."""
        if self._loop is not None:
            await end_tasks(self._loop, within=5)
            self._loop = None

    async def of(self, tenant: str) -> Mapping[str, KnownHandler]:
        """A tenant's handlers by type.

        Raises:
            Unavailable: they are not known yet and the database cannot be asked.
        """
        known = self._tenants.get(tenant)
        if known is None:
            handlers = await self._read(tenant)
            known = self._tenants[tenant] = _Tenant(handlers, 0.0)
        known.used = time.monotonic()
        return known.handlers

    async def run_once(self) -> None:
        """Reads the handlers of all tenants in use again."""
        idle = time.monotonic() - _IDLE
        for tenant, known in list(self._tenants.items()):
            if known.used < idle:
                del self._tenants[tenant]
            else:
                known.handlers = await self._read(tenant)

    async def _read(self, tenant: str) -> Mapping[str, KnownHandler]:
        async with self._database.statement() as conn:
            live = await live_handlers(conn, tenant=tenant)
        return {
            handler.spec.type: KnownHandler(
                handler.spec.type, handler.spec.queue, handler.spec.payload_schema
            )
            for handler in live
        }

    async def _run(self) -> None:
        while True:
            await self._listener.wait(MAX_AGE)
            try:
                await self.run_once()
            except HeadraceError as error:
                # What was known stays in use; without the database no submit succeeds anyway.
                _log.warning("handlers_not_read", error=str(error))
            except Exception:  # noqa: BLE001 - nobody would notice that it has ended
                _log.exception("handlers_not_read")


@lru_cache(maxsize=1024)
def _validator(schema: JsonText) -> jsonschema_rs.Validator | None:
    """The compiled schema; None when it is not a schema, so that jobs of its type go unchecked."""
    try:
        return jsonschema_rs.validator_for(
            bounded(msgspec.json.decode(schema)),
            keywords={VALUE_KEYWORD: ValueKeyword},
            # A schema comes from a worker: it shall not make the gateway call anybody.
            offline=True,
            mask="the value",
        )
    except (ValueError, msgspec.MsgspecError, RecursionError) as error:
        _log.warning("payload_schema_invalid", error=type(error).__name__)
        return None


def _path(steps: list[str | int]) -> str:
    return "".join(
        f".{step}"
        if isinstance(step, str) and step.isidentifier()
        else f"[{step}]"
        if isinstance(step, int)
        else f"[{msgspec.json.encode(step).decode()}]"
        for step in steps
    )
