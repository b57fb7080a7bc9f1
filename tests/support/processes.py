"""The platform's three services as real processes."""

from __future__ import annotations

from dataclasses import dataclass

from support.server import Server


@dataclass(frozen=True, slots=True)
class Processes:
    """The processes and their addresses."""

    gateway: Server
    scheduler: Server
    worker: Server
    gateway_address: str
    scheduler_address: str
    worker_address: str

    def addresses(self) -> tuple[str, str, str]:
        """Return the addresses of all processes."""
        return self.gateway_address, self.scheduler_address, self.worker_address

    def servers(self) -> tuple[Server, Server, Server]:
        """Return all processes."""
        return self.gateway, self.scheduler, self.worker
