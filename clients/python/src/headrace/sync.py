"""The synchronous client, which runs the asynchronous client on an event loop in a thread."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from types import TracebackType
from typing import Self, TypeVar

from headrace._batches import MAX_BATCH_JOBS
from headrace._blocking import Blocking, LoopThread, blocking, iterating, wrapping
from headrace._event_stream import EventStream
from headrace._headers import Secret, TokenProvider
from headrace.client import Client
from headrace.event import JobEvent
from headrace.handle import Batch, JobHandle
from headrace.job import Job, JobSpec, JobState, SubmitOutcome
from headrace.subscription_watch import SubscriptionWatch
from headrace.tls import TLS
from headrace.watch import Watch

F = TypeVar("F", bound=EventStream)


class SyncJobHandle(Blocking[JobHandle]):
    """A job that can be watched, awaited, cancelled and retried; see `JobHandle`."""

    @property
    def id(self) -> str:
        return self._inner.id

    @property
    def job(self) -> Job | None:
        return self._inner.job

    @property
    def outcome(self) -> SubmitOutcome | None:
        return self._inner.outcome

    def __repr__(self) -> str:
        return f"<SyncJobHandle {self.id}>"

    watch = iterating(JobHandle.watch)
    output = iterating(JobHandle.output)
    logs = iterating(JobHandle.logs)
    watch_logs = iterating(JobHandle.watch_logs)
    result = blocking(JobHandle.result)
    finished = blocking(JobHandle.finished)
    get = blocking(JobHandle.get)
    cancel = blocking(JobHandle.cancel)
    retry = blocking(JobHandle.retry)


class SyncBatch(Blocking[Batch]):
    """The jobs of one `submit_many`; see `Batch`."""

    @property
    def id(self) -> str:
        return self._inner.id

    @property
    def outcome(self) -> SubmitOutcome:
        return self._inner.outcome

    @functools.cached_property
    def jobs(self) -> tuple[SyncJobHandle, ...]:
        return tuple(SyncJobHandle(job, self._thread) for job in self._inner.jobs)

    def __len__(self) -> int:
        return len(self._inner)

    def __iter__(self) -> Iterator[SyncJobHandle]:
        return iter(self.jobs)

    def __getitem__(self, index: int) -> SyncJobHandle:
        return self.jobs[index]


class _SyncEventStream(Blocking[F]):
    """The events of many jobs on one stream. Close it, or use it with `with`."""

    @property
    def cursor(self) -> str:
        return self._inner.cursor

    @property
    def caught_up(self) -> bool:
        return self._inner.caught_up

    @property
    def resumes(self) -> int:
        return self._inner.resumes

    def __enter__(self) -> Self:
        self._thread.run(self._inner.__aenter__())
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> JobEvent:
        # Take the event in this thread, so the event counts as yielded only when this method
        # returns it. After a Ctrl-C during the wait, the next call returns the event.
        while self._thread.run(self._inner.wait_for_event()):
            try:
                return self._inner.take_event()
            except IndexError:
                # Another thread has taken the event or ended the stream.
                continue
        raise StopIteration

    def close(self) -> None:
        """End the stream."""
        self._thread.run(self._inner.aclose())


class SyncWatch(_SyncEventStream[Watch]):
    """The events of all jobs that match a filter; see `Watch`. Close it, or use it with `with`."""


class SyncSubscriptionWatch(_SyncEventStream[SubscriptionWatch]):
    """The events of a subscription; see `SubscriptionWatch`. Close it, or use it with `with`.

    with client.subscribe("billing") as events:
        for event in events:
            handle(event)
            events.ack()
    """

    @property
    def name(self) -> str:
        return self._inner.name

    @property
    def consumer(self) -> str:
        return self._inner.consumer

    @property
    def standby(self) -> bool:
        return self._inner.standby

    ack = blocking(SubscriptionWatch.ack)


class SyncClient(Blocking[Client]):
    """The synchronous client; `Client` documents all methods and arguments.

        with SyncClient() as client:
            job = client.submit("square_sum", {"data": [1, 2, 3]})
            for event in job.watch():
                print(event.state)
            print(job.result())

    Several threads can share a client. Ctrl-C interrupts a waiting call at once. `token_provider`
    is a synchronous function, which is called in another thread.
    """

    def __init__(
        self,
        target: str | Sequence[str] | None = None,
        *,
        token: str | None = None,
        api_key: str | None = None,
        token_provider: Callable[[], str] | None = None,
        tls: TLS | bool | None = None,
        insecure: bool = False,
        tenant: str | None = None,
        metadata: Mapping[str, str] | Iterable[tuple[str, str]] = (),
        timeout: float = 10.0,
        retries: int = 5,
        resume_timeout: float = 60.0,
    ) -> None:
        # An error report may contain local variables.
        token = Secret(token) if isinstance(token, str) else token
        api_key = Secret(api_key) if isinstance(api_key, str) else api_key
        inner = Client(
            target,
            token=token,
            api_key=api_key,
            token_provider=None if token_provider is None else _in_thread(token_provider),
            tls=tls,
            insecure=insecure,
            tenant=tenant,
            metadata=metadata,
            timeout=timeout,
            retries=retries,
            resume_timeout=resume_timeout,
        )
        super().__init__(inner, LoopThread())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections and cancel their calls."""
        if not self._thread.closed:
            self._thread.run(self._inner.close())
            self._thread.close()

    submit = wrapping(SyncJobHandle, Client.submit)
    submit_many = wrapping(SyncBatch, Client.submit_many)
    submit_and_watch = iterating(Client.submit_and_watch)
    run = blocking(Client.run)
    get = blocking(Client.get)
    cancel = blocking(Client.cancel)
    retry = blocking(Client.retry)
    events = iterating(Client.events)
    output = iterating(Client.output)
    logs = iterating(Client.logs)
    watch_logs = iterating(Client.watch_logs)
    watch_job = iterating(Client.watch_job)
    list = iterating(Client.list)
    stats = blocking(Client.stats)
    workers = iterating(Client.workers)
    queues = iterating(Client.queues)
    history = blocking(Client.history)
    watch_overview = iterating(Client.watch_overview)
    handlers = blocking(Client.handlers)
    ping = blocking(Client.ping)
    queue_serving = blocking(Client.queue_serving)
    create_subscription = blocking(Client.create_subscription)
    subscription = blocking(Client.subscription)
    subscriptions = iterating(Client.subscriptions)
    delete_subscription = blocking(Client.delete_subscription)
    ack_subscription = blocking(Client.ack_subscription)
    audit_events = iterating(Client.audit_events)
    records_payload_reads = blocking(Client.records_payload_reads)
    record_payload_reads = blocking(Client.record_payload_reads)
    whoami = blocking(Client.whoami)
    create_api_key = blocking(Client.create_api_key)
    api_keys = iterating(Client.api_keys)
    revoke_api_key = blocking(Client.revoke_api_key)
    mint_watch_token = blocking(Client.mint_watch_token)
    create_certificate_binding = blocking(Client.create_certificate_binding)
    certificate_bindings = iterating(Client.certificate_bindings)
    delete_certificate_binding = blocking(Client.delete_certificate_binding)
    create_tenant = blocking(Client.create_tenant)
    tenant = blocking(Client.tenant)
    tenants = iterating(Client.tenants)
    suspend_tenant = blocking(Client.suspend_tenant)
    resume_tenant = blocking(Client.resume_tenant)
    delete_tenant = blocking(Client.delete_tenant)
    set_quotas = blocking(Client.set_quotas)
    usage = blocking(Client.usage)
    login = blocking(Client.login)
    refresh_session = blocking(Client.refresh_session)
    logout = blocking(Client.logout)
    change_password = blocking(Client.change_password)
    create_user = blocking(Client.create_user)
    users = iterating(Client.users)
    update_user = blocking(Client.update_user)
    reset_password = blocking(Client.reset_password)
    delete_user = blocking(Client.delete_user)

    def submit_in_batches(
        self,
        jobs: Iterable[JobSpec],
        *,
        size: int = MAX_BATCH_JOBS,
        in_flight: int = 1,
        request_id: str | None = None,
        correlation_id: str | None = None,
    ) -> Generator[SyncBatch, None, None]:
        """Submit any number of jobs in batches, and yield each batch; see `Client`."""
        batches = self._inner.submit_in_batches(
            jobs,
            size=size,
            in_flight=in_flight,
            request_id=request_id,
            correlation_id=correlation_id,
        )
        for batch in self._thread.iterate(batches):
            yield SyncBatch(batch, self._thread)

    def job(self, job_id: str) -> SyncJobHandle:
        """Return a handle of an existing job, without calling a gateway."""
        return SyncJobHandle(self._inner.job(job_id), self._thread)

    def watch(
        self,
        *,
        queues: Iterable[str] = (),
        types: Iterable[str] = (),
        states: Iterable[JobState | str] = (),
        labels: Mapping[str, str] | None = None,
        batch_id: str = "",
        job_ids: Iterable[str] = (),
        cursor: str = "",
    ) -> SyncWatch:
        """Follow all jobs that match every argument; see `Client.watch`."""
        watch = self._inner.watch(
            queues=queues,
            types=types,
            states=states,
            labels=labels,
            batch_id=batch_id,
            job_ids=job_ids,
            cursor=cursor,
        )
        return SyncWatch(watch, self._thread)

    def subscribe(self, name: str, *, consumer: str | None = None) -> SyncSubscriptionWatch:
        """Receive the events of a subscription; see `Client.subscribe`."""
        return SyncSubscriptionWatch(self._inner.subscribe(name, consumer=consumer), self._thread)


def _in_thread(token_provider: Callable[[], str]) -> TokenProvider:
    """Return the asynchronous form of a synchronous token provider."""

    async def provide() -> str:
        return await asyncio.to_thread(token_provider)

    return provide
