"""Package layout: no short file that only one other file imports."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
SOURCES = [*ROOT.glob("services/*/src"), ROOT / "clients" / "python" / "src"]
MIN_LINES = 40


def modules() -> dict[str, Path]:
    """Return the modules of all packages by name, without generated code and migrations."""
    return {
        ".".join(file.relative_to(source).with_suffix("").parts).removesuffix(".__init__"): file
        for source in SOURCES
        for file in source.rglob("*.py")
        if not {"v1", "migrations"} & set(file.parts)
    }


def imported_names(file: Path) -> Iterator[str]:
    """Yield the names of all modules and objects that a file imports."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield str(node.module)
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def test_short_file_is_imported_by_several_files() -> None:
    found = modules()
    importers: dict[str, set[str]] = {name: set() for name in found}
    for name, file in found.items():
        for target in imported_names(file):
            if target in importers and target != name:
                importers[target].add(name)
    fragments = {
        f"{name} ({lines} lines), imported by {importers[name]}"
        for name, file in found.items()
        if file.stem not in {"__init__", "__main__"}
        and (lines := len(file.read_text().splitlines())) < MIN_LINES
        and len(importers[name]) == 1
    }
    assert fragments == set(), "merge each of them into the file that imports it"
