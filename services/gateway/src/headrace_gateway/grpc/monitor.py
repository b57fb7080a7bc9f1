"""MonitorService: each method converts its request and the result of its use case."""

# ruff: noqa: N802 - the methods have the names of the contract

from __future__ import annotations

from headrace.v1 import monitor_service_pb2 as messages
from headrace_core.domain.monitor import QueueStatus, WorkerStatus
from headrace_gateway.api.monitor import Monitor
from headrace_gateway.calls.call import Call
from headrace_gateway.grpc.encode import state_counts, timestamp
from headrace_gateway.grpc.pages import MessagePage


class MonitorServicer:
    """Shows workers and queues.

    Args:
        monitor: the use cases.
    """

    def __init__(self, monitor: Monitor) -> None:
        self._monitor = monitor

    async def ListWorkers(
        self, request: messages.ListWorkersRequest, call: Call
    ) -> messages.ListWorkersResponse:
        """List the workers that serve the tenant."""
        page = MessagePage(_worker_message)
        token = await self._monitor.list_workers(
            call, page, size=request.page_size, token=request.page_token
        )
        return messages.ListWorkersResponse(workers=page.messages, next_page_token=token)

    async def ListQueues(
        self, request: messages.ListQueuesRequest, call: Call
    ) -> messages.ListQueuesResponse:
        """List the queues of the tenant."""
        page = MessagePage(_queue_message)
        token, time = await self._monitor.list_queues(
            call, page, size=request.page_size, token=request.page_token
        )
        return messages.ListQueuesResponse(
            queues=page.messages, next_page_token=token, measure_time=timestamp(time)
        )


def _worker_message(worker: WorkerStatus) -> messages.Worker:
    return messages.Worker(
        id=str(worker.id),
        name=worker.name,
        pool=worker.pool,
        tenants=sorted(worker.tenants),
        queues=sorted(worker.queues),
        types=worker.types,
        slots=worker.slots,
        busy_slots=worker.busy_slots,
        running_jobs=[
            messages.RunningJob(
                job_id=str(job.id),
                type=job.type,
                queue=job.queue,
                attempt=job.attempt,
                start_time=timestamp(job.start_time),
            )
            for job in worker.running_jobs
        ],
        draining=worker.draining,
        live=worker.live,
        start_time=timestamp(worker.start_time),
        heartbeat_time=timestamp(worker.heartbeat_time),
        lease_expire_time=timestamp(worker.lease_expire_time),
    )


def _queue_message(queue: QueueStatus) -> messages.QueueStatus:
    return messages.QueueStatus(
        queue=queue.queue,
        states=state_counts(queue.states),
        oldest_queue_time=timestamp(queue.oldest_queue_time),
        workers=queue.workers,
        slots=queue.slots,
    )
