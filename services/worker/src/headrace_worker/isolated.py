"""The process of isolated handlers: `python -m headrace_worker.isolated`, started by the worker.

It reads what to run from its standard input, one job at a time, and answers on what was its
standard output; whatever a handler prints goes to standard error. It ends with its worker, since
its input ends then.
"""

from __future__ import annotations

import importlib
import os
import queue
import signal
import sys
import threading
from typing import BinaryIO
from uuid import UUID

from headrace_core.domain.ids import JobId
from headrace_core.domain.job import JsonText, Progress
from headrace_worker import frames
from headrace_worker.context import Attempt, SyncContext
from headrace_worker.outcome import Fail, Retry
from headrace_worker.payload import PayloadMismatch, encode
from headrace_worker.registry import registry


class _Link:
    """The connection to the worker: a thread of its own reads, the handler's thread writes."""

    def __init__(self, source: BinaryIO, sink: BinaryIO) -> None:
        self._source = source
        self._sink = sink
        self.runs: queue.SimpleQueue[frames.Run] = queue.SimpleQueue()
        self.taken: queue.SimpleQueue[frames.Taken] = queue.SimpleQueue()
        self.cancelled = threading.Event()

    def read(self) -> None:
        while (body := frames.read_body(self._source)) is not None:
            message = frames.decode_to_handler(body)
            match message:
                case frames.Run():
                    self.cancelled.clear()
                    self.runs.put(message)
                case frames.Cancel():
                    self.cancelled.set()
                case frames.Taken():
                    self.taken.put(message)
        # The worker is gone: nobody wants the result any more.
        os._exit(0)

    def write(self, message: frames.FromHandler) -> None:
        self._sink.write(frames.frame(message))
        self._sink.flush()

    def report(self, item: Progress | JsonText) -> None:
        """Says one thing and waits until it was taken."""
        if isinstance(item, Progress):
            self.write(
                frames.Progressed(
                    fraction=item.fraction, message=item.message, counters=item.counters
                )
            )
        else:
            self.write(frames.Output(chunk=item))
        answer = self.taken.get()
        if answer.fail:
            raise Fail(answer.fail, type="LimitExceeded")


def _perform(link: _Link, run: frames.Run) -> frames.Returned | frames.Raised:
    try:
        importlib.import_module(run.module)
        handler = registry.get(run.type)
        assert handler is not None, f"{run.module} does not register {run.type}"
        argument = handler.decode(run.payload)
        context = SyncContext(
            Attempt(
                job_id=JobId(UUID(run.job_id)),
                number=run.attempt,
                type=run.type,
                queue=run.queue,
                tenant=run.tenant,
                labels=run.labels,
                deadline=run.deadline,
            ),
            link.report,
            link.cancelled,
        )
        arguments = (argument, context) if handler.takes_context else (argument,)
        return frames.Returned(result=encode(handler.function(*arguments)))
    except PayloadMismatch as error:
        return frames.Raised(kind="payload", type="PayloadMismatch", message=str(error))
    except Fail as error:
        return frames.Raised(kind="fail", type=error.type, message=str(error))
    except Retry as error:
        after = None if error.after is None else error.after.total_seconds()
        return frames.Raised(kind="retry", type="Retry", message=str(error), after=after)
    except Exception as error:  # noqa: BLE001 - it is the job's error
        return frames.Raised(kind="error", type=type(error).__name__, message=str(error))


def main() -> None:
    """Serves the worker until it is gone."""
    # The worker decides when this ends, whatever key a terminal sends to the whole group.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    sink = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    link = _Link(sys.stdin.buffer, sink)
    threading.Thread(target=link.read, name="link", daemon=True).start()
    while True:
        link.write(_perform(link, link.runs.get()))


if __name__ == "__main__":
    main()
