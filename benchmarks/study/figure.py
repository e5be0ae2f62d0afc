"""Figures: how each method of a study learns and differs, and all studies in one picture."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator
from tsloss_fast.benchmarks.study.outcomes import OUTCOMES, Record, Study, group_names, read_study
from tsloss_fast.benchmarks.study.statistics import Comparison, compare

from tsloss_fast._files import whole_file
from tsloss_fast.analysis.plots import style
from tsloss_fast.analysis.plots.style import COLOURS, GREY, GRID, INK

# The baseline is black, and darker colours of Tol's follow the package's.
_COLOURS = ("#000000", *COLOURS, "#882255", "#332288", "#999933", "#AA4499", "#117733")
_HEAD = (
    "Left: training cross-entropy, mean over seeds and learning rates; shaded: least to largest "
    "seed of {0}.\nRight: difference to {0}, paired by seed, with Student's interval; "
    "filled: it excludes zero."
)


def draw(records: Iterable[Record], path: Path) -> list[Path]:
    """Draw the runs of one experiment, finished or underway; return the path of the picture, if
    there is a run to draw. The picture is there whole or not at all. Equal records give equal
    bytes."""
    study = read_study(records)
    if not study.begun:
        return []
    with style.figure_style(), whole_file(path) as temporary:
        _page(study).savefig(temporary, format="png")
    return [path]


def draw_all(studies: Iterable[Study], path: Path) -> list[Path]:
    """Draw the primary outcomes of some studies: paired differences with their intervals.

    A panel is an outcome of a group, a row of it a method. Equal studies give equal bytes. Return
    the path of the picture, if there is a difference to draw.
    """
    panels = [
        (study, name, [entry for entry in found if entry.outcome.name == name])
        for study in studies
        for found in (compare(study, group) for group in study.begun)
        for name in study.primary
        if found
    ]
    if not panels:
        return []
    arms = dict.fromkeys(entry.arm for *_, found in panels for entry in found)
    colours = dict(zip(arms, itertools.cycle(_COLOURS[1:]), strict=False))
    with style.figure_style(), whole_file(path) as temporary:
        size = (2.9 * len(panels) + 1, 0.3 * max(len(found) for *_, found in panels) + 1.3)
        figure = Figure(figsize=size, dpi=110, layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.subplots(1, len(panels), squeeze=False)[0]
        for panel, (study, name, found) in zip(axes, panels, strict=True):
            _forest(panel, name, found, colours, named=True)
            panel.set_title(f"{study.name}\n{OUTCOMES[name].label}", fontsize=9.5, color=INK)
        figure.savefig(temporary, format="png")
    return [path]


def _page(study: Study) -> Figure:
    groups = study.begun
    colours = dict(zip(study.arms, itertools.cycle(_COLOURS), strict=False))
    heights = [max(2.9, 0.24 * len(study.arms_of(group)) + 1.1) for group in groups]
    columns = max(1, 150 // (max(map(len, study.arms)) + 9))
    head = 1.0 + 0.2 * math.ceil(len(colours) / columns)  # Inches, as the heights.
    figure = Figure(figsize=(13, head + sum(heights)), dpi=150, layout="constrained")
    figure.get_layout_engine().set(w_pad=0.08)
    FigureCanvasAgg(figure)
    top, *parts = figure.subfigures(len(groups) + 1, 1, height_ratios=[head, *heights])
    title = {"color": INK, "fontweight": "bold", "ha": "left"}
    top.text(0.01, 0.85, study.name, fontsize=15, va="top", **title)
    text = _HEAD.format(study.arms[0])
    top.text(0.01, 1 - 0.48 / head, text, fontsize=9, color=GREY, linespacing=1.4, va="top")
    top.legend(
        [Line2D([], [], color=colour, linewidth=2.2) for colour in colours.values()], colours,
        labelcolor="linecolor", loc="lower left", bbox_to_anchor=(0.01, 0), borderaxespad=0,
        frameon=False, ncols=columns,
    )  # fmt: skip
    names = group_names([study.groups[group] for group in groups])
    for group, name, part in zip(groups, names, parts, strict=True):
        part.suptitle(name, x=0.01, fontsize=12, **title)
        found = compare(study, group)
        widths = [3.4, *(1.5 for _ in study.primary)]
        curves, *forests = part.subplots(1, len(widths), width_ratios=widths)
        _curves(curves, study, group, colours)
        for axes, name in zip(forests, study.primary, strict=True):
            entries = [entry for entry in found if entry.outcome.name == name]
            _forest(axes, name, entries, colours, named=axes is forests[0])
    return figure


def _curves(axes: Axes, study: Study, group: int, colours: Mapping[str, str]) -> None:
    """The mean training cross-entropy of each method; a run that ended keeps its last one."""
    _prepare(axes, "training step", "training CE")
    axes.grid(axis="y", color=GRID, linewidth=0.7)
    steps = study.groups[group]["steps"]
    for arm in reversed(study.arms_of(group)):
        runs = study.of(group, arm, study.runs)
        table = pd.DataFrame([dict(enumerate(run["train_ce"], start=1)) for run in runs.run])
        table = table.reindex(columns=range(1, steps + 1)).ffill(axis=1)
        by_seed = table.groupby(runs.seed.to_numpy()).mean()
        if arm == study.arms[0]:
            ends = by_seed.min(), by_seed.max()
            axes.fill_between(table.columns, *ends, color=GREY, alpha=0.2, lw=0)
        axes.plot(table.columns, by_seed.mean(), color=colours[arm], linewidth=1.8, label=arm)
    axes.set_xlim(1, steps)


def _forest(
    axes: Axes, name: str, found: Sequence[Comparison], colours: Mapping[str, str], *, named: bool
) -> None:
    """A line a method: the interval of its difference."""
    _prepare(axes, ("← better", "", "better →")[OUTCOMES[name].better + 1], OUTCOMES[name].label)
    reach = 0.0
    for row, entry in enumerate(found):
        difference, colour = entry.difference, colours[entry.arm]
        if difference.mean is None:
            said = "never reached" if entry.never else "no pair"
            axes.text(
                0, row, said, fontsize=8, color=GREY, ha="center", va="center", backgroundcolor="w"
            )
            continue
        one = difference.low is None
        ends = [difference.mean] * 2 if one else [difference.low, difference.high]
        reach = max(reach, *map(abs, ends))
        axes.plot(ends, [row, row], color=colour, linewidth=1.8)
        fill = colour if entry.verdict else "white"
        axes.plot(difference.mean, row, "o", color=colour, markerfacecolor=fill)
    reach = 1.12 * reach or 0.05
    axes.set_xlim(-reach, reach)
    axes.set_ylim(len(found) - 0.4, -0.6)
    axes.axvspan(0, reach * OUTCOMES[name].better, color="#eef5ee", linewidth=0, zorder=0)
    axes.axvline(0, color=GREY, linewidth=1, zorder=1)
    axes.set_yticks(range(len(found)), [entry.arm * named for entry in found])
    for label, entry in zip(axes.get_yticklabels(), found, strict=True):
        label.set_color(colours[entry.arm])
    axes.xaxis.set_major_locator(MaxNLocator(3, symmetric=True))


def _prepare(axes: Axes, below: str, title: str) -> None:
    style.axes_or_new(axes, (1, 1))
    axes.spines["left"].set_visible(False)
    axes.tick_params(colors=GREY, labelsize=8.5, length=0)
    axes.set_xlabel(below, fontsize=8.5, color=GREY)
    axes.set_title(title, fontsize=9.5, color=INK)
