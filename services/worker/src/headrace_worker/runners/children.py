"""The child processes of handlers: their signals, forks, and termination after an attempt.

/proc lists the children (Linux only). On other systems, only the process group of a separate
handler process ends with the handler.
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

# The signals for which the worker and its event loop have handlers.
_HANDLED_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGCHLD)
# The time for a killed child process to exit, in seconds.
_MAX_REAP_S: Final = 2.0

# The state of each thread that is restored after a fork.
_fork = threading.local()


def keep_signals_from_forks() -> None:
    """Reset signal handling in every child that this process forks from now on.

    Otherwise a child would report its own signals to its parent's event loop, through the wake-up
    descriptor that both share.
    """
    os.register_at_fork(
        before=_block_signals, after_in_parent=_unblock_signals, after_in_child=_reset_signals
    )


def _block_signals() -> None:
    # A signal must not arrive in the child before its handlers are reset.
    _fork.mask = signal.pthread_sigmask(signal.SIG_BLOCK, _HANDLED_SIGNALS)
    if owning_attempt() is not None:
        _fork.children = _children_of_thread(threading.get_native_id())


def _unblock_signals() -> None:
    signal.pthread_sigmask(signal.SIG_SETMASK, _fork.mask)
    if (attempt := owning_attempt()) is not None:
        attempt.forked |= _children_of_thread(threading.get_native_id()) - _fork.children


def _reset_signals() -> None:
    signal.set_wakeup_fd(-1)
    for signum in _HANDLED_SIGNALS:
        signal.signal(signum, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, _fork.mask)


def end_forks_of_loop() -> None:
    """End children that are forked in the event loop when their code returns to the loop.

    Otherwise such a child would run the loop with its parent's tasks and connections.
    """

    def watch() -> None:
        first: FrameType | None = None
        frame = sys._getframe().f_back  # noqa: SLF001 - documented
        while frame is not None and frame.f_code is not run_to_end.__code__:
            if frame.f_globals.get("__name__") == "multiprocessing.popen_fork":
                # multiprocessing ends its own children.
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


def exit_if_forked(pid: int, code: int) -> None:
    """Exit this process if it is a forked child that has left its handler.

    Args:
        pid: the process that called the handler.
        code: the exit code of the child.
    """
    if os.getpid() != pid:
        os._exit(code)


def children_of(pid: int | None = None) -> set[int]:
    """Return the children of a process, including adopted children. The default is this process."""
    found: set[int] = set()
    # The process may have ended by now.
    with suppress(OSError):
        for thread in Path(f"/proc/{pid or 'self'}/task").iterdir():
            found |= _read_pids(f"{thread}/children")
    return found


def _children_of_thread(thread: int) -> set[int]:
    return _read_pids(f"/proc/self/task/{thread}/children")


def _read_pids(file: str) -> set[int]:
    try:
        # Each attempt in a thread reads such a file, and pathlib takes twice as long.
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


def end_children_in_background(thread: int) -> None:
    """End children like `end_children`, but in the background."""
    if children := _children_of_thread(thread):
        _end_in_background(children - _service_processes())


def end_forked(pids: Collection[int]) -> None:
    """Kill, in the background, the processes in `pids` that are still children of this process."""
    if left := children_of() & set(pids):
        _end_in_background(left)


def _end_in_background(children: Collection[int]) -> None:
    # Handlers can occupy the loop's executor, so start a new thread.
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
    until = time.monotonic() + _MAX_REAP_S
    with suppress(ChildProcessError):
        while os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT | os.WNOHANG) is None:
            if time.monotonic() > until:
                return
            time.sleep(0.001)
        if (multiprocessing := sys.modules.get("multiprocessing")) is not None:
            # Otherwise multiprocessing could later signal this process id, which may belong to
            # another process by then.
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
