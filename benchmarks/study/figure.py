"""The figure of an experiment: how each method learns, and its differences to the baseline."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from tsloss_fast._files import whole_file
from tsloss_fast.analysis.figures.axes import COLOURS, GREY, GRID, INK, axes_or_new, label_beside
from tsloss_fast.benchmarks.study.outcomes import OUTCOMES, Record, Study, group_names, read_study
from tsloss_fast.benchmarks.study.statistics import Comparison, compare
from tsloss_fast.benchmarks.study.tables import reference

# The baseline is black. A study has more methods than other figures have lines, so that darker
# colours of Tol's follow, and then the same ones with dashes.
_COLOURS = (*COLOURS, "#882255", "#332288", "#999933", "#AA4499", "#117733")
_BETTER = "#eef5ee"
_HEAD = (
    "Left: accuracy on the items of the curve, mean over seeds and learning rates; shaded: least "
    "to largest seed of {0}.\nRight: difference to {0}, paired by seed, with Student's interval; "
    "filled: it excludes zero; square: the two had different learning rates."
)
_GROUPS_A_PAGE = 4


def draw(records: Iterable[Record], path: str | os.PathLike[str]) -> list[Path]:
    """Draw the runs of one experiment as far as they are; equal records give equal bytes.

    Args:
        path: the picture (PNG) of the first 4 groups. The next 4 are drawn beside it, in
            "name-2.png" and so on. Each is there whole or not at all.

    Returns:
        The paths of the pictures; none without a finished run.
    """
    study, out, pages = read_study(records), Path(path), []
    out.parent.mkdir(parents=True, exist_ok=True)
    for first in range(0, len(study.begun), _GROUPS_A_PAGE):
        number = f"-{first // _GROUPS_A_PAGE + 1}" if first else ""
        pages.append(out.with_name(f"{out.stem}{number}{out.suffix}"))
        figure = _page(study, study.begun[first : first + _GROUPS_A_PAGE])
        with whole_file(pages[-1]) as temporary:
            figure.savefig(temporary, format="png")
    return pages


def _page(study: Study, groups: Sequence[int]) -> Figure:
    looks: dict[str, Any] = {study.arms[0]: {"color": "#000000", "linewidth": 2.2}}
    for index, arm in enumerate(study.arms[1:]):
        dashes = "-" if index < len(_COLOURS) else "--"
        looks[arm] = {"color": _COLOURS[index % len(_COLOURS)], "linestyle": dashes}
    heights = [max(2.9, 0.24 * len(study.arms_of(group)) + 1.1) for group in groups]
    head = 1.0 + 0.2 * math.ceil(len(looks) / 7)  # Inches, as the heights.
    figure = Figure(figsize=(13, head + sum(heights)), dpi=150, layout="constrained")
    figure.get_layout_engine().set(w_pad=0.08)
    FigureCanvasAgg(figure)
    top, *parts = figure.subfigures(len(groups) + 1, 1, height_ratios=[head, *heights])
    title = {"color": INK, "fontweight": "bold", "ha": "left"}
    top.text(0.01, 0.85, study.name, fontsize=15, va="top", **title)
    text = _HEAD.format(study.arms[0])
    top.text(0.01, 1 - 0.48 / head, text, fontsize=9, color=GREY, linespacing=1.4, va="top")
    top.legend(
        [Line2D([], [], **look) for look in looks.values()], looks, labelcolor="linecolor",
        loc="lower left", bbox_to_anchor=(0.01, 0), borderaxespad=0, frameon=False, ncols=7,
    )  # fmt: skip
    names = dict(zip(study.begun, group_names([study.groups[g] for g in study.begun]), strict=True))
    for group, part in zip(groups, parts, strict=True):
        part.suptitle(names[group], x=0.01, fontsize=12, **title)
        found = compare(study, group)
        curves, *forests = part.subplots(
            1, 1 + len(study.primary), width_ratios=[3.4, *[1.5] * len(study.primary)]
        )
        _curves(curves, study, group, looks)
        for axes, name in zip(forests, study.primary, strict=True):
            entries = [entry for entry in found if entry.outcome.name == name]
            _forest(axes, name, entries, looks, named=axes is forests[0])
    return figure


def _curves(axes: Axes, study: Study, group: int, looks: Mapping[str, Any]) -> None:
    """The mean accuracy of each method over the steps at which all of its runs were evaluated."""
    _prepare(axes, "training step", "accuracy")
    axes.grid(axis="y", color=GRID, linewidth=0.7)
    for arm in reversed(study.arms_of(group)):
        by_seed: dict[int, list[dict[int, float]]] = {}
        for _, row in study.of(group, arm, study.runs).iterrows():
            curve = {point["step"]: point["accuracy"] for point in row.run["curve"]}
            by_seed.setdefault(row.seed, []).append(curve)
        every = [curve.keys() for curves in by_seed.values() for curve in curves]
        steps = sorted(set.intersection(*map(set, every)))
        means = [[_mean([c[step] for c in by_seed[s]]) for s in by_seed] for step in steps]
        if arm == study.arms[0]:
            axes.fill_between(
                steps, list(map(min, means)), list(map(max, means)), color=GREY, alpha=0.2, lw=0
            )
        axes.plot(steps, list(map(_mean, means)), label=arm, **looks[arm])
    rates = [
        (reference(study, group, "majority_rate"), "most frequent", "--"),
        (reference(study, group, "zero_shot_restricted_accuracy"), "zero-shot", ":"),
    ]
    rates = sorted(rate for rate in rates if math.isfinite(rate[0]))
    for rate, _, style in rates:
        axes.axhline(rate, color=GREY, linewidth=1.2, linestyle=style, zorder=1)
    axes.set_xlim(0, study.groups[group]["steps"])
    low, high = axes.get_ylim()
    beside = [(rate, f"{label} {rate:.2f}", GREY) for rate, label, _ in rates]
    label_beside(axes, beside, 0.09 * (high - low), 4, fontsize=8.5)


def _forest(
    axes: Axes, name: str, found: Sequence[Comparison], looks: Mapping[str, Any], *, named: bool
) -> None:
    """A line a method: the interval of its difference."""
    _prepare(axes, ("← better", "", "better →")[OUTCOMES[name].better + 1], OUTCOMES[name].label)
    reach = 0.0
    for row, entry in enumerate(found):
        difference, colour = entry.difference, looks[entry.arm]["color"]
        if difference.mean is None:
            said = "never reached" if entry.never else "no pair"
            axes.text(0, row, said, fontsize=8, color=GREY, ha="center", backgroundcolor="w")
            continue
        ends = [
            difference.mean if end is None else end for end in (difference.low, difference.high)
        ]
        reach = max(reach, *map(abs, ends))
        axes.plot(ends, [row, row], color=colour, linewidth=1.8)
        marker = "s" if entry.other_rates else "o"
        fill = colour if entry.verdict else "white"
        axes.plot(difference.mean, row, marker, color=colour, markerfacecolor=fill)
    reach = 1.12 * reach or 0.05
    axes.set_xlim(-reach, reach)
    axes.set_ylim(len(found) - 0.4, -0.6)
    axes.axvspan(0, reach * OUTCOMES[name].better, color=_BETTER, linewidth=0, zorder=0)
    axes.axvline(0, color=GREY, linewidth=1, zorder=1)
    axes.set_yticks(
        range(len(found)), [entry.arm for entry in found] if named else [""] * len(found)
    )
    for label, entry in zip(axes.get_yticklabels(), found, strict=True):
        label.set_color(looks[entry.arm]["color"])
    axes.xaxis.set_major_locator(MaxNLocator(3, symmetric=True))


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)


def _prepare(axes: Axes, below: str, title: str) -> None:
    axes_or_new(axes, (1, 1))
    axes.spines["left"].set_visible(False)
    axes.tick_params(colors=GREY, labelsize=8.5, length=0)
    axes.set_xlabel(below, fontsize=8.5, color=GREY)
    axes.set_title(title, fontsize=9.5, color=INK)
