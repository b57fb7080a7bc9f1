"""Who is compared: a folder in bench/peers each."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

PEERS: Final = Path(__file__).resolve().parents[1] / "peers"
# The one whose processes are our services.
HEADRACE: Final = "headrace"


@dataclass(frozen=True, slots=True, kw_only=True)
class Keeps:
    """What is left of a job, told in words."""

    row: str
    history: str
    result: str
    flushall: str
    kill: str

    def cells(self) -> list[str]:
        """All of it, for a row of a table."""
        return [self.row, self.history, self.result, self.flushall, self.kill]


@dataclass(frozen=True, slots=True, kw_only=True)
class Contestant:
    """What its peer.toml says; see bench/peers/contract.py.

    Attributes:
        name: its folder's.
        environment: settings of its processes, by the mode (`throughput`, `latency`).
        python: which Python it needs, as `>=3.12`, where it does not run on every one that we do.
    """

    name: str
    title: str
    package: str
    figures: tuple[str, ...]
    servers: tuple[str, ...]
    durable: bool
    settings: str
    keeps: Keeps
    server: bool = False
    slow: bool = False
    python: str = ""
    environment: Mapping[str, Mapping[str, str]] = field(default_factory=dict)

    @property
    def folder(self) -> Path:
        """Where it is."""
        return PEERS / self.name

    @property
    def requirements(self) -> Path:
        """What its environment is made of."""
        return self.folder / "requirements.txt"

    @property
    def is_headrace(self) -> bool:
        """Whether its processes are our services."""
        return self.name == HEADRACE


def read_contestants(folder: Path = PEERS) -> list[Contestant]:
    """All of them, Headrace first.

    Raises:
        ValueError: a peer.toml does not say what it must.
    """
    found = [read_contestant(file) for file in sorted(folder.glob("*/peer.toml"))]
    return sorted(found, key=lambda contestant: not contestant.is_headrace)


def read_contestant(file: Path) -> Contestant:
    """Reads one peer.toml.

    Raises:
        ValueError: it does not say what it must.
    """
    said: dict[str, Any] = tomllib.loads(file.read_text())
    try:
        return Contestant(
            **{
                **said,
                "name": file.parent.name,
                "figures": tuple(said["figures"]),
                "servers": tuple(said["servers"]),
                "keeps": Keeps(**said["keeps"]),
            }
        )
    except (KeyError, TypeError) as error:
        raise ValueError(f"{file}: {error}") from None
