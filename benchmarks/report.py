"""Tables of a run: aligned text for the terminal, Markdown for a file."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from tsloss_fast._terminal import table_lines

from .goals import assess
from .records import TOLERANCE, Measurement, Results, Row, baselines_of
from .workloads import KINDS

_UNITS = (("s", 1.0), ("ms", 1e-3), ("µs", 1e-6))
_COLUMNS = 4  # workloads side by side: four fit in 100 characters
_LEGEND = (
    "tsloss_fast: shortest time of a call, and its largest relative error against float64.",
    "Others: shortest time as a multiple of that, and largest relative difference from it.",
    f"! more than {TOLERANCE:.0e} apart; bad, failed, - (not run, not installed): see below.",
)


@dataclass(frozen=True)
class _Cell:
    value: str
    note: str = ""


@dataclass(frozen=True)
class _Table:
    title: str
    header: list[str]
    body: list[tuple[str, list[_Cell]]]


def duration(seconds: float | None) -> str:
    """Three digits and a unit."""
    if seconds is None:
        return "-"
    unit, scale = next((u for u in _UNITS if seconds >= u[1]), _UNITS[-1])
    value = seconds / scale
    return f"{value:.{0 if value >= 100 else 1 if value >= 10 else 2}f} {unit}"


def multiple(ratio: float | None) -> str:
    """A ratio with two or three digits."""
    if ratio is None:
        return "-"
    return f"{ratio:.0f}×" if ratio >= 100 else f"{ratio:.1f}×" if ratio >= 10 else f"{ratio:.2f}×"


def small(difference: float | None) -> str:
    """One digit and an exponent, without its leading zero."""
    if difference is None:
        return ""
    if difference == 0:
        return "0"
    digit, exponent = f"{difference:.0e}".split("e")
    return f"{digit}e{int(exponent)}"


def _note(cell: Measurement) -> str:
    if cell.status != "measured":
        return ""
    text = "bad" if cell.mismatch else small(cell.error if cell.role == "ours" else cell.difference)
    return text + ("!" if cell.disagrees else "")


def _tables(results: Results) -> Iterator[_Table]:
    groups: dict[str, list[Row]] = {}
    for row in results.rows:
        groups.setdefault(row.kind, []).append(row)
    for kind, rows in groups.items():
        for start in range(0, len(rows), _COLUMNS):
            yield _table(KINDS[kind], rows[start : start + _COLUMNS])


def _table(title: str, rows: Sequence[Row]) -> _Table:
    def line(label: str, cell: Callable[[Row, Measurement], _Cell]) -> list[_Cell]:
        found = [next((m for m in r.measurements if m.label == label), None) for r in rows]
        return [_Cell("-") if m is None else cell(r, m) for r, m in zip(rows, found, strict=True)]

    def failed_or(text: str, m: Measurement) -> str:
        return "failed" if m.status == "failed" else text

    ours = rows[0].ours.label
    body = [
        (ours, line(ours, lambda _, m: _Cell(failed_or(duration(m.minimum), m), _note(m)))),
        ("  median", line(ours, lambda _, m: _Cell(duration(m.median)))),
    ]
    for label in baselines_of(rows):
        cells = line(label, lambda r, m: _Cell(failed_or(multiple(r.ratio(m)), m), _note(m)))
        body.append((label, cells))
    for label in baselines_of(rows, "yardstick"):
        cells = line(label, lambda r, m: _Cell(_share(r.ratio(m))))
        body.append((f"{ours} / {label}", cells))
    return _Table(title, [r.label for r in rows], body)


def _share(ratio: float | None) -> str:
    return "-" if ratio is None else f"{1 / ratio:.2f}"


def remarks(results: Results) -> list[str]:
    """One line for everything that was not measured, failed, or needs a warning."""
    lines = [f"not installed: {name} ({how})" for name, how in results.missing.items()]
    reasons: dict[tuple[str, str, str], list[str]] = {}
    for row in results.rows:
        for m in row.measurements:
            if m.status in ("not run", "failed"):
                reasons.setdefault((m.status, m.label, m.reason), []).append(row.label)
            elif m.mismatch:
                reasons.setdefault(("bad result", m.label, m.mismatch), []).append(row.label)
    lines += [f"{s}: {name} on {', '.join(on)}: {why}" for (s, name, why), on in reasons.items()]
    lines += [
        f"WRONG: tsloss_fast on {label} failed or is more than {TOLERANCE:.0e} from float64"
        for label in results.wrong
    ]
    stolen = max((row.stolen for row in results.rows if row.kind != "threads"), default=1.0)
    if results.settings["threads"] == 1 and stolen > 1.2:
        lines.append(
            f"the machine was busy: wall-clock times are up to {stolen:.1f}× the processor times"
        )
    return lines


def settings_line(results: Results) -> str:
    """Machine, threads and load in one line."""
    facts, threads = results.machine, results.settings["threads"]
    loads = [row.load for row in results.rows if row.load is not None]
    load = f", load {min(loads):.1f} to {max(loads):.1f}" if loads else ""
    return (
        f"tsloss_fast {facts['tsloss-fast']} ({facts['instruction set of tsloss_fast']}), "
        f"torch {facts['torch']}, {facts['processor']}, {facts['cores']} cores, "
        f"{threads} thread{'s' * (threads > 1)}{load}"
    )


def text(results: Results, *, goals: bool = False) -> str:
    """The tables for a terminal, about 90 characters wide, and the goals of `goals.py` if asked."""
    lines = [settings_line(results), *_LEGEND]
    for table in _tables(results):
        width = max(len(label) for label, _ in table.body)
        widths = [max(8, len(h) - 6) for h in table.header]
        header = "".join(f"  {h:>{w + 6}}" for w, h in zip(widths, table.header, strict=True))
        lines += ["", table.title, " " * width + header]
        for label, cells in table.body:
            padded = "".join(
                f"  {c.value:>{w}}{c.note:>6}" for w, c in zip(widths, cells, strict=True)
            )
            lines.append(f"{label:<{width}}{padded}".rstrip())
    if goals and (assessed := assess(results.rows)):
        lines += ["", _GOALS]
        lines += [f"  {w}, {a}: {g}; {r}, {v}" for w, a, g, r, v in assessed]
    return "\n".join([*lines, "", *remarks(results)]).rstrip() + "\n"


def markdown(results: Results, picture: str | None = None, *, goals: bool = False) -> str:
    """The same tables in Markdown, then every number, what each name stands for, the machine."""
    out = ["# Benchmark of tsloss_fast", "", settings_line(results) + ".", ""]
    if picture:
        out += [f"![Time of each implementation, relative to tsloss_fast]({picture})", ""]
    out += [" ".join(_LEGEND)]
    for table in _tables(results):
        out += ["", f"**{table.title}**", ""]
        cells = [
            [c.value + (f" ({c.note})" if c.note else "") for c in row] for _, row in table.body
        ]
        names = [label.strip() for label, _ in table.body]
        lines = [[n, *c] for n, c in zip(names, cells, strict=True)]
        out += table_lines(["", *table.header], lines, numbers=True)
    if notes := remarks(results):
        out += ["", *(f"- {note}" for note in notes)]
    if goals and (assessed := assess(results.rows)):
        out += ["", "## Goals", "", _GOALS, ""]
        out += table_lines(["work", "against", "goal", "measured", ""], assessed, numbers=True)
    out += ["", "## Every measurement", "", _MEANING, ""]
    header = ["work", "implementation", "minimum", "median", "CPU", "samples", "/ ours (minimum)"]
    header += ["/ ours (median)", "difference", "error"]
    details = [_details(row, m) for row in results.rows for m in row.measurements]
    out += table_lines(header, details, numbers=True)
    about = {(m.label, m.about): None for row in results.rows for m in row.measurements}
    out += ["", "## What was called", "", *(f"- {name}: {what}." for name, what in about)]
    out += ["", "## Machine and versions", ""]
    facts = {**results.machine, **{k: str(v) for k, v in results.settings.items()}}
    return "\n".join([*out, *(f"- {name}: {value}" for name, value in facts.items())]) + "\n"


_GOALS = "Goals: the time of tsloss_fast as a share of another time, shortest samples."

_MEANING = (
    "Times are wall-clock per call; CPU is the smallest processor time of a call. Difference: from "
    "tsloss_fast; error: from float64 (not computed above 4096 points)."
)


def _details(row: Row, m: Measurement) -> list[str]:
    if m.status != "measured":
        return [row.label, m.label, f"{m.status}: {m.reason}", *[""] * 7]
    ratios = [multiple(row.ratio(m, statistic)) for statistic in ("minimum", "median")]
    return [
        row.label,
        m.label,
        duration(m.minimum),
        duration(m.median),
        duration(min(m.cpu_seconds, default=None)),
        str(len(m.seconds)),
        *ratios,
        m.mismatch or small(m.difference),
        small(m.error),
    ]
