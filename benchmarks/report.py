"""Tables of a run: aligned text for the terminal, Markdown for a file, and one sentence."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from tsloss_fast._terminal import table_lines

from .goals import HEADER, assess
from .records import TOLERANCE, Measurement, Results, Row
from .workloads import STEP_KINDS, threads_of

_UNITS = (("s", 1.0), ("ms", 1e-3), ("µs", 1e-6))
_LEGEND = (
    "tsloss_fast: the shortest time of a call. 2.5×: this way takes 2.5 times as long.",
    "ours ÷: the time of tsloss_fast over that of the other; below 1 tsloss_fast is faster.",
)
_GOALS = "Goals of the developers: the time of tsloss_fast over another time, shortest samples."
_MEANING = (
    "Times are wall-clock per call; CPU is the smallest processor time of a call. Difference: from "
    "tsloss_fast; error: from float64 (not computed above 4096 points)."
)
# These libraries have no switch for their instruction set.
_NOT_HELD = "SciPy, scikit-learn, GUDHI, fastcluster, ripser.py, giotto-ph and quitefastmst"


@dataclass(frozen=True)
class Table:
    title: str
    header: list[str]
    rows: list[list[str]]

    def text(self) -> Iterator[str]:
        widths = [max(map(len, column)) for column in zip(self.header, *self.rows, strict=True)]
        yield self.title
        for first, *cells in (self.header, *self.rows):
            padded = (f"  {c:>{w}}" for c, w in zip(cells, widths[1:], strict=True))
            yield f"{first:<{widths[0]}}{''.join(padded)}".rstrip()

    def markdown(self) -> list[str]:
        return [f"**{self.title}**", "", *table_lines(self.header, self.rows, numbers=True)]


def duration(seconds: float | None) -> str:
    """Three digits and a unit."""
    if seconds is None:
        return "-"
    unit, scale = next((u for u in _UNITS if seconds >= u[1]), _UNITS[-1])
    value = seconds / scale
    return f"{value:.{0 if value >= 100 else 1 if value >= 10 else 2}f} {unit}"


def multiple(ratio: float | None) -> str:
    """A ratio with two or three digits."""
    return "-" if ratio is None else f"{_digits(ratio)}×"


def _digits(ratio: float) -> str:
    return f"{ratio:.{0 if ratio >= 100 else 1 if ratio >= 10 else 2}f}"


def small(difference: float | None) -> str:
    """One digit and an exponent, without its leading zero."""
    if difference is None:
        return ""
    if difference == 0:
        return "0"
    digit, exponent = f"{difference:.0e}".split("e")
    return f"{digit}e{int(exponent)}"


def tables(results: Results) -> Iterator[Table]:
    """The training steps first: each other way in its column. Then, for every other section, the
    fastest other way and the yardstick."""
    sections: dict[str, list[Row]] = {}
    for row in results.rows:
        sections.setdefault(row.work.section, []).append(row)
    for title, rows in sections.items():
        steps = rows[0].work.kind in STEP_KINDS
        yield _step_table(title, rows) if steps else _forward_table(title, rows)


def _step_table(title: str, rows: list[Row]) -> Table:
    others = [m.way for row in rows for m in row.measurements if m.role == "baseline"]
    columns = list(dict.fromkeys(others))
    body = []
    for row in rows:
        best = row.best_ways("baseline")
        body.append([row.label, _time(row.ours), *(multiple(best.get(way)) for way in columns)])
    return Table(title, ["", "tsloss_fast", *columns], body)


def _forward_table(title: str, rows: list[Row]) -> Table:
    yardsticks = {m.label for row in rows for m in row.measurements if m.role == "yardstick"}
    common = yardsticks.pop() if len(yardsticks) == 1 else ""
    body = []
    for row in rows:
        cells = [row.label, _time(row.ours)]
        for role in ("baseline", "yardstick"):
            best = next(iter(row.of_role(role)), None)
            share = _share(row, best) if best else "-"
            if role == "baseline":
                cells += [best.label if best else "-", share]
            elif common or yardsticks:
                cells.append(share if common or not best else f"{share} of {best.label}")
        body.append(cells)
    header = ["", "tsloss_fast", "best other way", "ours ÷ it"]
    if common or yardsticks:
        header.append(f"ours ÷ {common or 'yardstick'}")
    return Table(title, header, body)


def _time(ours: Measurement) -> str:
    return duration(ours.minimum) if ours.status == "measured" else ours.status


def _share(row: Row, other: Measurement) -> str:
    ratio = row.ratio(other)
    return "-" if ratio is None else f"{1 / ratio:.2f}"


def sentence(results: Results, elsewhere: bool = False) -> str:
    """How much faster than GUDHI, and every other way that is faster anywhere, and by how much."""
    gudhi: list[float] = []
    faster: dict[str, list[str]] = {}
    for row in results.rows:
        best = row.best_ways("baseline")
        gudhi += [ratio for label, ratio in best.items() if label.startswith("GUDHI")][:1]
        for label, ratio in best.items():
            if 1 / ratio >= 1.005:  # what rounds to 1.00 is a tie
                faster.setdefault(label, []).append(f"{row.label} ({_digits(1 / ratio)}×)")
    where = "There" if elsewhere else "On this machine"
    start = f"{where} GUDHI was not measured"
    if gudhi:
        ends = dict.fromkeys(map(_digits, (min(gudhi), max(gudhi))))
        start = f"{where} tsloss_fast is {' to '.join(ends)} times as fast as GUDHI's fastest way"
    if not faster:
        return f"{start}; no other way that was measured is faster at any size."
    slower = "; slower than ".join(f"{label} at {', '.join(at)}" for label, at in faster.items())
    return f"{start}; slower than {slower}."


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
            elif m.disagrees and m.role != "ours":
                why = f"more than {TOLERANCE:.0e} from tsloss_fast, so no comparison"
                reasons.setdefault(("bad result", m.label, why), []).append(row.label)
    lines += [f"{s}: {name} on {_some(on)}: {why}" for (s, name, why), on in reasons.items()]
    parts = {m.clouds for row in results.rows for m in row.measurements if m.clouds}
    lines += [
        f"of a batch of more than {n} clouds the loops over other libraries were timed on the "
        f"first {n}, and scaled"
        for n in sorted(parts)
    ]
    lines += [
        f"WRONG: tsloss_fast on {label} failed or is more than {TOLERANCE:.0e} from float64"
        for label in results.wrong
    ]
    alone = [row.stolen for row in results.rows if row.work.threads is None]
    stolen = max(alone, default=1.0)
    if results.settings["threads"] == 1 and stolen > 1.2:
        lines.append(
            f"the machine was busy: wall-clock times are up to {stolen:.1f}× the processor times"
        )
    return lines


def _some(labels: list[str]) -> str:
    """All of a few; of many the first three, since the Markdown file has a line for each."""
    more = len(labels) - 3
    return ", ".join(labels[:3]) + (f" and {more} more" if more > 0 else "")


def settings_lines(results: Results, elsewhere: bool = False) -> list[str]:
    """Machine, threads, load and date; what the instruction set held, if one was asked for."""
    facts, settings = results.machine, results.settings
    loads = [row.load for row in results.rows if row.load is not None]
    load = f", load {min(loads):.1f} to {max(loads):.1f}" if loads else ""
    threads = threads_of(settings["threads"])
    if any(row.work.threads for row in results.rows):
        threads += " unless a row says otherwise"
    lines = ["measured on another machine"] if elsewhere else []
    lines.append(
        f"tsloss_fast {facts['tsloss-fast']} ({facts['instruction set of tsloss_fast']}), "
        f"torch {facts['torch']}, {facts['processor']}, {facts['cores']} cores, "
        f"{threads}{load}, {settings['date']}"
    )
    if isa := settings.get("isa"):
        lines.append(
            f"held to {isa}: tsloss_fast, NumPy, and torch, which says "
            f"{facts['instruction set of torch']}; MKL: {facts['instruction set of MKL']}; "
            f"not held: {_NOT_HELD}"
        )
    return lines


def text(results: Results, *, goals: bool = False, elsewhere: bool = False) -> str:
    """The tables for a terminal, and the goals of `goals.py` if asked.

    If ``elsewhere``, the text says that it was measured on another machine.
    """
    lines = [*settings_lines(results, elsewhere), *_LEGEND]
    for table in tables(results):
        lines += ["", *table.text()]
    if notes := remarks(results):
        lines += ["", *notes]
    if goals and (assessed := assess(results)):
        lines += ["", *Table(_GOALS, HEADER, assessed).text()]
    return "\n".join([*lines, "", sentence(results, elsewhere)]) + "\n"


def markdown(
    results: Results, picture: str | None = None, *, goals: bool = False, elsewhere: bool = False
) -> str:
    """The same tables in Markdown, then every number, what each name stands for, the machine."""
    out = ["# Benchmark of tsloss_fast", ""]
    out += [line + "." for line in settings_lines(results, elsewhere)]
    out += ["", f"**{sentence(results, elsewhere)}**", ""]
    if picture:
        out += [f"![Time of each implementation, relative to tsloss_fast]({picture})", ""]
    out += [" ".join(_LEGEND)]
    for table in tables(results):
        out += ["", *table.markdown()]
    if notes := remarks(results):
        out += ["", *(f"- {note}" for note in notes)]
    if goals and (assessed := assess(results)):
        out += ["", *Table(_GOALS, HEADER, assessed).markdown()]
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
        str(len(m.seconds)) + (f", {m.clouds} clouds" if m.clouds else ""),
        *ratios,
        m.mismatch or small(m.difference) + ("!" if m.disagrees else ""),
        small(m.error),
    ]
