"""The type of a function that runs the command line."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from typing import TypeAlias

# Takes settings and arguments.
Headrace: TypeAlias = Callable[..., subprocess.CompletedProcess[str]]
