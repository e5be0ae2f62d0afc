"""Tables in Markdown, line by line: a row can be shown as soon as it was measured."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence


def table_row(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def table_head(names: Sequence[str], numbers: bool = False) -> Iterator[str]:
    """With numbers, all columns but the first are aligned at the right."""
    yield table_row(names)
    yield table_row(["---"] + ["---:" if numbers else "---"] * (len(names) - 1))


def table_lines(
    names: Sequence[str], rows: Iterable[Sequence[str]], numbers: bool = False
) -> Iterator[str]:
    yield from table_head(names, numbers)
    yield from map(table_row, rows)
