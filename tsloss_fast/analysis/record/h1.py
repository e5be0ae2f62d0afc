"""1-dimensional persistence through GUDHI or ripser, at once or in a background thread.

H1 is recorded but never enters the loss, and its cost grows up to the cube of the number of points.
So established libraries compute it on the CPU, in a thread beside the training.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import queue
import threading
import time
import warnings
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tsloss_fast.analysis.record.measures import diagram_distances, lifetime_measures
from tsloss_fast.analysis.record.snapshot import Snapshot
from tsloss_fast.analysis.record.writer import RecordWriter

__all__ = [
    "ENGINES",
    "BackgroundH1",
    "H1Job",
    "H1Rows",
    "find_engine",
    "h1_diagram",
    "h1_job",
    "load_engine",
]

# GUDHI first: it computes in float64 and lets other threads run, ripser.py does neither.
ENGINES = ("gudhi", "ripser")
_SCIPY_METRICS = {
    "euclidean": "euclidean",
    "sqeuclidean": "sqeuclidean",
    "cosine": "cosine",
    "manhattan": "cityblock",
}


def find_engine(name: str = "auto") -> str | None:
    """The engine to use: the one asked for, or with "auto" the first installed one, else None.

    Raises:
        ValueError: an unknown name.
        ImportError: what was asked for is not installed.
    """
    if name not in ("auto", *ENGINES):
        raise ValueError(f"h1: expected auto, {', '.join(ENGINES)} or None, got {name!r}")
    # GUDHI's interface is a scikit-learn estimator; distances are SciPy's.
    needs = {"gudhi": ("gudhi", "sklearn", "scipy"), "ripser": ("ripser", "scipy")}
    for engine in ENGINES if name == "auto" else (name,):
        missing = [module for module in needs[engine] if importlib.util.find_spec(module) is None]
        if not missing:
            return engine
        if name != "auto":
            raise ImportError(
                f"H1 through {engine} needs {', '.join(missing)}, not installed here: "
                "pip install 'tsloss-fast[analysis]'"
            )
    return None


def load_engine(name: str) -> Any:
    """Import an engine, which takes about a second the first time, and give its entry point.

    A thread cannot import while the interpreter ends, so this is called before the thread starts.
    """
    importlib.import_module("scipy.spatial.distance")
    if name == "gudhi":
        return importlib.import_module("gudhi.sklearn.rips_persistence").RipsPersistence
    return importlib.import_module("ripser").ripser


def h1_diagram(
    points: np.ndarray | Tensor,
    metric: str = "euclidean",
    *,
    engine: str = "gudhi",
    max_edge_length: float = np.inf,
) -> np.ndarray:
    """The 1-dimensional Vietoris-Rips diagram of one cloud, by death and then birth.

    Args:
        points: (N, D) finite numbers; computed in float64 (ripser: float32).
        metric: as in `h0_persistence`.
        engine: "gudhi" or "ripser".
        max_edge_length: edges longer than this are left out; loops that they would have filled
            have an infinite death.

    Returns:
        (n, 2) float64 births and deaths; bars of length 0 are not among them.

    Raises:
        ValueError: another shape, numbers that are not finite, an unknown metric.
        ImportError: the engine is not installed.

    Time and memory grow up to N³; a prompt of 100 points in 576 dimensions takes milliseconds.

    Example:
        >>> corners = np.array([[0.0, 0.0], [1.0, 0.0], [1.0, 1.0], [0.0, 1.0]])
        >>> h1_diagram(corners).round(3)  # from the side to the diagonal
        array([[1.   , 1.414]])
    """
    if isinstance(points, Tensor):
        points = points.detach().cpu().double().numpy()
    points = np.asarray(points)
    if points.ndim != 2:
        raise ValueError(f"points: expected shape (N, D), got {points.shape}")
    if metric not in _SCIPY_METRICS:
        raise ValueError(f"metric: expected one of {', '.join(_SCIPY_METRICS)}, got {metric!r}")
    find_engine(engine)
    if not np.isfinite(points).all():
        raise ValueError("points: expected finite numbers, got NaN or infinity")
    if len(points) < 4 or points.shape[1] == 0:  # a loop needs four points
        return np.empty((0, 2))
    from scipy.spatial.distance import pdist, squareform

    distances = squareform(pdist(points.astype(np.float64), _SCIPY_METRICS[metric]))
    if engine == "gudhi":
        RipsPersistence = load_engine(engine)
        rips = RipsPersistence(
            homology_dimensions=[1],
            threshold=max_edge_length,
            input_type="full distance matrix",
            homology_coeff_field=2,
        )
        found = rips.fit_transform([distances])[0][0]
    else:
        ripser = load_engine(engine)
        longest = np.inf if np.isinf(max_edge_length) else float(max_edge_length)
        found = ripser(distances, distance_matrix=True, maxdim=1, thresh=longest)["dgms"][1]
    diagram = np.asarray(found, dtype=np.float64).reshape(-1, 2)
    return diagram[np.lexsort((diagram[:, 0], diagram[:, 1]))]


class BackgroundH1:
    """Computes jobs in one daemon thread, in order, and hands each result to a function.

    Training never waits for it: when `backlog` jobs wait already, the next job is left out and
    counted. After a job has failed, which gives one warning, no further job is taken.
    """

    def __init__(self, work: Callable[[Any], None], backlog: int = 8) -> None:
        self.skipped = 0
        self._jobs: queue.Queue[Any] = queue.Queue(backlog)
        self._failed = threading.Event()
        self._thread = threading.Thread(
            target=_serve,
            # Not a method: the thread must not keep its owner alive.
            args=(self._jobs, work, self._failed),
            name="tsloss_fast H1",
            daemon=True,
        )
        self._thread.start()
        # Also when the interpreter ends: what was begun is finished and written.
        self._close = weakref.finalize(self, _finish, self._jobs, self._thread)

    def submit(self, job: Any) -> bool:
        """Whether the job was taken."""
        if self._failed.is_set():
            return False
        try:
            self._jobs.put_nowait(job)
        except queue.Full:
            self.skipped += 1
            return False
        return True

    def wait(self) -> None:
        """Until every job that was taken is done."""
        with self._jobs.all_tasks_done:
            while self._jobs.unfinished_tasks and self._thread.is_alive():
                self._jobs.all_tasks_done.wait(0.1)

    def close(self) -> None:
        self._close()


def _serve(jobs: queue.Queue[Any], work: Callable[[Any], None], failed: threading.Event) -> None:
    while True:
        job = jobs.get()
        try:
            if job is None:
                return
            if not failed.is_set():
                work(job)
        except Exception as error:
            # Watching must not end the training.
            failed.set()
            with contextlib.suppress(UserWarning):  # where warnings are errors
                warnings.warn(
                    f"H1 failed and is not recorded from here on: {type(error).__name__}: {error}",
                    UserWarning,
                    stacklevel=1,
                )
        finally:
            jobs.task_done()


def _finish(jobs: queue.Queue[Any], thread: threading.Thread) -> None:
    if thread.is_alive():
        jobs.put(None)
        # The garbage collector may call from the thread itself.
        if thread is not threading.current_thread():
            thread.join()


# The step, the index of the cloud and its points, for each cloud that has bars.
H1Job = list[tuple[int, int, np.ndarray]]


def h1_job(step: int, now: Snapshot) -> H1Job:
    """The finite clouds of a step."""
    assert now.points is not None
    points = now.points.cpu().numpy()
    known = zip(now.sizes(), now.finite, strict=True)
    return [(step, cloud, points[cloud, :n]) for cloud, (n, ok) in enumerate(known) if ok]


class H1Rows:
    """Compute the diagrams of a job and their measures, and write them as rows of the record.

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
