"""Rows of the table and kernels of the profiler, and the files that are made of them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from tsloss_fast._terminal import table_row

from ..report import duration
from ..suite import replace


@dataclass
class Row:
    """Seconds or a count, perhaps as a ratio to a baseline, and what was hoped for."""

    work: str
    measured: float | None = None
    baseline: str = ""
    baseline_seconds: float | None = None
    goal: float | None = None  # the largest ratio, or without a baseline the most measured
    unit: str = "s"  # or what is counted
    reason: str = ""  # why something was not measured, or what was wrong
    failed: bool = False

    @property
    def value(self) -> float | None:
        """What the goal is about."""
        if self.measured is None or not self.baseline:
            return self.measured
        return None if self.baseline_seconds is None else self.measured / self.baseline_seconds

    @property
    def met(self) -> bool | None:
        return None if self.goal is None or self.value is None else self.value <= self.goal

    @property
    def missing(self) -> bool:
        """Whether it could not be measured, through nobody's fault."""
        return self.value is None and not self.failed


@dataclass
class Kernels:
    """What one call of some work runs on the device: names, times launched, microseconds."""

    work: str
    found: list[tuple[str, float, float]]

    @property
    def launches(self) -> float:
        return sum(calls for _, calls, _ in self.found)


@dataclass
class Report:
    """All that was found, as files."""

    rehearsal: bool
    machine: dict[str, str] = field(default_factory=dict)
    rows: list[Row] = field(default_factory=list)
    kernels: list[Kernels] = field(default_factory=list)

    def markdown(self) -> str:
        about = [f"- {name}: {value}" for name, value in self.machine.items()]
        return "\n".join([*heading(self.rehearsal), *map(line, self.rows), "", *about]) + "\n"

    def json(self) -> str:
        rows = [{**asdict(row), "value": row.value, "met": row.met} for row in self.rows]
        record = {
            "rehearsal": self.rehearsal,
            "machine": self.machine,
            "rows": rows,
            "kernels": [asdict(found) for found in self.kernels],
        }
        return json.dumps(record, indent=1, ensure_ascii=False) + "\n"

    def kernels_markdown(self) -> str:
        lines = ["# What one call runs on the device", ""]
        if self.rehearsal:
            lines = ["# What one call runs", "", REHEARSAL, ""]
        for found in self.kernels:
            total = sum(microseconds for _, _, microseconds in found.found)
            lines += [f"## {found.work}: {found.launches:.3g} launches, {total:.1f} µs", ""]
            lines += ["| name | calls | µs | µs a call |", "|---|---:|---:|---:|"]
            lines += [
                f"| `{_short(name)}` | {calls:.3g} | {microseconds:.1f} | "
                f"{microseconds / max(calls, 1e-9):.1f} |"
                for name, calls, microseconds in found.found
            ]
            lines.append("")
        return "\n".join(lines)

    def write(self, target: Path) -> None:
        replace(target.with_name("kernels.md"), self.kernels_markdown().encode())
        replace(target.with_suffix(".json"), self.json().encode())
        replace(target, self.markdown().encode())

    @property
    def status(self) -> int:
        """1: something failed; 3: something could not be measured."""
        if any(row.failed for row in self.rows):
            return 1
        return 3 if any(row.missing for row in self.rows) else 0


def _short(name: str) -> str:
    """A kernel without its result and namespaces, and not too long for a table."""
    text = name.removeprefix("void ").replace("tsloss::cuda::", "").replace("tsloss::", "")
    text = text.replace("|", "/").replace("`", "'")
    return text if len(text) <= 100 else text[:99] + "…"


def _words(name: str) -> set[str]:
    return set(re.sub(r"\((\d+), (\d+), (\d+)\)", r"\1x\2x\3", name).replace(",", " ").split())


def select(wanted: Sequence[str], names: Iterable[str]) -> list[str]:
    """The names that hold all words of what is wanted (`1x100x4096`, `kernels`), or that a wanted
    line of the table begins with; all names if nothing is wanted."""
    names = list(names)
    chosen = set() if wanted else set(names)
    for one in wanted:
        holding = [name for name in names if _words(one) <= _words(name)]
        found = holding or [name for name in names if one.startswith(name)]
        if not found:
            raise ValueError(f"{one!r} is none of {', '.join(names)}")
        chosen.update(found)
    return [name for name in names if name in chosen]


REHEARSAL = "**A rehearsal on the CPU with small clouds: no figure here is a measurement.**"


def heading(rehearse: bool) -> list[str]:
    table = ["| work | measured | baseline | its time | ratio | goal | met |", "|---" * 7 + "|"]
    return [REHEARSAL, "", *table] if rehearse else table


def _amount(number: float, unit: str) -> str:
    return duration(number) if unit == "s" else f"{number:.3g} {unit}"


def _verdict(row: Row) -> str:
    if row.failed:
        return f"FAILED: {row.reason}"
    if row.missing:
        return f"NOT RUN: {row.reason}"
    if row.goal is None:
        return ""
    assert row.value is not None
    if row.met:
        return "yes"
    return f"no, {row.value / row.goal:.2f} × the goal" if row.goal else "no"


def line(row: Row) -> str:
    """A row as Markdown."""
    goal = ""
    if row.goal is not None:
        goal = f"≤ {row.goal:.3g} ×" if row.baseline else f"≤ {_amount(row.goal, row.unit)}"
    cells = [
        row.work,
        "" if row.measured is None else _amount(row.measured, row.unit),
        row.baseline,
        "" if row.baseline_seconds is None else duration(row.baseline_seconds),
        f"{row.value:.3g}" if row.baseline and row.value is not None else "",
        goal,
        _verdict(row),
    ]
    return table_row(cell.replace("|", "/") for cell in cells)
