"""`headrace up`: run the platform until a signal."""

from __future__ import annotations

import asyncio
import signal
import sys
import webbrowser

import pydantic

from headrace_core.runtime.settings import problems
from headrace_standalone.banner import banner, web_url
from headrace_standalone.embedded import EmbeddedServerError
from headrace_standalone.embedded.folder import DataFolder
from headrace_standalone.stack import Plan, Stack
from headrace_standalone.supervised import ProgramFailedError

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def run(*, plan: Plan, folder: DataFolder) -> int:
    """Run the platform until a signal; a second signal kills it.

    Returns:
        The exit code: 0 after a clean stop, 1 if the platform could not start.
    """
    return asyncio.run(_run(plan=plan, folder=folder))


async def _run(*, plan: Plan, folder: DataFolder) -> int:
    try:
        stack = Stack(plan=plan, folder=folder, announce=_announce)
    except pydantic.ValidationError as error:
        # The error text contains the settings, including passwords.
        for problem in problems(error):
            _announce(problem)
        return 1
    stop = _stop_event(stack)
    starting = asyncio.create_task(stack.start())
    stopping = asyncio.create_task(stop.wait())
    try:
        await asyncio.wait((starting, stopping), return_when=asyncio.FIRST_COMPLETED)
        if starting.done():
            starting.result()
            sys.stdout.write(_banner(stack, plan, folder))
            sys.stdout.flush()
            if plan.opens_browser and (url := web_url(plan)):
                await asyncio.to_thread(webbrowser.open, url)
            await stopping
        else:
            starting.cancel()
            await asyncio.gather(starting, return_exceptions=True)
        _announce("stopping")
        return 0
    except EmbeddedServerError as error:
        _announce(str(error))
        return 1
    except ProgramFailedError as error:
        log = "" if plan.ephemeral else f", {folder.logs / error.name}.log,"
        _announce(f"{error.name} {error.reason}. Its log{log} ends with:\n{error.tail}")
        return 1
    finally:
        stopping.cancel()
        await stack.stop()


def _banner(stack: Stack, plan: Plan, folder: DataFolder) -> str:
    ca = None if stack.certificates is None else stack.certificates.ca
    return banner(plan, folder=folder, files=stack.files, ca=ca, admin_key=stack.admin_key)


def _stop_event(stack: Stack) -> asyncio.Event:
    stop = asyncio.Event()

    def on_signal() -> None:
        if stop.is_set():
            _announce("killing all programs")
            stack.kill()
        stop.set()

    loop = asyncio.get_running_loop()
    for signum in _SIGNALS:
        loop.add_signal_handler(signum, on_signal)
    return stop


def _announce(text: str) -> None:
    sys.stderr.write(f"headrace: {text}\n")
