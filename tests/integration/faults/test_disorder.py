"""The shifted clocks and full disks that fault scenarios use."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from faults import clock, disk
from faults.clock import Clock

# A program that prints both clocks for every line of its input.
_PRINT_CLOCKS = """
import sys, time
for _ in sys.stdin:
    print(time.time(), time.monotonic(), flush=True)
"""


def _clock_skip_reason() -> str:
    with tempfile.TemporaryDirectory() as folder:
        return clock.unsupported_reason(Path(folder))


def _disk_skip_reason() -> str:
    with tempfile.TemporaryDirectory() as folder:
        return disk.unsupported_reason(Path(folder))


@pytest.mark.skipif(bool(_clock_skip_reason()), reason=_clock_skip_reason())
def test_shifted_clock_changes_wall_time_only(tmp_path: Path):
    shifted = Clock(tmp_path / "clock")
    with subprocess.Popen(
        [sys.executable, "-c", _PRINT_CLOCKS],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, **shifted.environment},
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None

        def clock_offsets() -> tuple[float, float]:
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdin.write("\n")
            process.stdin.flush()
            wall, monotonic = map(float, process.stdout.readline().split())
            return wall - time.time(), monotonic - time.monotonic()

        assert clock_offsets() == pytest.approx((0, 0), abs=1)
        for seconds in (3600, -600):
            shifted.set(seconds)
            deadline = time.monotonic() + 10
            while abs(clock_offsets()[0] - seconds) > 1:
                assert time.monotonic() < deadline, f"the clocks are {clock_offsets()} s ahead"
                time.sleep(0.05)
            assert clock_offsets()[1] == pytest.approx(0, abs=1)
        process.stdin.close()


@pytest.mark.skipif(bool(_disk_skip_reason()), reason=_disk_skip_reason())
def test_disk_is_full_until_it_is_freed(tmp_path: Path):
    with disk.disk(tmp_path / "disk", mib=8) as disk_folder:
        assert disk_folder.free_mib > 7
        disk_folder.fill()
        with pytest.raises(OSError, match=os.strerror(errno.ENOSPC)):
            (disk_folder.path / "more").write_bytes(bytes(2**16))
        disk_folder.free()
        (disk_folder.path / "more").write_bytes(bytes(2**16))
    assert list((tmp_path / "disk").iterdir()) == []
