"""Figures of recorded runs: what of them is drawn, in which panels, and into which files."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from matplotlib.axes import Axes
from matplotlib.backends.backend_pdf import PdfPages
from matplotlib.figure import Figure

from tsloss_fast._files import check_writable, whole_file
from tsloss_fast.analysis.plots import KINDS, style
from tsloss_fast.analysis.plots.plots import (
    finite_range,
    plot_barcode,
    plot_components,
    plot_diagram,
    plot_series,
)
from tsloss_fast.analysis.plots.tree import plot_dendrogram, plot_map
from tsloss_fast.analysis.record.reader import CloudColumns
from tsloss_fast.analysis.record.schema import SCHEMA
from tsloss_fast.analysis.runs import Run, Series, load_runs
from tsloss_fast.analysis.words import METRICS, RATES, label_of

__all__ = ["write_figure"]

USUAL = ("ce", "accuracy", "mean_lifetime", "coefficient_of_variation", "redundancy")
NUMBERS = [
    field.name
    for field in SCHEMA
    if field.name not in ("step", "cloud", "dimension", "time", "n_points", "n_features")
    and (pa.types.is_floating(field.type) or pa.types.is_integer(field.type))
]
# Points of a map whose numbers can still be read.
MOST_NUMBERED = 50

Size = tuple[float | None, float | None]


def write_figure(
    out: Path,
    kind: str,
    folders: Sequence[str | Path],
    *,
    step: int | None = None,
    cloud: int = 0,
    quantities: Sequence[str] = (),
    title: str | None = None,
    width: float | None = None,
    height: float | None = None,
    dpi: float = 300.0,
) -> list[Path]:
    """Draw recorded runs, each with the control in its folder; return the files that were written.

    Equal records give equal bytes. Each file is whole or absent, and nothing is written before all
    figures have been drawn.

    Args:
        out: a name that ends in .png, .svg or .pdf.
        kind: one of `plots.KINDS`, or "all" for a figure of each that is as wide as a column: pages
            of a .pdf, or files whose names end in the kind, such as FILE-barcode.png.
        folders: as of `load_runs`.
        step, cloud, quantities, title, width, height, dpi: the options of `tsloss plot`.

    Raises:
        OSError: a file cannot be written.
        FileNotFoundError, RecordError, ValueError: as `load_runs`; a step, cloud or quantity that
            was not recorded; more runs than can be told apart.
    """
    suffix = out.suffix.lower()
    apart = kind == "all" and suffix != ".pdf"
    paths = {each: out.with_name(f"{out.stem}-{each}{out.suffix}") for each in KINDS if apart}
    for path in paths.values() or [out]:
        check_writable(path)
    with style.figure_style(), ExitStack() as files:
        figures = _Figures(load_runs(folders), step, cloud, quantities)
        drawn = figures.draw(kind, (width, height))
        for figure in drawn.values():
            if title:
                text = style.wrapped(title, figure.get_figwidth())
                figure.suptitle(text, x=0.01, ha="left", parse_math=False)
        out.parent.mkdir(parents=True, exist_ok=True)
        if suffix == ".pdf":
            temporary = files.enter_context(whole_file(out))
            with PdfPages(temporary, metadata={"CreationDate": None}) as pages:
                for figure in drawn.values():
                    pages.savefig(figure)
            return [out]
        written = {paths.get(each, out): figure for each, figure in drawn.items()}
        for path, figure in written.items():
            # A date would change from one call to the next.
            metadata = {"Date": None} if suffix == ".svg" else {}
            temporary = files.enter_context(whole_file(path))
            figure.savefig(temporary, format=suffix[1:], dpi=dpi, metadata=metadata)
    return list(written)


class _Figures:
    """Runs by name, and the choice of what of them is drawn."""

    def __init__(
        self, runs: Sequence[Run], step: int | None, cloud: int, quantities: Sequence[str]
    ) -> None:
        names = [run.name for run in runs]
        # Folders can have one name.
        repeats = [names[:k].count(name) for k, name in enumerate(names)]
        names = [f"{name} ({n + 1})" if n else name for name, n in zip(names, repeats, strict=True)]
        self.runs = dict(zip(names, runs, strict=True))
        self.step, self.cloud = step, cloud
        for name, run in self.runs.items():
            if cloud not in run.record.clouds:
                there = ", ".join(f"{k} ({run.record.cloud_name(k)})" for k in run.record.clouds)
                raise ValueError(f"cloud {cloud} is not in {name}; expected one of {there}")
        self.controls = [name for name, run in self.runs.items() if run.control]
        self.looks = style.run_looks(self.runs, self.controls)
        metrics = {str(run.record.metadata.get("metric")) for run in runs}
        self.scale = METRICS.get(metrics.pop(), "scale") if len(metrics) == 1 else "scale"
        self.series = {name: _series(run, cloud) for name, run in self.runs.items()}
        known = list(dict.fromkeys(q for found in self.series.values() for q in found))
        if missing := [quantity for quantity in quantities if quantity not in known]:
            there = f"expected one of {', '.join(known)}"
            raise ValueError(f"quantity {missing[0]!r} is in none of the runs; {there}")
        usual = USUAL if "ce" in known else ("train_ce", *USUAL)
        # A quantity that is 0 throughout has no curve to look at, and redundancy is a share.
        drawn = {
            quantity
            for found in self.series.values()
            for quantity, series in found.items()
            if (series.values > 1e-3 * (quantity == "redundancy")).any()
        }
        self.quantities = quantities or [quantity for quantity in usual if quantity in drawn]

    def draw(self, kind: str, size: Size) -> dict[str, Figure]:
        """Return the figure of the kind, or of each kind that the records allow."""
        kinds = [kind]
        if kind == "all":
            kept = all(_steps_with_points(run, self.cloud) for run in self.runs.values())
            lacks = {"map": not kept, "curves": not self.quantities}
            kinds = [each for each in KINDS if not lacks.get(each)]
            size = size[0] or style.COLUMN, size[1]
        elif kind == "curves" and not self.quantities:
            raise ValueError("the runs have no quantity to draw; --quantity chooses one")
        # All kinds show one step, at which the map has points.
        rows = {}
        if kind != "curves":
            rows = {name: self._row(name, run, "map" in kinds) for name, run in self.runs.items()}
        return {each: self._figure(each, rows, size) for each in kinds}

    def _row(self, name: str, run: Run, mapped: bool) -> dict[str, Any]:
        """The row of a run to draw; `mapped`: of a step at which the points were kept.

        Raises:
            ValueError: there is none, or not of the step asked for, or it has no bars.
        """
        recorded = run.record.steps(self.cloud).tolist()
        steps = _steps_with_points(run, self.cloud) if mapped else recorded
        if not steps:
            raise ValueError(f"the record of {name} holds no points to map: none were kept")
        step = steps[-1] if self.step is None else self.step
        if step not in steps:
            what = "has no points in the record" if step in recorded else "was not recorded"
            nearest = str(sorted(sorted(steps, key=lambda each: abs(each - step))[:4]))[1:-1]
            raise ValueError(f"step {step} of {name} {what}; nearest: {nearest} of {len(steps)}")
        row = run.record.row(step, self.cloud)
        if not row["n_points"] or row["deaths"] is None:
            raise ValueError(
                f"cloud {self.cloud} of {name} has no bars at step {step}: its points were not "
                "finite, or there were none; choose another step"
            )
        several = len(run.record.clouds) > 1
        layer = f", {run.record.cloud_name(self.cloud)}" if several else ""
        return row | {"title": f"{name}, step {step}{layer}"}

    def _figure(self, kind: str, rows: Mapping[str, Mapping[str, Any]], size: Size) -> Figure:
        count = {"curves": len(self.quantities), "components": 1}.get(kind, len(self.runs))
        columns = 2 if count == 4 else min(count, 3)
        if size[0] is not None:
            columns = max(1, min(columns, int(size[0] / (2.6 if kind == "curves" else 1.6))))
        width = size[0] or style.COLUMN * columns
        lines, panel = -(-count // columns), width / columns
        # Many curves in one column are flat, so that they fit a page.
        flat = kind == "curves" and count > 2 * columns
        height = lines * (max(0.5 * panel, 1.5) if flat else max(0.8 * panel, 2.0))
        if kind in ("curves", "components"):
            # Room for the legend, of which a line is 0.14 inches high.
            names = "\n".join(style.wrapped(name, 0.75 * panel) for name in self.runs)
            height += 0.14 * names.count("\n")
        figure = style.new_figure((width, size[1] or height))
        panels = [figure.add_subplot(lines, columns, place + 1) for place in range(count)]
        if kind == "curves":
            for axes, quantity in zip(panels, self.quantities, strict=True):
                self._curve(axes, quantity, first=axes is panels[0])
            for axes in panels[:-columns]:
                axes.set_xlabel("")
        elif kind == "components":
            limit = max(max(row["deaths"], default=0.0) for row in rows.values())
            for name, row in rows.items():
                look = dict(zip(("colour", "stroke"), self.looks[name], strict=True))
                plot_components(row["deaths"], panels[0], label=row["title"], limit=limit, **look)
            panels[0].set_xlabel(self.scale)
            style.legend(panels[0])
        else:
            self._pictures(kind, panels, rows, panel - 0.4)
        return figure

    def _pictures(
        self, kind: str, panels: Sequence[Axes], rows: Mapping[str, Mapping[str, Any]], room: float
    ) -> None:
        """Draw a panel for each run, with a title that has `room` inches. All have one scale, and
        maps one plane and one section of it."""
        points = [row["points"] for row in rows.values() if kind == "map"]
        own = len({cloud.shape[1] for cloud in points}) > 1
        frame = np.concatenate(points) if points and not own else None
        diagrams = [
            run.record.diagrams(rows[name]["step"], self.cloud) for name, run in self.runs.items()
        ]
        dimensions = slice(1) if kind == "dendrogram" else slice(None)
        limit = max(finite_range(found[dimensions])[1] for found in diagrams)
        for axes, row, found in zip(panels, rows.values(), diagrams, strict=True):
            if kind == "barcode":
                plot_barcode(found, axes, limit=limit).set_xlabel(self.scale)
            elif kind == "diagram":
                plot_diagram(found, axes, limit=limit)
            elif kind == "dendrogram":
                tree = plot_dendrogram(row["deaths"], row["edges"], axes, limit=limit)
                tree.set_ylabel(self.scale)
            else:
                numbers = range(row["n_points"]) if row["n_points"] <= MOST_NUMBERED else None
                plot_map(row["points"], row["edges"], axes, labels=numbers, frame=frame)
            text = style.wrapped(row["title"] + ", in a plane of its own" * own, room)
            axes.set_title(text, loc="left", fontsize="small", parse_math=False)

    def _curve(self, axes: Axes, quantity: str, first: bool) -> None:
        # A run without the quantity keeps its colour for the others.
        found = {name: series.get(quantity) for name, series in self.series.items()}
        lines = {name: (s.steps, s.values) if s else ((), ()) for name, s in found.items()}
        plot_series(lines, axes, control=self.controls, show_legend=first)
        if quantity.endswith("accuracy"):
            axes.set_ylim(top=max(1.03, axes.get_ylim()[1]))
        column, _, dimension = quantity.partition(":")
        label = f"{style.homology(1)}: {label_of(column)}" if dimension else label_of(column)
        axes.set_ylabel(textwrap.fill(label, 22), parse_math=False)
        # Rates that need no tuning, without which an accuracy cannot be judged.
        # Runs of several seeds have several rates, as their items differ: their mean is drawn.
        runs = self.runs.values() if quantity == "accuracy" else ()
        known = {name: [r.reference[name] for r in runs if r.reference.get(name) is not None]
                 for name in RATES}  # fmt: skip
        reference = {name: float(np.mean(rates)) for name, rates in known.items() if rates}
        rates = [
            axes.axhline(
                reference[name], label=f"{text} {reference[name]:.2f}", color=style.GREY,
                linewidth=0.9, linestyle=(0, (1, 1.5 + 2 * place)), zorder=1,
            )
            for place, (name, text) in enumerate(RATES.items()) if reference.get(name) is not None
        ]  # fmt: skip
        if rates:
            style.legend(axes, axes.lines if first else rates)


def _series(run: Run, cloud: int) -> dict[str, Series]:
    """Every quantity of the run's log and of its record that has a value, by name."""
    found = dict(run.measured)
    for dimension, ending in enumerate(("", ":1")):
        steps = run.record.steps(cloud, dimension)
        for name in NUMBERS:
            series = Series(steps, run.record.series(name, cloud, dimension))
            found.setdefault(name + ending, series)
    return {name: series for name, series in found.items() if not np.isnan(series.values).all()}


def _steps_with_points(run: Run, cloud: int) -> list[int]:
    columns = CloudColumns(run.record, cloud)
    return [int(step) for step in columns.steps[columns.present("points")]]
