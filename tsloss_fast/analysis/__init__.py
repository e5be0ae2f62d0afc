"""Watching the topology of points while they are learned: tracker, records, figures, reports.

Needs the extra `analysis`: pip install "tsloss-fast[analysis]". Each name is imported when it is
first used, so that a tracker does not wait for matplotlib.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tsloss_fast._terminal import require
from tsloss_fast.analysis.lazy import lazy_names

if TYPE_CHECKING:
    from tsloss_fast.analysis.analyze.quantities import measure
    from tsloss_fast.analysis.analyze.sources import read_clouds
    from tsloss_fast.analysis.diagrams import RipsH0, from_gudhi, h0_diagram, to_gudhi
    from tsloss_fast.analysis.plots.plots import (
        plot_barcode,
        plot_components,
        plot_diagram,
        plot_series,
    )
    from tsloss_fast.analysis.plots.tree import plot_dendrogram, plot_map
    from tsloss_fast.analysis.record import RecordError
    from tsloss_fast.analysis.record.h1 import h1_diagram
    from tsloss_fast.analysis.record.reader import TopologyRecord, read_record
    from tsloss_fast.analysis.record.tracker import TopologyTracker
    from tsloss_fast.analysis.relation import relate
    from tsloss_fast.analysis.runs import Run, load_run, load_runs
    from tsloss_fast.analysis.vocabulary.files import load_vocabulary
    from tsloss_fast.analysis.vocabulary.nearest import Vocabulary

__all__ = [
    "RecordError",
    "RipsH0",
    "Run",
    "TopologyRecord",
    "TopologyTracker",
    "Vocabulary",
    "from_gudhi",
    "h0_diagram",
    "h1_diagram",
    "load_run",
    "load_runs",
    "load_vocabulary",
    "measure",
    "plot_barcode",
    "plot_components",
    "plot_dendrogram",
    "plot_diagram",
    "plot_map",
    "plot_series",
    "read_clouds",
    "read_record",
    "relate",
    "to_gudhi",
]

_HOME = {
    "RecordError": "record",
    "RipsH0": "diagrams",
    "Run": "runs",
    "TopologyRecord": "record.reader",
    "TopologyTracker": "record.tracker",
    "Vocabulary": "vocabulary.nearest",
    "from_gudhi": "diagrams",
    "h0_diagram": "diagrams",
    "h1_diagram": "record.h1",
    "load_run": "runs",
    "load_runs": "runs",
    "load_vocabulary": "vocabulary.files",
    "measure": "analyze.quantities",
    "plot_barcode": "plots.plots",
    "plot_components": "plots.plots",
    "plot_dendrogram": "plots.tree",
    "plot_diagram": "plots.plots",
    "plot_map": "plots.tree",
    "plot_series": "plots.plots",
    "read_clouds": "analyze.sources",
    "read_record": "record.reader",
    "relate": "relation",
    "to_gudhi": "diagrams",
}
_get, __dir__ = lazy_names(globals(), _HOME)


def __getattr__(name: str) -> Any:
    # pyarrow writes and reads records, and nothing else: files of points are measured without it.
    if name in _HOME and name not in ("measure", "read_clouds"):
        require("tsloss_fast.analysis", "analysis", "pyarrow")
    return _get(name)
