"""The command line in processes that are forked from a warm process with all imports.

Starting the command line costs about a second of CPU time, mostly for imports. A fork costs a few
milliseconds. Each run has its own process, standard streams, environment and signals, like a run of
`python -m headrace`.

    warm process ── fork ──► keeper ── fork ──► the command line
                               ▲ │ exit code, or the number of a signal
     files 0–2, arguments, env │ ▼
                             relay: the process that a test starts; it forwards signals
"""

from __future__ import annotations

import array
import atexit
import gc
import io
import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

_HEADER = 8
# The signals that tests send to the command line.
_FORWARDED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@contextmanager
def warm_cli(folder: Path, *modules: str) -> Iterator[tuple[str, ...]]:
    """Start the warm process; yield the command to use in place of `python -m headrace`.

    Args:
        folder: an empty folder for the socket of the process.
        modules: further modules that the process imports.
    """
    address = str(folder / "cli")
    environment: Mapping[str, str] = {**os.environ, "GRPC_ENABLE_FORK_SUPPORT": "0"}
    with subprocess.Popen(
        (sys.executable, "-P", __file__, "serve", address, *modules),
        stdout=subprocess.PIPE,
        env=environment,
    ) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == b"ready\n"
            # The relay needs neither site-packages nor the caller's environment.
            yield sys.executable, "-I", "-S", __file__, "relay", address
        finally:
            process.kill()


def _serve(address: str, modules: list[str]) -> None:
    import pkgutil  # noqa: PLC0415
    from importlib import import_module  # noqa: PLC0415

    import headrace.cli  # noqa: PLC0415

    for module in pkgutil.iter_modules(headrace.cli.__path__, "headrace.cli."):
        import_module(module.name)
    for name in ("grpc.aio", "headrace.client", "headrace.v1.job_service_pb2_grpc", *modules):
        import_module(name)
    # A collection in a child would write to the pages that it shares with this process.
    gc.collect()
    gc.freeze()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(address)
        listener.listen()
        # The kernel reaps the keepers.
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)
        os.write(1, b"ready\n")
        while True:
            relay, _ = listener.accept()
            if os.fork() == 0:
                listener.close()
                _keep_command(relay)
                return
            relay.close()


def _keep_command(relay: socket.socket) -> None:
    """Run the command line in a child, and report its exit code to the relay."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    header, files, _, _ = socket.recv_fds(relay, _HEADER, 3)
    request = json.loads(_receive(relay, int.from_bytes(header, "big")))
    pid = os.fork()
    if pid == 0:
        relay.close()
        _run_command(request, files)
        return
    for file in files:
        os.close(file)
    relay.sendall(pid.to_bytes(_HEADER, "big"))
    pidfd = os.pidfd_open(pid)
    # The relay sends no more data, so its socket becomes readable only if the relay is killed.
    readable, _, _ = select.select([pidfd, relay], [], [])
    if pidfd not in readable:
        os.kill(pid, signal.SIGKILL)
    _, status = os.waitpid(pid, 0)
    relay.sendall(os.waitstatus_to_exitcode(status).to_bytes(_HEADER, "big", signed=True))
    os._exit(0)


def _run_command(request: Mapping[str, object], files: list[int]) -> None:
    """Run the command line with the relay's files, arguments and environment."""
    from headrace.cli import main  # noqa: PLC0415

    for number, file in enumerate(files):
        os.dup2(file, number)
        os.close(file)
    sys.stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115
    sys.stdout = _output(1, errors="strict")
    sys.stderr = _output(2, errors="backslashreplace")
    os.chdir(str(request["folder"]))
    os.environ.clear()
    os.environ.update(request["environment"])  # type: ignore[call-overload]
    sys.argv = ["headrace", *request["arguments"]]  # type: ignore[misc]
    try:
        main()
    except SystemExit as ended:
        if isinstance(ended.code, int):
            _exit(ended.code)
        raise


def _exit(code: int) -> None:
    """Exit without the interpreter's finalization, which would copy most pages of the process.

    If the output cannot be written, the finalization reports it, so this function returns.
    """
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    except OSError:
        return
    os._exit(code)


def _output(number: int, *, errors: str) -> io.TextIOWrapper:
    by_line = number == 2 or os.isatty(number)
    return open(number, "w", 1 if by_line else -1, encoding="utf-8", errors=errors, closefd=False)


def _relay(address: str, arguments: list[str]) -> None:
    pid = 0
    early: list[int] = []

    def forward(number: int, _: FrameType | None) -> None:
        if pid:
            os.kill(pid, number)
        else:
            early.append(number)

    for number in _FORWARDED:
        signal.signal(number, forward)
    request = json.dumps(
        {"arguments": arguments, "environment": dict(os.environ), "folder": os.getcwd()}  # noqa: PTH109
    ).encode()
    with socket.socket(socket.AF_UNIX) as keeper:
        keeper.connect(address)
        files = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [0, 1, 2]))]
        keeper.sendmsg([len(request).to_bytes(_HEADER, "big")], files)
        keeper.sendall(request)
        pid = int.from_bytes(_receive(keeper, _HEADER), "big")
        for number in early:
            os.kill(pid, number)
        code = int.from_bytes(_receive(keeper, _HEADER), "big", signed=True)
    if code < 0:
        signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    os._exit(code)


def _receive(peer: socket.socket, size: int) -> bytes:
    received = b""
    while len(received) < size:
        part = peer.recv(size - len(received))
        if not part:
            raise EOFError
        received += part
    return received


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        _serve(sys.argv[2], sys.argv[3:])
    else:
        _relay(sys.argv[2], sys.argv[3:])
