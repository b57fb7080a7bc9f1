"""The tasks that a handler may cancel."""

from __future__ import annotations

import asyncio
import contextvars

import pytest

from headrace_worker.runners.ownership import OwnedTask, Owner, own_process, owned_by


@pytest.fixture(autouse=True)
def _lenient_ownership(monkeypatch: pytest.MonkeyPatch) -> None:
    # `own_process` changes the class for all tests of this process.
    monkeypatch.setattr(OwnedTask, "strict", False)


async def test_worker_task_created_by_a_handler_is_guarded() -> None:
    context = contextvars.copy_context()
    context.run(own_process)
    attempt = Owner()

    async def waits() -> None:
        await asyncio.Event().wait()

    with owned_by(attempt):
        of_worker = OwnedTask(waits(), context=context)
        own = OwnedTask(waits())
        main = OwnedTask(waits(), main_of=attempt)
    with owned_by(Owner()):
        assert not of_worker.cancel()
        assert not main.cancel()
        assert own.cancel()
    with owned_by(attempt):
        assert not of_worker.cancel()
        assert main.cancel()
    assert not of_worker.cancel()
    assert context.run(of_worker.cancel)
    await asyncio.wait({of_worker, own, main})
    assert not main.cancelled_by_others
