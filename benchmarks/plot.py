"""The picture of a run: the time of every implementation relative to tsloss_fast."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

from .records import Results, Row
from .workloads import FIRST_SECTIONS

# The colours of Okabe and Ito stay apart for colour-blind readers, the shapes do so in print. A
# library keeps its mark in every row, whatever it is combined with there.
MARKS = {
    "GUDHI RipsComplex": ("#0072B2", "o"),
    "GUDHI create_from_array": ("#0072B2", "s"),
    "GUDHI RipsPersistence": ("#56B4E9", "^"),
    "GUDHI fastest": ("#56B4E9", "s"),
    "ripser.py": ("#E69F00", "v"),
    "giotto-ph": ("#D55E00", "D"),
    "torch-topological": ("#CC79A7", "<"),
    "SciPy pdist + MST": ("#8C6D31", ">"),
    "SciPy pdist + linkage": ("#8C6D31", "p"),
    "scikit-learn": ("#999933", "d"),
    "quitefastmst": ("#882255", "*"),
    "torch.cdist + fastcluster": ("#009E73", "P"),
    "torch.pdist + fastcluster": ("#009E73", "X"),
    "torch + fastcluster": ("#009E73", "h"),
}
_OTHER = ("#777777", "o")
_INK, _FAINT, _SHADE = "#222222", "#DDDDDD", "#F5F2EA"


def png(results: Results) -> bytes:
    """A dot for each way and workload, on a log axis; 1 is the time of tsloss_fast.

    The training steps and the single clouds are shown, which is what most readers look for, and
    each way with a right result there, on whichever side of 1 it falls.

    Raises:
        ImportError: matplotlib is not installed.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter, LogLocator

    measured = [row for row in results.rows if row.ours.seconds]
    rows = [row for row in measured if row.work.section in FIRST_SECTIONS] or measured
    series = _marks(rows)
    figure = Figure(figsize=(9, 2.2 + 0.36 * len(rows)), dpi=150, layout="constrained")
    axes = figure.subplots()
    for name, points in series.items():
        # Each library keeps a height of its own in every row, so that marks do not hide each other.
        lift = (list(MARKS).index(name) / (len(MARKS) - 1) - 0.5) * 0.5 if name in MARKS else 0
        x, y = zip(*((ratio, row + lift) for ratio, row in points), strict=True)
        axes.scatter(x, y, label=name, zorder=3, **_style(name))
    ratios = [ratio for points in series.values() for ratio, _ in points]
    limits = (min([0.3, *ratios]) / 1.3, max([3, *ratios]) * 1.3)
    axes.set(xscale="log", xlim=limits, ylim=(len(rows) - 0.5, -0.5))
    axes.axvspan(limits[0], 1, color=_SHADE, zorder=0)
    axes.axvline(1, color=_INK, linewidth=1.4, zorder=2)

    top = axes.get_xaxis_transform()
    style: dict[str, Any] = {"fontsize": 9, "va": "bottom", "color": _INK}
    axes.text(1, 1.01, "tsloss_fast = 1", transform=top, ha="center", fontweight="bold", **style)
    axes.text(limits[0], 1.01, "← faster", transform=top, ha="left", **style)
    axes.text(limits[1], 1.01, "slower →", transform=top, ha="right", **style)
    axes.set_yticks(range(len(rows)), [row.label for row in rows])
    axes.xaxis.set_major_locator(LogLocator(10))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}×"))
    axes.grid(axis="x", color=_FAINT, linewidth=0.6, zorder=1)
    for edge in range(1, len(rows)):
        axes.axhline(edge - 0.5, color=_FAINT, linewidth=0.6, zorder=1)
    axes.tick_params(which="both", length=0, labelsize=9)
    axes.spines[:].set_visible(False)

    threads, facts = results.settings["threads"], results.machine
    axes.set_xlabel(
        "shortest time of a call, as a multiple of tsloss_fast\n"
        f"{facts['processor']}, {threads} thread{'s' * (threads > 1)}, "
        f"{facts['instruction set of tsloss_fast']}, torch {facts['torch']}",
        fontsize=9,
    )
    if series:
        figure.legend(loc="outside lower center", ncols=4, frameon=False, fontsize=8.5)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()


def _marks(rows: Sequence[Row]) -> dict[str, list[tuple[float, int]]]:
    """The ratio and the row of each mark, by the name of its way."""
    marks: dict[str, list[tuple[float, int]]] = {}
    for number, row in enumerate(rows):
        for role in ("baseline", "yardstick"):
            for way, ratio in row.best_ways(role).items():
                marks.setdefault(way, []).append((ratio, number))
    return marks


def _style(name: str) -> dict[str, Any]:
    if name in ("sgemm X·Xᵀ", "X.clone()"):
        return {
            "color": _INK,
            "marker": "|" if name[0] == "s" else "_",
            "s": 120,
            "linewidths": 2.4,
        }
    colour, shape = MARKS.get(name, _OTHER)
    return {"color": colour, "marker": shape, "s": 42, "edgecolors": "white", "linewidths": 0.6}
