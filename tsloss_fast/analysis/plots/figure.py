"""One figure of recorded runs: which panels it has, and what each of them draws."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.lines import Line2D

from tsloss_fast.analysis.plots.axes import GREY, legend, limits
from tsloss_fast.analysis.plots.choice import (
    Choice,
    chosen_series,
    chosen_step,
    known_quantities,
    label_of,
    scale_of,
    steps_with_points,
    usual_quantities,
)
from tsloss_fast.analysis.plots.plots import (
    plot_barcode,
    plot_components,
    plot_dendrogram,
    plot_diagram,
    plot_map,
    plot_series,
)
from tsloss_fast.analysis.plots.series import run_looks
from tsloss_fast.analysis.runs import Run

__all__ = ["KINDS", "draw_runs"]

OF_ONE_RUN = ("barcode", "diagram", "dendrogram", "map")
KINDS = (*OF_ONE_RUN, "components", "curves", "all")
PANEL = (3.4, 2.7)  # inches
MOST_COLUMNS = 3
REFERENCES = {
    "majority_rate": "majority answer",
    "zero_shot_restricted_accuracy": "zero-shot, given the answers' form",
}
# Points of a map whose numbers can still be read.
MOST_NUMBERED = 50

Looks = Mapping[str, tuple[str, Any]]


@dataclass(frozen=True)
class _Panel:
    title: str
    draw: Callable[[Axes], Any]


def draw_runs(
    kind: str,
    runs: Sequence[Run],
    choice: Choice,
    size: tuple[float | None, float | None] = (None, None),
    title: str | None = None,
) -> Figure:
    """A figure of the runs: a panel for each of them, or one that compares them.

    Args:
        kind: one of KINDS.
        runs: at least one.
        choice: what of them.
        size: width and height in inches; None: as the panels need.
        title: above the figure; default: the run's name and step if there is one run.

    Raises:
        ValueError: a step, cloud or quantity that was not recorded; more runs than can be told
            apart.
    """
    names = _unique([run.name for run in runs])
    named = dict(zip(names, runs, strict=True))
    looks = run_looks(names, [name for name, run in named.items() if run.control])
    scale = scale_of(runs)
    kinds = [kind]
    # One step for all the panels: one that the map has, if any has.
    mapped = kind == "map"
    if kind == "all":
        mapped = all(steps_with_points(run, choice.cloud) for run in runs)
        kinds = [each for each in KINDS if each != "all" and (mapped or each != "map")]
    panels = [
        panel for each in kinds for panel in _panels(each, named, looks, choice, scale, mapped)
    ]
    if not panels:
        raise ValueError("the runs have no quantity to draw; --quantity chooses one")
    columns = min(len(panels), MOST_COLUMNS)
    if kind == "all" and 1 < len(runs) <= MOST_COLUMNS:
        columns = len(runs)
    rows = -(-len(panels) // columns)
    compared = len(runs) > 1 and kind not in OF_ONE_RUN
    if title is None and len(runs) == 1:
        title = panels[0].title or names[0]
    head = 0.25 * (title is not None) + (0.18 * len(runs) + 0.1) * compared
    width, height = size[0] or PANEL[0] * columns, size[1] or PANEL[1] * rows + head
    # Pads in inches: panels that touch are read as one.
    pads = ConstrainedLayoutEngine(w_pad=0.07, h_pad=0.07)
    figure = Figure(figsize=(width, height), layout=pads)
    FigureCanvasAgg(figure)
    for place, panel in enumerate(panels):
        axes = figure.add_subplot(rows, columns, place + 1)
        panel.draw(axes)
        if len(runs) > 1 and panel.title:
            look = {"loc": "left", "fontsize": "small", "parse_math": False}
            _title(axes.set_title, panel.title, width / columns, **look)
    if compared:
        handles = [Line2D([], [], color=c, linestyle=s, linewidth=1.4) for c, s in looks.values()]
        wrapped = [_wrap(name, width - 0.5) for name in names]
        made = legend(figure, handles, wrapped, loc="outside upper left", alignment="left")
        if title is not None:
            # One block: matplotlib would lay the two over each other.
            _title(made.set_title, title, width)
            made.get_title().set_parse_math(False)
    elif title is not None:
        look = {"x": 0.01, "ha": "left", "fontsize": "medium", "parse_math": False}
        _title(figure.suptitle, title, width, **look)
    return figure


def _panels(
    kind: str,
    runs: Mapping[str, Run],
    looks: Looks,
    choice: Choice,
    scale: str,
    mapped: bool,
) -> list[_Panel]:
    if kind == "curves":
        return _curves(runs, looks, choice)
    cloud = choice.cloud
    steps = {name: chosen_step(name, run, choice, mapped) for name, run in runs.items()}
    rows = {name: run.record.row(steps[name], cloud) for name, run in runs.items()}
    for name, row in rows.items():
        if not row["n_points"]:
            raise ValueError(f"cloud {cloud} of {name} has no points at step {steps[name]}")
        if row["deaths"] is None:
            raise ValueError(
                f"cloud {cloud} of {name} has no bars at step {steps[name]}: its points were not "
                "finite; choose an earlier step"
            )
    if kind == "components" and len(runs) > 1:
        different = sorted(set(steps.values()))
        title = f"step{'s' if len(different) > 1 else ''} {', '.join(map(str, different))}"
        return [_Panel(title, partial(_components, rows, looks, scale))]
    titles = {name: f"{name}, step {step}" for name, step in steps.items()}
    for name, run in runs.items():
        if len(run.record.clouds) > 1:
            titles[name] += f", {run.record.cloud_name(cloud)}"
    if kind == "components":
        (title,) = titles.values()
        return [_Panel(title, partial(_components, rows, looks, scale))]
    diagrams = {name: run.record.diagrams(steps[name], cloud) for name, run in runs.items()}
    # Panels side by side are compared, so they have one scale.
    drawn = 1 if kind == "dendrogram" else None
    limit = max(limits(found[:drawn])[1] for found in diagrams.values())
    return [
        _Panel(titles[name], partial(_one, kind, rows[name], diagrams[name], limit, scale))
        for name in runs
    ]


def _one(
    kind: str,
    row: Mapping[str, Any],
    diagrams: list[np.ndarray],
    limit: float,
    scale: str,
    axes: Axes,
) -> None:
    if kind == "barcode":
        plot_barcode(diagrams, axes, limit=limit).set_xlabel(scale)
    elif kind == "diagram":
        plot_diagram(diagrams, axes, limit=limit)
    elif kind == "dendrogram":
        plot_dendrogram(row["deaths"], row["edges"], axes).set_ylabel(scale)
        axes.set_ylim(0, 1.05 * limit)
    else:
        points = row["points"]
        names = range(len(points)) if len(points) <= MOST_NUMBERED else None
        plot_map(points, row["edges"], axes, labels=names)


def _components(
    rows: Mapping[str, Mapping[str, Any]], looks: Looks, scale: str, axes: Axes
) -> None:
    for name, row in rows.items():
        colour, stroke = looks[name]
        plot_components(row["deaths"], axes, colour=colour, stroke=stroke)
    axes.set_xlabel(scale)


def _curves(runs: Mapping[str, Run], looks: Looks, choice: Choice) -> list[_Panel]:
    panels = []
    for quantity in choice.quantities or usual_quantities(runs, choice.cloud):
        found = {
            name: chosen_series(name, run, quantity, choice.cloud) for name, run in runs.items()
        }
        series = {
            name: (line.steps, line.values) for name, line in found.items() if line is not None
        }
        if not series:
            raise ValueError(
                f"quantity {quantity!r} is in none of the runs; expected one of "
                f"{', '.join(known_quantities(runs, choice.cloud))}"
            )
        reference = next(iter(runs.values())).reference if quantity == "accuracy" else {}
        draw = partial(_curve, series, looks, quantity, reference)
        panels.append(_Panel("", draw))
    return panels


def _curve(
    series: Mapping[str, tuple[np.ndarray, np.ndarray]],
    looks: Looks,
    quantity: str,
    reference: Mapping[str, Any],
    axes: Axes,
) -> None:
    plot_series(
        series,
        axes,
        ylabel=label_of(quantity),
        limit=1 if quantity.endswith("accuracy") else None,
        looks=looks,
        show_legend=False,
    )
    # Rates that need no tuning, without which an accuracy cannot be judged.
    rates = {
        label: reference[name]
        for name, label in REFERENCES.items()
        if reference.get(name) is not None
    }
    for label, rate in rates.items():
        axes.axhline(rate, color=GREY, linewidth=0.8, linestyle=(0, (4, 3)), zorder=1)
        # The upper line is labelled above itself and the lower one below.
        upper = rate == max(rates.values()) and label == max(rates, key=lambda each: rates[each])
        axes.annotate(
            f"{label} {rate:.2f}",
            (0.98, rate),
            xycoords=("axes fraction", "data"),
            xytext=(0, 1 if upper else -1),
            textcoords="offset points",
            ha="right",
            va="bottom" if upper else "top",
            fontsize="x-small",
            color=GREY,
            bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.75, "pad": 0.5},
        )


def _unique(names: Sequence[str]) -> list[str]:
    """Names that are told apart, whatever the folders are called."""
    return [
        name if name not in names[:k] else f"{name} ({names[:k].count(name) + 1})"
        for k, name in enumerate(names)
    ]


def _title(put: Callable[..., Any], text: str, inches: float, **look: Any) -> None:
    put(_wrap(text, inches), **look)


def _wrap(text: str, inches: float) -> str:
    """Lines that fit; a character is about 0.07 inches wide."""
    return "\n".join(textwrap.wrap(text, max(int(inches / 0.07), 10)))
