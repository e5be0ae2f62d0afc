"""One figure of a prompt tuning run beside its control: how it learns, and what its prompt does."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from tsloss_fast._files import whole_file
from tsloss_fast.analysis.figures.axes import COLOURS, GREY, GRID, INK, label_beside
from tsloss_fast.tuning.run_folder import read_metrics

__all__ = ["plot_runs"]

TOPOLOGY = (
    ("mean_death", "Mean death", "distance at which two groups of tokens merge"),
    ("coefficient_of_variation", "Coefficient of variation", "0: evenly connected tokens"),
    ("redundancy", "Redundancy", "0: no two tokens say the same"),
)
# Labels nearer than this share of the axis would touch.
LABEL_GAP = 0.085


@dataclass(frozen=True)
class _Run:
    name: str
    colour: str
    records: Sequence[Mapping[str, Any]]

    def series(self, kind: str, key: str) -> tuple[list[float], list[float]]:
        chosen = [record for record in self.records if record["kind"] == kind and key in record]
        return [record["step"] for record in chosen], [record[key] for record in chosen]

    def topology(self, key: str) -> tuple[list[float], list[float]]:
        """A step's line is measured before its update: at the prompt that step - 1 left behind."""
        steps, values = self.series("step", key)
        last_steps, last_values = self.series("eval", key)
        steps = [step - 1 for step in steps]
        if last_steps and last_steps[-1] > steps[-1]:
            steps, values = [*steps, last_steps[-1]], [*values, last_values[-1]]
        return steps, values

    @property
    def reference(self) -> Mapping[str, Any]:
        return next((r for r in self.records if r["kind"] == "reference"), {})


def plot_runs(runs: Mapping[str, str | os.PathLike[str]], out_png: str | os.PathLike[str]) -> Path:
    """Draw cross-entropy, accuracy, mean death, coefficient of variation and redundancy over steps.

    Args:
        runs: run folders by the name to show, the run to look at first; unfinished ones are drawn
            as far as they are. At most 6.
        out_png: the picture to write (1800 × 1080 pixels); it is there whole or not at all.

    Returns:
        The path of the picture.

    Raises:
        FileNotFoundError: a folder has no metrics.
        ValueError: no runs, too many, one without a single step, or a damaged log.
    """
    if not 1 <= len(runs) <= len(COLOURS):
        raise ValueError(f"expected 1 to {len(COLOURS)} runs to draw, got {len(runs)}")
    drawn = [
        _Run(name, colour, read_metrics(folder))
        for (name, folder), colour in zip(runs.items(), COLOURS, strict=False)
    ]
    for run in drawn:
        if not run.series("step", "ce")[0]:
            raise ValueError(f"{runs[run.name]} has no training steps yet: nothing to draw")

    figure = Figure(figsize=(12, 7.2), dpi=150, facecolor="white")
    FigureCanvasAgg(figure)
    grid = figure.add_gridspec(
        2, 6, left=0.05, right=0.955, top=0.8, bottom=0.075, hspace=0.5, wspace=1.3
    )
    _cross_entropy(figure.add_subplot(grid[0, :3]), drawn)
    _accuracy(figure.add_subplot(grid[0, 3:]), drawn)
    for column, (key, title, meaning) in enumerate(TOPOLOGY):
        axes = figure.add_subplot(grid[1, 2 * column : 2 * column + 2])
        _prepare(axes, title, meaning)
        _lines(axes, drawn, [run.topology(key) for run in drawn])
    _head(figure, drawn)

    out = Path(out_png)
    out.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(out) as temporary:
        figure.savefig(temporary, format="png")
    return out


def _cross_entropy(axes: Axes, runs: Sequence[_Run]) -> None:
    _prepare(
        axes, "Cross-entropy of the answers", "nats; thick: test items, thin: training batches"
    )
    for run in runs:
        axes.plot(*run.series("step", "ce"), color=run.colour, linewidth=0.8, alpha=0.45)
    _lines(axes, runs, [run.series("eval", "ce") for run in runs], marker="o")


