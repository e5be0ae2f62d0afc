"""The rows of dimension 1 of a record, as a thread makes and writes them."""

from __future__ import annotations

import threading
import time
from typing import Any

import numpy as np
import torch

from tsloss_fast.analysis.h1 import h1_diagram
from tsloss_fast.analysis.measures import diagram_distances, lifetime_measures
from tsloss_fast.analysis.record_writer import RecordWriter
from tsloss_fast.analysis.snapshot import Snapshot

__all__ = ["H1Job", "H1Rows", "h1_job"]

# Of each cloud that has bars: the step, the number of the cloud, its points.
H1Job = list[tuple[int, int, np.ndarray]]


def h1_job(step: int, now: Snapshot) -> H1Job:
    """The finite clouds of a step."""
    assert now.points is not None
    points = now.points.cpu().numpy()
    known = zip(now.sizes(), now.finite, strict=True)
    return [(step, cloud, points[cloud, :n]) for cloud, (n, ok) in enumerate(known) if ok]


class H1Rows:
    """What the thread does with a job: diagrams, their measures, and rows in the record.

    It holds the tracker's parts and not the tracker, which may be collected before it is done.
    """

    def __init__(
        self, writer: RecordWriter, lock: threading.Lock, metric: str, engine: str
    ) -> None:
        self._writer, self._lock = writer, lock
        self._metric, self._engine = metric, engine
        # The first and the newest diagram of each cloud, which the next is compared with.
        self._diagrams: dict[int, tuple[np.ndarray, np.ndarray]] = {}
        if (kept := writer.kept) is not None:
            for cloud in kept.clouds:
                done = kept.steps(cloud, 1)
                if len(done):
                    first, last = (kept.diagrams(int(s), cloud)[1] for s in (done[0], done[-1]))
                    self._diagrams[cloud] = first, last

    def __call__(self, job: H1Job) -> None:
        rows = []
        for step, cloud, points in job:
            diagram = h1_diagram(points, self._metric, engine=self._engine)
            lifetimes = torch.from_numpy(diagram[:, 1] - diagram[:, 0])
            measures = lifetime_measures(lifetimes.unsqueeze(0))
            row: dict[str, Any] = {
                "step": step,
                "cloud": cloud,
                "dimension": 1,
                "time": time.time(),
                "n_points": points.shape[0],
                "n_features": points.shape[1],
                "births": diagram[:, 0],
                "deaths": diagram[:, 1],
                **{name: values[0] for name, values in measures.items()},
            }
            if cloud in self._diagrams:
                first, previous = self._diagrams[cloud]
                for name, other in (("first", first), ("previous", previous)):
                    for kind, value in diagram_distances(other, diagram).items():
                        row[f"{kind}_{name}"] = value
            self._diagrams[cloud] = (self._diagrams.get(cloud, (diagram,))[0], diagram)
            rows.append(row)
        with self._lock:
            self._writer.write(rows)
