"""Watching the topology of points while they are learned: tracker, records, figures, reports.

Needs the extra `analysis`: pip install "tsloss-fast[analysis]". Each name is imported when it is
first used, so that a tracker does not wait for matplotlib.
"""

from __future__ import annotations

import importlib
import importlib.util
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tsloss_fast.analysis.h1 import h1_diagram
    from tsloss_fast.analysis.record import RecordError, TopologyRecord, read_record
    from tsloss_fast.analysis.runs import Run, load_run, load_runs
    from tsloss_fast.analysis.tracker import TopologyTracker

__all__ = [
    "RecordError",
    "Run",
    "TopologyRecord",
    "TopologyTracker",
    "h1_diagram",
    "load_run",
    "load_runs",
    "read_record",
]

_HOME = {
    "RecordError": "record",
    "Run": "runs",
    "TopologyRecord": "record",
    "TopologyTracker": "tracker",
    "h1_diagram": "h1",
    "load_run": "runs",
    "load_runs": "runs",
    "read_record": "record",
}
if importlib.util.find_spec("pyarrow") is None:
    raise ModuleNotFoundError(
        "tsloss_fast.analysis needs pyarrow, not installed here; install what it needs with: "
        'pip install "tsloss-fast[analysis]"',
        name="pyarrow",
    )


def __getattr__(name: str) -> Any:
    home = _HOME.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{home}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
