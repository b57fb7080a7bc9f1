"""The contestants. Each one is a folder in bench/peers."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

PEERS: Final = Path(__file__).resolve().parents[1] / "peers"
# The contestant that runs the services of this repository.
HEADRACE: Final = "headrace"


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptData:
    """The data that a contestant keeps about a job, described in words."""

    row: str
    history: str
    result: str
    flushall: str
    kill: str

    def cells(self) -> list[str]:
        """Return all fields as cells of a table row."""
        return [self.row, self.history, self.result, self.flushall, self.kill]


@dataclass(frozen=True, slots=True, kw_only=True)
class Contestant:
    """The contents of a peer.toml; see bench/peers/contract.py.

    Attributes:
        name: the folder name.
        environment: the environment variables of the processes, by mode (`throughput`, `latency`).
        python: the required Python, such as `>=3.12`; empty for the Python of Headrace.
    """

    name: str
    title: str
    package: str
    figures: tuple[str, ...]
    servers: tuple[str, ...]
    durable: bool
    settings: str
    keeps: KeptData
    server: bool = False
    slow: bool = False
    python: str = ""
    environment: Mapping[str, Mapping[str, str]] = field(default_factory=dict)

    @property
    def folder(self) -> Path:
        """The contestant's folder."""
        return PEERS / self.name

    @property
    def requirements(self) -> Path:
        """The file that pins the packages of the contestant's environment."""
        return self.folder / "requirements.txt"

    @property
    def is_headrace(self) -> bool:
        """True if the contestant runs the services of this repository."""
        return self.name == HEADRACE


def read_contestants(folder: Path = PEERS) -> list[Contestant]:
    """Read all contestants; Headrace is the first.

    Raises:
        ValueError: a peer.toml lacks a field or has an unknown one.
    """
    found = [read_contestant(file) for file in sorted(folder.glob("*/peer.toml"))]
    return sorted(found, key=lambda contestant: not contestant.is_headrace)


def read_contestant(file: Path) -> Contestant:
    """Read one peer.toml.

    Raises:
        ValueError: a field is missing or unknown.
    """
    fields: dict[str, Any] = tomllib.loads(file.read_text())
    try:
        return Contestant(
            **{
                **fields,
                "name": file.parent.name,
                "figures": tuple(fields["figures"]),
                "servers": tuple(fields["servers"]),
                "keeps": KeptData(**fields["keeps"]),
            }
        )
    except (KeyError, TypeError) as error:
        raise ValueError(f"{file}: {error}") from None
