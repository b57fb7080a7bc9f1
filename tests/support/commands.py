"""The type of a function that runs the command line."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from typing import TypeAlias

# The function takes settings and arguments.
Headrace: TypeAlias = Callable[..., subprocess.CompletedProcess[str]]
