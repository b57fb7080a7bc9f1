"""What `headrace verify`, the command that an operator has, says of the database in the end."""

from __future__ import annotations

import asyncio
import json
import os
import sys

from faults.invariants import Verdict

# Jobs that nobody moves on are looked at again for up to 20 s.
_TIMEOUT_S = 60.0


async def verify(database_url: str) -> Verdict:
    """Audits a database, by the command.

    Args:
        database_url: past all links.

    Returns:
        What is broken; that it could not tell is as bad.
    """
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "headrace", "verify", "--json"),
        env=os.environ | {"HEADRACE_DATABASE_URL": database_url},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(_TIMEOUT_S):
            said, complained = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    try:
        told = json.loads(said)
    except ValueError:
        return Verdict(0, (f"it ended with {process.returncode}: {complained.decode()}",))
    if told["verdict"] == "unknown":
        return Verdict(0, (f"it cannot tell: {told['reason']}",))
    broken = [f"{one['check']}: {one['subject']}: {one['text']}" for one in told["breaches"]]
    untold = sum(told["counts"].values()) - len(broken)
    if untold:
        broken.append(f"and {untold} more")
    # What it says in its document, its exit code must say as well.
    if process.returncode != (1 if broken else 0):
        broken.append(f"its exit code is {process.returncode}")
    return Verdict(told["events"], tuple(broken))
