"""The tables of made records."""

from __future__ import annotations

import re

import pytest

pytest.importorskip("scipy")
pytest.importorskip("pyarrow")


NOTHING = "no difference to cross-entropy alone has been shown in this group."


def tables(page: str) -> list[list[dict[str, str]]]:
    """The tables of a page in Markdown, as rows by the names of their columns."""
    found = []
    for block in re.findall(r"(?:^\|.*\|\n)+", page, re.MULTILINE):
        lines = [
            [cell.strip() for cell in line.strip("|").split("|")] for line in block.splitlines()
        ]
        assert set(lines[1]) == {"---"}
        assert {len(line) for line in lines} == {len(lines[0])}
        found.append([dict(zip(lines[0], line, strict=True)) for line in lines[2:]])
    return found


def row(table: list[dict[str, str]], **wanted: str) -> dict[str, str]:
    (found,) = (r for r in table if all(r[name] == value for name, value in wanted.items()))
    return found
