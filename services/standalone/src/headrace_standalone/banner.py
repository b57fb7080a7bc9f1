"""The lines that `headrace up` prints when all programs serve."""

from __future__ import annotations

import json
import shlex
import shutil
import sys
from contextlib import suppress
from pathlib import Path

from headrace_standalone.embedded.folder import DataFolder
from headrace_standalone.stack import Plan, reachable_address

_DEFAULT_TARGET = "127.0.0.1:50051"


def banner(
    plan: Plan,
    *,
    folder: DataFolder,
    files: Path,
    ca: Path | None = None,
    admin_key: str | None = None,
) -> str:
    """Return the addresses, the folders, and example commands that run as printed.

    Args:
        plan: the options.
        folder: the data folder.
        files: the folder for job files.
        ca: the CA that verifies the gateway's certificate; None without TLS.
        admin_key: a new API key, which is shown once.
    """
    workers = "1 worker" if plan.workers == 1 else f"{plan.workers} workers"
    rows = [("API", f"{plan.gateway_address} (gRPC)")]
    if plan.web_address:
        login = "the key below" if admin_key is not None else "an API key or a user"
        rows.append(("Web", f"{web_url(plan)}{f' (log in with {login})' if plan.secure else ''}"))
    rows += [
        ("" if place else "Metrics", f"{_metrics_scheme(plan, name)}://{address}/metrics ({name})")
        for place, (name, address) in enumerate(plan.metrics_addresses.items())
    ]
    rows += [
        ("Data", f"{folder.path} (deleted at the end)" if plan.ephemeral else str(folder.path)),
        ("Files", str(files)),
        ("Logs", str(folder.logs)),
    ]
    if ca is not None:
        rows.append(("CA", str(ca)))
    if admin_key is not None:
        rows.append(("Key", f"{admin_key} (for administrators; it is not shown again)"))
    return "\n".join(
        (
            f"Headrace is up, with {workers}.",
            "",
            *(f"  {name:7} {value}" for name, value in rows),
            "",
            "Try it:",
            "",
            *(f"  {line}" for line in _commands(reachable_address(plan.gateway_address), ca)),
            "",
            "Ctrl-C stops it.",
            "",
        )
    )


def _metrics_scheme(plan: Plan, name: str) -> str:
    # The other processes have no certificate.
    return "https" if plan.secure and name in {"gateway", "web"} else "http"


def web_url(plan: Plan) -> str:
    """Return the URL of the web service; empty without one."""
    if not plan.web_address:
        return ""
    return f"{'https' if plan.secure else 'http'}://{reachable_address(plan.web_address)}"


def command_path(name: str) -> str | None:
    """Return the shell word that runs a command of this Python environment.

    Returns:
        The name if the shell finds this command on PATH, otherwise the path, quoted for a shell.
        None if the command is neither in this environment nor on PATH.
    """
    beside = Path(sys.executable).with_name(name)
    found = shutil.which(name)
    if not beside.exists():
        return name if found else None
    if found is not None and Path(found).samefile(beside):
        return name
    with suppress(ValueError):
        return shlex.quote(str(beside.relative_to(Path.cwd())))
    return shlex.quote(str(beside))


def _commands(address: str, ca: Path | None) -> list[str]:
    headrace = command_path("headrace") or f"{shlex.quote(sys.executable)} -m headrace"
    target = "" if address == _DEFAULT_TARGET else f"HEADRACE_TARGET={address} "
    secured = "-plaintext"
    commands = []
    if ca is not None:
        # The commands read the key from the terminal, and keep it off their command lines.
        secured = "-cacert $HEADRACE_TLS_CA -expand-headers \\\n"
        secured += "    -H 'authorization: Bearer ${HEADRACE_API_KEY}'"
        commands += [
            f"export HEADRACE_TLS_CA={shlex.quote(str(ca))}",
            "read -rs HEADRACE_API_KEY && export HEADRACE_API_KEY   # paste the key",
        ]
    commands += [f"{target}{headrace} submit square_sum '{{\"data\": [1, 2, 3]}}' --watch"]
    if grpcurl := command_path("grpcurl"):
        job = {"type": "square_sum", "payload": {"value": {"data": [1, 2, 3]}}}
        commands += [
            f"{grpcurl} {secured} -d '{json.dumps({'job': job})}' \\",
            f"  {address} headrace.v1.JobService/SubmitAndWatch",
        ]
    return commands
