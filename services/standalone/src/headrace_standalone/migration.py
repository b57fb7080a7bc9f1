"""Migration of the database, in a separate process."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress

from headrace_standalone.log_file import LogFile
from headrace_standalone.program import leashed_command
from headrace_standalone.supervised import ProgramFailedError

_TIMEOUT = 300.0

# sysexits.h: EX_TEMPFAIL; the server is starting or has no free connection.
_BUSY = 75
_RETRY_S = 2.0


async def migrate(
    *,
    environment: Mapping[str, str],
    log: LogFile,
    announce: Callable[[str], None] = lambda _: None,
) -> None:
    """Migrate the database to the schema of this version, as soon as it accepts a connection.

    Args:
        environment: the variables of the process, with the URL of the database.
        log: receives the output.
        announce: receives a sentence about each retry.

    Raises:
        ProgramFailedError: the migration failed, or took more than five minutes.
    """
    while await _run(environment=environment, log=log) == _BUSY:
        reason = log.tail(1).removeprefix("headrace migrate: ")
        announce(f"{reason}; trying again in {_RETRY_S:g} s")
        await asyncio.sleep(_RETRY_S)


async def _run(*, environment: Mapping[str, str], log: LogFile) -> int:
    command = (sys.executable, "-m", "headrace_core", "migrate", "--wait", "0")
    process = await asyncio.create_subprocess_exec(
        *leashed_command(command, death_signal=signal.SIGKILL),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=dict(environment),
        start_new_session=True,
    )
    try:
        async with asyncio.timeout(_TIMEOUT):
            printed, _ = await process.communicate()
    except TimeoutError:
        raise ProgramFailedError(
            name="migrate", reason=f"took more than {_TIMEOUT:g} s", tail=log.tail()
        ) from None
    finally:
        if process.returncode is None:
            with suppress(ProcessLookupError):
                process.kill()
    log.write(printed)
    if process.returncode not in {0, _BUSY}:
        raise ProgramFailedError(
            name="migrate", reason=f"ended with exit code {process.returncode}", tail=log.tail()
        )
    return process.returncode
