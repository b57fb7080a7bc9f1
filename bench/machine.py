"""The machine and the software versions of a measurement."""

from __future__ import annotations

import os
import platform
import subprocess
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Final

import psutil

from headrace_core.runtime.settings import Settings
from headrace_core.store.sql.database import Database

_PACKAGES: Final = ("grpcio", "protobuf", "uvloop", "asyncpg", "sqlalchemy")
_ROOT: Final = Path(__file__).parent.parent


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """The environment of a measurement; `load` is the load average before the benchmark."""

    time: str
    commit: str
    cpu: str
    cores: int
    memory_gib: float
    system: str
    python: str
    postgresql: str
    packages: dict[str, str]
    load: float

    def document(self) -> dict[str, object]:
        """Return all fields as JSON data."""
        return asdict(self)

    def lines(self) -> list[str]:
        """Return all fields as lines of text."""
        packages = ", ".join(f"{name} {number}" for name, number in self.packages.items())
        size = f"{self.cores} cores, {self.memory_gib:.0f} GiB"
        return [
            f"{self.time}, commit {self.commit}",
            f"{self.cpu}, {size}, {self.system}, load before {self.load:.2f}",
            f"Python {self.python}, PostgreSQL {self.postgresql}, {packages}",
        ]


async def read_machine(settings: Settings) -> Machine:
    """Read the fields from this machine, and the PostgreSQL version from the server."""
    database = Database(settings, application="bench")
    try:
        async with database.session() as connection:
            postgresql = ".".join(map(str, connection.get_server_version()[:2]))
    finally:
        await database.close()
    return Machine(
        time=datetime.now(UTC).isoformat(timespec="seconds"),
        commit=commit(),
        cpu=cpu(),
        cores=os.cpu_count() or 1,
        memory_gib=psutil.virtual_memory().total / 2**30,
        system=f"{platform.system()} {platform.release()}",
        python=platform.python_version(),
        postgresql=postgresql,
        packages={name: version(name) for name in _PACKAGES},
        load=os.getloadavg()[0],
    )


def commit() -> str:
    """Return the commit, with `-dirty` if the working tree has changes."""
    try:
        done = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=12"],
            cwd=_ROOT,
            check=True,
            capture_output=True,
            text=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return done.stdout.strip()


def cpu() -> str:
    """Return the processor name."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.machine()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())
