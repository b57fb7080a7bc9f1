"""Tables as plain text and as Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field


@dataclass(slots=True)
class Table:
    """A table with a title. The first column contains text; all others contain figures.

    Args:
        title: the line above the table.
        columns: the headings.
        rows: the formatted cells of each row.
    """

    title: str
    columns: Sequence[str]
    rows: list[Sequence[str]] = field(default_factory=list)

    def text(self) -> str:
        """Return the table for a terminal."""
        widths = self._widths()
        lines = [
            self.title,
            self._text_row(self.columns, widths),
            "  ".join("─" * w for w in widths),
        ]
        lines += (self._text_row(row, widths) for row in self.rows)
        return "\n".join(lines)

    def markdown(self) -> str:
        """Return the table in Markdown."""
        lines = [f"**{self.title}**", "", _markdown_row(self.columns)]
        lines.append(_markdown_row(["---", *["---:"] * (len(self.columns) - 1)]))
        lines += (_markdown_row(row) for row in self.rows)
        return "\n".join(lines)

    def _widths(self) -> list[int]:
        return [max(map(len, column)) for column in zip(self.columns, *self.rows, strict=True)]

    def _text_row(self, cells: Sequence[str], widths: Sequence[int]) -> str:
        first, *others = zip(cells, widths, strict=True)
        return "  ".join([first[0].ljust(first[1]), *(cell.rjust(w) for cell, w in others)])


def _markdown_row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
