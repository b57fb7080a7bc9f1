"""The database audit by `headrace verify` at the end of a trial."""

from __future__ import annotations

import asyncio
import json
import os
import sys

from faults.invariants import Verdict

# The command rechecks stuck jobs for up to 20 s.
_TIMEOUT_S = 60.0


async def verify(database_url: str) -> Verdict:
    """Audit a database with the command.

    Args:
        database_url: the server's own URL, which bypasses the links.

    Returns:
        The breaches. A verdict of `unknown` counts as a breach.
    """
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "headrace", "verify", "--json"),
        env=os.environ | {"HEADRACE_DATABASE_URL": database_url},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(_TIMEOUT_S):
            output, errors = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    try:
        document = json.loads(output)
    except ValueError:
        return Verdict(0, (f"the command exited with {process.returncode}: {errors.decode()}",))
    if document["verdict"] == "unknown":
        return Verdict(0, (f"the verdict is unknown: {document['reason']}",))
    broken = [f"{one['check']}: {one['subject']}: {one['text']}" for one in document["breaches"]]
    unlisted = sum(document["counts"].values()) - len(broken)
    if unlisted:
        broken.append(f"and {unlisted} more")
    # The exit code must match the document.
    if process.returncode != (1 if broken else 0):
        broken.append(f"the exit code is {process.returncode}")
    return Verdict(document["events"], tuple(broken))
