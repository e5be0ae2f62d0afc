"""What a run of the benchmark found, as plain data that goes to JSON and back."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from statistics import median
from typing import Any

from .workloads import Workload, parse

# Above this relative difference a table marks the cell: the two do not agree, whoever is right.
TOLERANCE = 1e-4


@dataclass
class Measurement:
    """One implementation on one workload.

    Attributes:
        status: ``measured``, ``not installed``, ``not run`` (with the reason) or ``failed``.
        seconds: wall-clock time of a call, one number per sample.
        cpu_seconds: processor time of the same samples, over all threads.
        difference: largest relative difference of a death or value (of the gradient: relative
            difference in the Euclidean norm) from tsloss_fast; None if nothing can be compared.
        error: the same against float64; None if it was too large to compute.
        mismatch: the results could not be compared (NaN, wrong number of bars), and why.
        clouds: how many clouds of a batch were timed, where the times were scaled to all of them.
    """

    label: str
    role: str
    about: str = ""
    status: str = "measured"
    reason: str = ""
    seconds: list[float] = field(default_factory=list)
    cpu_seconds: list[float] = field(default_factory=list)
    difference: float | None = None
    error: float | None = None
    mismatch: str = ""
    clouds: int | None = None

    @property
    def minimum(self) -> float | None:
        return min(self.seconds, default=None)

    @property
    def median(self) -> float | None:
        return median(self.seconds) if self.seconds else None

    @property
    def way(self) -> str:
        """The name of the way: the label up to its first comma. Where several measurements have
        one name, a user takes the fastest, and they count as one way."""
        return self.label.split(",")[0]

    @property
    def disagrees(self) -> bool:
        """Whether its result differs from ours (ours: from float64) by more than the tolerance."""
        found = self.error if self.role == "ours" else self.difference
        return bool(self.mismatch) or (found is not None and not found <= TOLERANCE)


@dataclass
class Row:
    """All implementations on one workload, ours first."""

    workload: str
    load: float | None
    measurements: list[Measurement]

    @property
    def work(self) -> Workload:
        return parse(self.workload)

    @property
    def label(self) -> str:
        return self.work.label

    @property
    def ours(self) -> Measurement:
        return self.measurements[0]

    def of_role(self, role: str) -> list[Measurement]:
        """Return the measurements that can be compared with tsloss_fast, fastest first.

        A wrong result is left out, however fast it was. Without a time of ours the list is empty.
        """
        found = [
            m
            for m in self.measurements
            if m.role == role and not m.disagrees and self.ratio(m) is not None
        ]
        return sorted(found, key=lambda m: m.minimum or 0.0)

    def best_ways(self, role: str) -> dict[str, float]:
        """Return the ratio of the fastest measurement of each way, fastest first."""
        best: dict[str, float] = {}
        for m in self.of_role(role):
            if (ratio := self.ratio(m)) is not None:
                best.setdefault(m.way, ratio)
        return best

    def ratio(self, other: Measurement, statistic: str = "minimum") -> float | None:
        """How many times longer ``other`` takes than tsloss_fast."""
        mine, theirs = getattr(self.ours, statistic), getattr(other, statistic)
        return theirs / mine if mine and theirs else None

    @property
    def stolen(self) -> float:
        """Wall-clock over processor time of our samples: 1 when no other program was in the way."""
        wall, cpu = sum(self.ours.seconds), sum(self.ours.cpu_seconds)
        return wall / cpu if cpu else 1.0


@dataclass
class Results:
    """A whole run: the machine, the settings and the rows."""

    machine: dict[str, str]
    settings: dict[str, Any]
    rows: list[Row]
    files: list[str] = field(default_factory=list)

    @property
    def missing(self) -> dict[str, str]:
        """Baselines that are not installed -> how to install them."""
        cells = [m for row in self.rows for m in row.measurements]
        return {m.label: m.reason for m in cells if m.status == "not installed"}

    @property
    def wrong(self) -> list[str]:
        """Workloads on which tsloss_fast failed, or disagrees with float64."""
        return [row.label for row in self.rows if row.ours.status == "failed" or row.ours.disagrees]

    def to_json(self) -> str:
        """Every number, one workload per line; times are rounded to four digits."""

        def compact(value: Any) -> str:
            return json.dumps(value, ensure_ascii=False, allow_nan=False)

        rows = [asdict(row) for row in self.rows]
        for cell in (m for row in rows for m in row["measurements"]):
            for samples in ("seconds", "cpu_seconds"):
                cell[samples] = [float(f"{s:.4g}") for s in cell[samples]]
        head = f'{{"machine": {compact(self.machine)},\n"settings": {compact(self.settings)},\n'
        return head + '"rows": [\n' + ",\n".join(map(compact, rows)) + "\n]}\n"


def row_from(data: dict[str, Any]) -> Row:
    """The inverse of ``dataclasses.asdict`` for a row."""
    return Row(**{**data, "measurements": [Measurement(**m) for m in data["measurements"]]})


def results_from_json(text: str) -> Results:
    """Results read back, for example to plot them again.

    Raises:
        ValueError: the text is not the JSON of a benchmark.
    """
    try:
        data = json.loads(text)
        return Results(data["machine"], data["settings"], [row_from(r) for r in data["rows"]])
    except (KeyError, TypeError, AttributeError) as problem:
        raise ValueError(f"not the JSON file of a benchmark: {problem!r} is missing") from None
