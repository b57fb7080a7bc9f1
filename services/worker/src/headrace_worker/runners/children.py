"""The child processes of handlers: their signals, forks, and termination after the attempt.

Children are found in /proc (Linux). On other systems, only the process group of a separate handler
process ends with the handler.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Collection, Iterable
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import Final

from headrace_core.runtime.tasks import run_to_end
from headrace_worker.runners.ownership import owning_attempt

# The signals that the worker and its event loop handle.
_HANDLED: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGCHLD)
# The time for a killed child process to exit, in seconds.
_REAP_S: Final = 2.0

# The state that a fork in progress restores, per thread.
_fork = threading.local()


def keep_signals_from_forks() -> None:
    """Reset signal handling in every child that this process forks from now on.

    Otherwise a child would report its own signals to the event loop of its parent, through the
    wake-up descriptor that both share.
    """
    os.register_at_fork(before=_block, after_in_parent=_unblock, after_in_child=_reset)


def _block() -> None:
    # A signal must not arrive in the child before its handlers are reset.
    _fork.mask = signal.pthread_sigmask(signal.SIG_BLOCK, _HANDLED)
    if owning_attempt() is not None:
        _fork.children = _children_of_thread(threading.get_native_id())


def _unblock() -> None:
    signal.pthread_sigmask(signal.SIG_SETMASK, _fork.mask)
    if (attempt := owning_attempt()) is not None:
        attempt.forked |= _children_of_thread(threading.get_native_id()) - _fork.children


def _reset() -> None:
    signal.set_wakeup_fd(-1)
    for signum in _HANDLED:
        signal.signal(signum, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, _fork.mask)


def end_forks_of_the_loop() -> None:
    """End a child that is forked in the event loop when its code returns to the loop.

    Otherwise the child would run the loop with the tasks and connections of its parent.
    """

    def watch() -> None:
        first: FrameType | None = None
        frame = sys._getframe().f_back  # noqa: SLF001 - documented
        while frame is not None and frame.f_code is not run_to_end.__code__:
            if frame.f_globals.get("__name__") == "multiprocessing.popen_fork":
                # multiprocessing ends its children itself.
                return
            first, frame = frame, frame.f_back
        if frame is None or first is None:
            return

        def check(returning: FrameType, event: str, _: object) -> None:
            # An await that suspends also returns from the frame.
            if event == "return" and returning is first:
                os._exit(1)

        sys.setprofile(check)

    os.register_at_fork(after_in_child=watch)


def leave_fork(pid: int, code: int) -> None:
    """End this process if it is a forked child that has left its handler.

    Args:
        pid: the process that called the handler.
        code: the exit code of the child.
    """
    if os.getpid() != pid:
        os._exit(code)


def children_of(pid: int | None = None) -> set[int]:
    """Return the children of a process (by default this one), including adopted children."""
    found: set[int] = set()
    # The process may have ended.
    with suppress(OSError):
        for thread in Path(f"/proc/{pid or 'self'}/task").iterdir():
            found |= _listed(f"{thread}/children")
    return found


def _children_of_thread(thread: int) -> set[int]:
    return _listed(f"/proc/self/task/{thread}/children")


def _listed(file: str) -> set[int]:
    try:
        # Each attempt in a thread reads such a file, and pathlib would take twice as long.
        with open(file, "rb", buffering=0) as listing:  # noqa: PTH123
            return set(map(int, listing.readall().split()))
    except OSError:
        return set()


def with_descendants(pids: Iterable[int]) -> set[int]:
    """Return the processes and all their descendants."""
    found: set[int] = set()
    new = set(pids)
    while new:
        found |= new
        new = {child for pid in new for child in children_of(pid)} - found
    return found


def end_children(thread: int | None = None) -> None:
    """Kill and reap the children that a thread of this process has started, with their descendants.

    Args:
        thread: the native id of the thread; None for all threads. The children of threads that this
            thread has started are not included.
    """
    children = children_of() if thread is None else _children_of_thread(thread)
    if children:
        _end(children - _service_processes())


def end_children_soon(thread: int) -> None:
    """End children like `end_children`, but in the background."""
    if children := _children_of_thread(thread):
        _end_soon(children - _service_processes())


def end_forked(pids: Collection[int]) -> None:
    """Kill, in the background, the processes in `pids` that are still children of this process."""
    if left := children_of() & set(pids):
        _end_soon(left)


def _end_soon(children: Collection[int]) -> None:
    # Handlers can occupy the executor of the loop, so start a new thread.
    reaper = threading.Thread(target=_end, args=(children,), name="reaper", daemon=True)
    # If no thread can be started, the children end with the worker.
    with suppress(RuntimeError):
        reaper.start()


def _end(children: Collection[int]) -> None:
    for pid in with_descendants(children):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    for pid in children:
        _reap(pid)


def _reap(pid: int) -> None:
    until = time.monotonic() + _REAP_S
    with suppress(ChildProcessError):
        while os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT | os.WNOHANG) is None:
            if time.monotonic() > until:
                return
            time.sleep(0.001)
        if (multiprocessing := sys.modules.get("multiprocessing")) is not None:
            # multiprocessing would later signal a process that it has not reaped itself. The id may
            # belong to another process by then.
            multiprocessing.active_children()
        os.waitpid(pid, os.WNOHANG)


def _service_processes() -> set[int]:
    """Return the processes that multiprocessing shares among all threads."""
    found = set()
    for module, name, attribute in (
        ("multiprocessing.resource_tracker", "_resource_tracker", "_pid"),
        ("multiprocessing.forkserver", "_forkserver", "_forkserver_pid"),
    ):
        shared = getattr(sys.modules.get(module), name, None)
        if (pid := getattr(shared, attribute, None)) is not None:
            found.add(pid)
    return found
