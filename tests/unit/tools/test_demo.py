"""`make demo`: two demos in one checkout use different folders."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

DEMO = Path(__file__).parents[3] / "examples" / "demo"

PROGRAM = """
import runpy, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
demo = runpy.run_path(sys.argv[1] + "/__main__.py", run_name="demo")
for _ in range(2):  # the files of an earlier run are removed
    with demo["_locked_output_folder"]() as first:
        assert not list(first.iterdir())
        (first / "files").mkdir()
        (first / "results.json").touch()
        with demo["_locked_output_folder"]() as second:
            assert not list(second.iterdir())
            print(first, second, len(list(first.iterdir())))
"""


def test_second_demo_writes_to_another_folder(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(DEMO)],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
        timeout=100,
    )
    assert done.stdout.splitlines() == ["demo-output demo-output-2 2"] * 2, done.stderr
