"""Watching the topology of points while they are learned: tracker, records, figures, reports.

Needs the extra `analysis`: pip install "tsloss-fast[analysis]". Each name is imported when it is
first used, so that a tracker does not wait for matplotlib.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tsloss_fast._terminal import require
from tsloss_fast.analysis.lazy import lazy_names

if TYPE_CHECKING:
    from tsloss_fast.analysis.diagrams import RipsH0, from_gudhi, h0_diagram, to_gudhi
    from tsloss_fast.analysis.figures.plots import (
        plot_barcode,
        plot_components,
        plot_dendrogram,
        plot_diagram,
        plot_map,
        plot_series,
    )
    from tsloss_fast.analysis.h1 import h1_diagram
    from tsloss_fast.analysis.record import RecordError, TopologyRecord, read_record
    from tsloss_fast.analysis.relation.relate import relate
    from tsloss_fast.analysis.runs import Run, load_run, load_runs
    from tsloss_fast.analysis.saved.quantities import measure
    from tsloss_fast.analysis.saved.sources import read_clouds
    from tsloss_fast.analysis.tracker import TopologyTracker
    from tsloss_fast.analysis.vocabulary.nearest import Vocabulary, load_vocabulary

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
    "TopologyRecord": "record",
    "TopologyTracker": "tracker",
    "Vocabulary": "vocabulary.nearest",
    "from_gudhi": "diagrams",
    "h0_diagram": "diagrams",
    "h1_diagram": "h1",
    "load_run": "runs",
    "load_runs": "runs",
    "load_vocabulary": "vocabulary.nearest",
    "measure": "saved.quantities",
    **dict.fromkeys(
        (
            "plot_barcode",
            "plot_components",
            "plot_dendrogram",
            "plot_diagram",
            "plot_map",
            "plot_series",
        ),
        "figures.plots",
    ),
    "read_clouds": "saved.sources",
    "read_record": "record",
    "relate": "relation.relate",
    "to_gudhi": "diagrams",
}
require("tsloss_fast.analysis", "analysis", "pyarrow")
__getattr__, __dir__ = lazy_names(globals(), _HOME)
