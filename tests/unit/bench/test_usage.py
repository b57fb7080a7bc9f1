"""The wake-ups of processes."""

from __future__ import annotations

import subprocess
import sys

from bench.usage import CpuMeter, switches_between

# For each line, a thread of the child sleeps 50 times, then repeats the line.
_SLEEPS = 50
_CHILD = f"""
import sys, threading, time
def work():
    for line in sys.stdin:
        for _ in range({_SLEEPS}):
            time.sleep(0.0001)
        print(line, end="", flush=True)
thread = threading.Thread(target=work)
thread.start()
thread.join()
"""


def test_wake_ups_of_threads_are_counted() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", _CHILD], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        meter = CpuMeter({"child": child.pid})
        found = []
        for _ in range(2):
            child.stdin.write(b"x\n")
            child.stdin.flush()
            assert child.stdout.readline() == b"x\n"
            found.append(meter.switches())
        child.stdin.close()
    assert switches_between(*found) >= _SLEEPS


def test_wake_ups_before_the_first_sample_are_not_counted() -> None:
    assert switches_between({(1, 1): 7, (1, 2): 5}, {(1, 1): 10, (1, 3): 4}) == 7
