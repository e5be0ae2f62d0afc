"""The figure of a comparison: how each method learns, and its differences to the baseline.

A row for each group, four to a picture: the mean accuracy over the steps, and a forest plot of the
paired differences in every primary outcome.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from tsloss_fast._files import whole_file
from tsloss_fast._terminal import counted
from tsloss_fast.analysis.figures.axes import COLOURS, GREY, GRID, INK, label_beside
from tsloss_fast.compare.comparison import Comparison, Experiment, RunGroup, read_experiment
from tsloss_fast.compare.outcomes import OUTCOMES, Outcome
from tsloss_fast.compare.statistics import MINIMUM_SEEDS
from tsloss_fast.compare.words import baseline_name, short_names

__all__ = ["draw", "method_colours"]

Record = Mapping[str, Any]
# There are more methods than colours in other figures, so darker ones of Tol's follow those.
METHOD_COLOURS = (*COLOURS, "#882255", "#332288", "#999933", "#AA4499", "#117733")
# The baseline is drawn in black.
BLACK, BETTER = "#000000", "#eef5ee"
GROUPS_A_PAGE = 4
# With more methods the bands of least to largest seed hide each other: the baseline's alone then.
_MOST_BANDS = 3
# In inches: of the page, and from its left edge to the curves, the names and the forest plots.
_WIDTH, _LEFT, _CURVES, _FOREST = 13.0, 0.5, 3.65, 6.45
_TITLE, _ABOVE, _BELOW, _METHOD, _LEAST = 1.08, 0.6, 0.5, 0.23, 2.2
_LEGEND_COLUMNS, _LEGEND_LINE = 6, 0.2


def draw(records: Iterable[Record], path: str | os.PathLike[str]) -> list[Path]:
    """Draw the results as far as they are; the same records give the same bytes.

    Args:
        records: the lines of results.jsonl, in their order.
        path: the picture (PNG) of the first 4 groups; those of the next 4 are written beside it,
            "name-2.png" and so on. Each is there whole or not at all.

    Returns:
        The paths of the pictures; none if no run of the comparison is finished.
    """
    experiment = read_experiment(records)
    titles = short_names(experiment.groups)
    out, pages = Path(path), []
    out.parent.mkdir(parents=True, exist_ok=True)
    for first in range(0, len(experiment.groups), GROUPS_A_PAGE):
        number = first // GROUPS_A_PAGE + 1
        page = out if number == 1 else out.with_name(f"{out.stem}-{number}{out.suffix}")
        last = first + GROUPS_A_PAGE
        figure = _page(experiment, experiment.groups[first:last], titles[first:last])
        with whole_file(page) as temporary:
            figure.savefig(temporary, format="png")
        pages.append(page)
    return pages


def method_colours(experiment: Experiment) -> dict[str, tuple[str, Any]]:
    """(colour, line style) of each method of an experiment, the same in every panel and page."""
    others = [method for method in experiment.methods if method != experiment.baseline]
    styles = ("-", (0, (4, 1.5)), (0, (1, 1.2)))
    found: dict[str, tuple[str, Any]] = {experiment.baseline: (BLACK, "-")}
    for index, method in enumerate(others):
        again, colour = divmod(index, len(METHOD_COLOURS))
        found[method] = METHOD_COLOURS[colour], styles[again % len(styles)]
    return found


def _page(experiment: Experiment, groups: Sequence[RunGroup], titles: Sequence[str]) -> Figure:
    looks = method_colours(experiment)
    heights = [max(_LEAST, _METHOD * (len(g.runs) - 1) + 0.3) for g in groups]
    head = _TITLE + _LEGEND_LINE * math.ceil(len(looks) / _LEGEND_COLUMNS)
    height = head + sum(heights) + (_ABOVE + _BELOW) * len(groups)
    figure = Figure(figsize=(_WIDTH, height), dpi=150, facecolor="white")
    FigureCanvasAgg(figure)
    _head(figure, experiment, looks, height)
    outcomes = [outcome for name, outcome in OUTCOMES.items() if name in experiment.primary]
    width = (_WIDTH - _FOREST - 0.2) / len(outcomes)
    top = height - head
    for group, title, tall in zip(groups, titles, heights, strict=True):
        figure.text(
            _LEFT / _WIDTH, (top - 0.25) / height,
            f"{title}: {counted(len(group.seeds), 'seed')}",
            fontsize=12, fontweight="bold", color=INK,
        )  # fmt: skip
        bottom = (top - _ABOVE - tall) / height
        curves = figure.add_axes(
            (_LEFT / _WIDTH, bottom, _CURVES / _WIDTH, tall / height), label="curves"
        )
        _curves(curves, experiment, group, looks, tall)
        found = experiment.compare(group, outcomes)
        for index, outcome in enumerate(outcomes):
            left = (_FOREST + index * width) / _WIDTH
            axes = figure.add_axes(
                (left, bottom, (width - 0.18) / _WIDTH, tall / height), label=outcome.name
            )
            entries = [entry for entry in found if entry.outcome == outcome]
            _forest(axes, group, outcome, entries, looks, names=index == 0)
        top -= _ABOVE + tall + _BELOW
    return figure


def _head(
    figure: Figure, experiment: Experiment, looks: Mapping[str, tuple[str, Any]], height: float
) -> None:
    left = _LEFT / _WIDTH
    name = experiment.name or "Comparison"
    figure.text(left, 1 - 0.38 / height, name, fontsize=15, fontweight="bold", color=INK)
    figure.text(
        left,
        1 - 0.54 / height,
        "Left: accuracy on the items of the curve, mean over seeds; shaded: least to largest seed; "
        "zero-shot: without a prompt, given the answers' form.\n"
        f"Right: difference to {baseline_name(experiment)}, paired by seed, with its "
        f"{100 * experiment.confidence:g}% bootstrap interval; filled: it excludes zero, with "
        f"{MINIMUM_SEEDS} seeds or more.",
        va="top",
        fontsize=9,
        linespacing=1.4,
        color=GREY,
    )
    handles = [
        Line2D([], [], color=colour, linestyle=style, linewidth=2.4, label=method)
        for method, (colour, style) in looks.items()
    ]
    figure.legend(
        handles=handles,
        loc="upper left",
        bbox_to_anchor=(left, 1 - 1.02 / height),
        borderaxespad=0,
        borderpad=0,
        frameon=False,
        ncols=_LEGEND_COLUMNS,
        labelcolor="linecolor",
        fontsize=9.5,
        handlelength=1.5,
        columnspacing=1.8,
        labelspacing=0.35,
    )


def _curves(
    axes: Axes,
    experiment: Experiment,
    group: RunGroup,
    looks: Mapping[str, tuple[str, Any]],
    tall: float,
) -> None:
    _prepare(axes)
    axes.set_xlabel("training step", loc="right", fontsize=9, color=GREY, labelpad=2)
    axes.grid(axis="y", color=GRID, linewidth=0.7)
    seen: list[float] = []
    # The baseline last: on top of all.
    for method in sorted(group.runs, key=lambda name: name == experiment.baseline):
        colour, style = looks[method]
        steps, curves = _common(group.runs[method].values())
        if not steps:
            continue
        own = method == experiment.baseline
        low, high = [min(values) for values in curves], [max(values) for values in curves]
        mean = [math.fsum(values) / len(values) for values in curves]
        if own or len(group.runs) <= _MOST_BANDS:
            axes.fill_between(steps, low, high, color=colour, alpha=0.12, linewidth=0)
            seen += low + high
        width = 2.2 if own else 1.6
        axes.plot(steps, mean, color=colour, linestyle=style, linewidth=width, label=method)
        seen += mean
    rates = _references(group)
    seen += [rate for rate, _, _ in rates]
    least, most = (min(seen), max(seen)) if seen else (0.0, 1.0)
    room = 0.06 * (most - least) + 0.01
    axes.set_ylim(max(0.0, least - room), min(1.0 + room / 2, most + room))
    axes.set_xlim(0, group.shared["steps"])
    _label_references(axes, rates, tall)


def _references(group: RunGroup) -> list[tuple[float, str, str]]:
    """(rate, name, line style) of what needs no training, the lowest first; means over seeds."""
    found = []
    for name, label, style in (
        ("majority_rate", "majority", "--"),
        ("zero_shot_restricted_accuracy", "zero-shot", ":"),
    ):
        values = group.references(name)
        if values:
            found.append((math.fsum(values) / len(values), label, style))
    return sorted(found)


def _label_references(axes: Axes, rates: Sequence[tuple[float, str, str]], tall: float) -> None:
    """Beside the axes, where no curve is, and moved apart where they would touch."""
    low, high = axes.get_ylim()
    for rate, _, style in rates:
        axes.axhline(rate, color=GREY, linewidth=1.2, linestyle=style, zorder=1)
    labels = [(rate, f"{label} {rate:.2f}", GREY) for rate, label, _ in rates]
    label_beside(axes, labels, 0.15 * (high - low) / tall, 4, fontsize=8.5)


def _common(runs: Iterable[Record]) -> tuple[list[int], list[list[float]]]:
    """The steps at which all runs were evaluated, and their accuracies there."""
    by_run = [{int(p["step"]): float(p["accuracy"]) for p in run["curve"]} for run in runs]
    steps = sorted(set.intersection(*map(set, by_run))) if by_run else []
    return steps, [[run[step] for run in by_run] for step in steps]


def _forest(
    axes: Axes,
    group: RunGroup,
    outcome: Outcome,
    found: Sequence[Comparison],
    looks: Mapping[str, tuple[str, Any]],
    names: bool,
) -> None:
    """A line for each method; steps as a share of all steps, so that the panels compare."""
    _prepare(axes)
    scale = 1 / group.shared["steps"] if outcome.steps else 1.0
    drawn = [(row, entry) for row, entry in enumerate(found) if entry.difference]
    reach = max((abs(end) * scale for _, e in drawn for end in _ends(e)), default=0.0) or 0.05
    axes.set_xlim(-1.12 * reach, 1.12 * reach)
    axes.set_ylim(len(found) - 0.4, -0.6)
    if outcome.better:
        axes.axvspan(0, 2 * reach * outcome.better, color=BETTER, linewidth=0)
    axes.axvline(0, color=GREY, linewidth=1)
    for row, entry in drawn:
        assert entry.difference is not None
        colour = looks[entry.method][0]
        low, high = (end * scale for end in _ends(entry))
        axes.plot([low, high], [row, row], color=colour, linewidth=1.8, solid_capstyle="butt")
        axes.plot(
            entry.difference.mean * scale,
            row,
            marker="o",
            markersize=6,
            color=colour,
            markerfacecolor=colour if entry.difference.claim else "white",
            markeredgewidth=1.5,
        )
    axes.set_yticks(range(len(found)), [entry.method for entry in found] if names else [])
    for label, entry in zip(axes.get_yticklabels(), found, strict=False):
        label.set_color(looks[entry.method][0])
    axes.tick_params(axis="y", labelsize=9.5)
    axes.xaxis.set_major_locator(MaxNLocator(3, symmetric=True))
    axes.set_title(outcome.label, loc="center", fontsize=9.5, color=INK, pad=6)
    unit = " (share of steps)" if outcome.steps else ""
    way = ("← better", "", "better →")[outcome.better + 1]
    axes.set_xlabel(way + unit, fontsize=8.5, color=GREY, labelpad=2)


def _ends(entry: Comparison) -> Iterator[float]:
    difference = entry.difference
    if difference is not None:
        yield difference.mean if difference.low is None else difference.low
        yield difference.mean if difference.high is None else difference.high


def _prepare(axes: Axes) -> None:
    axes.set_axisbelow(True)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(GREY)
    axes.tick_params(colors=GREY, labelsize=8.5, length=0, pad=4)
    axes.tick_params(axis="x", length=3)