def _accuracy(axes: Axes, runs: Sequence[_Run]) -> None:
    _prepare(axes, "Accuracy on the test items", "greedy answer, whole vocabulary")
    axes.set_ylim(0, 1.02)
    lines = {
        "majority answer": runs[0].reference.get("majority_rate"),
        "zero-shot, given the answers' form": runs[0].reference.get(
            "zero_shot_restricted_accuracy"
        ),
    }
    present = {name: rate for name, rate in lines.items() if rate is not None}
    for (name, rate), style in zip(present.items(), ("--", ":"), strict=False):
        axes.axhline(rate, color=GREY, linewidth=1.1, linestyle=style, zorder=1)
        # The upper line is labelled above itself, the lower one below.
        upper = rate == max(present.values()) and name == max(present, key=lambda n: present[n])
        axes.annotate(
            f"{name} {rate:.2f}",
            (0.985, rate),
            xycoords=("axes fraction", "data"),
            xytext=(0, 3 if upper else -3),
            textcoords="offset points",
            ha="right",
            va="bottom" if upper else "top",
            fontsize=8,
            color=GREY,
        )
    _lines(axes, runs, [run.series("eval", "accuracy") for run in runs], marker="o")


def _prepare(axes: Axes, title: str, meaning: str) -> None:
    axes.set_title(title, loc="left", fontsize=11, fontweight="bold", color=INK, pad=19)
    axes.text(0, 1.035, meaning, transform=axes.transAxes, fontsize=8.5, color=GREY)
    axes.grid(axis="y", color=GRID, linewidth=0.7)
    axes.set_axisbelow(True)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(GREY)
    axes.tick_params(colors=GREY, labelsize=8.5, length=0, pad=4)
    axes.tick_params(axis="x", length=3)
    axes.set_xlabel("training step", loc="right", fontsize=8.5, color=GREY, labelpad=2)
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    axes.yaxis.set_major_locator(MaxNLocator(5))


def _lines(
    axes: Axes,
    runs: Sequence[_Run],
    series: Sequence[tuple[list[float], list[float]]],
    marker: str | None = None,
) -> None:
    """A line for each run, with its last value at its end, moved apart where they would touch."""
    for index, (run, (steps, values)) in enumerate(zip(runs, series, strict=True)):
        # The first run lies on top and the others are wider, so that none hides behind another.
        width = 1.8 if index == 0 else 2.8
        axes.plot(
            steps,
            values,
            color=run.colour,
            linewidth=width,
            marker=marker,
            markersize=2 + 1.4 * width,
            zorder=3 - 0.1 * index,
            solid_capstyle="round",
        )
    last_step = max((steps[-1] for steps, _ in series if steps), default=1)
    axes.set_xlim(0, max(last_step, 1))
    # No quantity here is negative, and rounding should not be blown up to the full height.
    high = max(axes.get_ylim()[1], 1e-2)
    axes.set_ylim(0, high)
    ends = sorted(
        (values[-1], steps[-1], run.colour)
        for run, (steps, values) in zip(runs, series, strict=True)
        if values
    )
    labels = [(value, f"{value:.3g}", colour) for value, _, colour in ends]
    label_beside(axes, labels, LABEL_GAP * high, 6, fontsize=9, fontweight="bold")


def _head(figure: Figure, runs: Sequence[_Run]) -> None:
    figure.text(
        0.05, 0.945, "Prompt tuning and the topology of the prompt", fontsize=14, color=INK,
        fontweight="bold",
    )  # fmt: skip
    handles = [Line2D([], [], color=run.colour, linewidth=2.8, label=run.name) for run in runs]
    figure.legend(
        handles=handles,
        loc="center left",
        bbox_to_anchor=(0.05, 0.9),
        borderaxespad=0,
        borderpad=0,
        frameon=False,
        ncols=len(runs),
        labelcolor="linecolor",
        fontsize=10.5,
        handlelength=1.4,
        columnspacing=2.2,
    )
