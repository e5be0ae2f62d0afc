"""Watches the topology of points while they are learned, in any loop."""

from __future__ import annotations

import os
import threading
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tsloss_fast import H0Persistence, barcode, h0_persistence
from tsloss_fast._batch import HALF, as_tensor, check_lengths, shape_error
from tsloss_fast.analysis.record import RECORD
from tsloss_fast.analysis.record.h1 import BackgroundH1, H1Rows, find_engine, h1_job, load_engine
from tsloss_fast.analysis.record.measures import LOGGED, scales_for, summary
from tsloss_fast.analysis.record.snapshot import Snapshot, h0_rows, snapshot_of_rows, take
from tsloss_fast.analysis.record.writer import RecordWriter
from tsloss_fast.functional import given_barcode

__all__ = ["Schedule", "TopologyTracker", "schedule"]

Schedule = int | Callable[[int], bool]


def schedule(name: str, value: Schedule) -> Callable[[int], bool]:
    """The steps that a number divides, or a function says yes to.

    Raises:
        ValueError: neither; `name` is what it was given for.
    """
    if callable(value):
        return value
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"{name}: expected an integer of at least 1 or a function, got {value!r}")
    return lambda step: step % value == 0


class TopologyTracker:
    """Records H0 of clouds of points at chosen steps, and H1 at longer intervals in a thread.

    H0 is exact, on the device of the points where the core has kernels for it and else on the CPU;
    with its functionals and one write to the file a record of a prompt takes milliseconds
    (benchmarks/results/tracking.md). Nothing asks for a gradient, and no error of H1 ends the
    training. Points that are not finite are recorded as such, with one warning.

    Args:
        path: a folder, in which the record is `topology.arrows`, or a file that ends in .arrows;
            `tsloss_fast.analysis.record.schema.SCHEMA` has the columns.
        metric: as in `h0_persistence`.
        every: record at steps that this divides, or that it says yes to; other steps cost nothing.
        h1_every: the same for H1, among the recorded steps; the first step is always one. None: no
            H1.
        points_every: the same for keeping the points themselves; 8 N D bytes a cloud. They are kept
            at the first step in any case: maps and names of tokens need them.
        h1: "gudhi", "ripser", or "auto": whichever is installed, and no H1 if neither is.
        max_h1_points: larger clouds get no H1, after one warning.
        clouds: names of the B clouds.
        rho: of `barcode.redundancy`.
        metadata: kept with the record; what JSON can hold. `model` lets a report name the tokens.
        resume: the step from which the training is resumed. Later rows are dropped.
            None starts a new record, and a record that is already at `path` is an error.
        resume_points: the points at that step, so that the next displacement is known if the step
            was recorded (otherwise it is, if the points of the last record were kept).

    Raises:
        FileExistsError: there is a record, and `resume` is None.
        RecordError: the record is none of ours, or of another metric, rho or other clouds.
        ValueError, TypeError, ImportError: a wrong argument, or an engine that is not installed.

    One process writes: with several, make the tracker on rank 0 alone. `close`, or the end of the
    `with` block, waits for H1; without it, the end of the process does.

    Example:
        >>> import tempfile
        >>> from tsloss_fast.analysis import read_record
        >>> prompt = torch.tensor([[0.0], [1.0], [3.0]])
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     with TopologyTracker(folder) as tracker:
        ...         first = tracker.record(0, prompt)
        ...         then = tracker.record(1, 2 * prompt)
        ...     record = read_record(folder)
        >>> first["mean_lifetime"], then["mean_lifetime"], then["bottleneck_first"]
        (1.5, 3.0, 2.0)
        >>> record.steps().tolist(), record.series("coefficient_of_variation").round(3).tolist()
        ([0, 1], [0.333, 0.333])
        >>> record.diagrams(1)[0]
        array([[ 0.,  2.],
               [ 0.,  4.],
               [ 0., inf]])
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        metric: str = "euclidean",
        every: Schedule = 1,
        h1_every: Schedule | None = 10,
        points_every: Schedule = 10,
        h1: str = "auto",
        max_h1_points: int = 400,
        clouds: Sequence[str] | None = None,
        rho: float = 0.5,
        metadata: Mapping[str, Any] | None = None,
        resume: int | None = None,
        resume_points: Tensor | np.ndarray | None = None,
    ) -> None:
        # Errors of arguments come from the same place that will use them, before a file is made.
        h0_persistence(torch.ones(1, 1), metric)
        barcode.redundancy(torch.zeros(1), rho)
        self._every = schedule("every", every)
        self._points_every = schedule("points_every", points_every)
        self._h1_every = None if h1_every is None else schedule("h1_every", h1_every)
        engine = None if h1_every is None else find_engine(h1)
        if engine is not None:
            load_engine(engine)
        self._metric, self._rho, self._max_h1 = metric, rho, max_h1_points
        self._names = None if clouds is None else list(map(str, clouds))
        self._first: Snapshot | None = None
        self._previous: Snapshot | None = None
        self._scales: np.ndarray | None = None
        self._last_step: int | None = None
        self._last_rows: list[dict[str, Any]] = []
        self._last_h1: int | None = None
        self._warned: set[str] = set()
        if resume_points is not None:
            self._as_batch(resume_points, None)
        path = Path(path)
        self.path = path if path.suffix == ".arrows" else path / RECORD
        fixed = {"metric": metric, "rho": rho, "clouds": self._names, "h1": engine}
        self._writer = RecordWriter(
            self.path, dict(metadata or {}) | fixed, resume, same=("metric", "rho", "clouds")
        )
        self._lock = threading.Lock()
        if self._writer.kept is not None:
            self._remember_kept(resume, resume_points)
        self._h1: BackgroundH1 | None = None
        if engine is not None:
            self._h1 = BackgroundH1(H1Rows(self._writer, self._lock, metric, engine))

    def __enter__(self) -> TopologyTracker:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def due(self, step: int) -> bool:
        """Whether `record` does anything at this step."""
        return self._every(step)

    @torch.no_grad()
    def record(
        self,
        step: int,
        points: Tensor | np.ndarray,
        lengths: Tensor | Sequence[int] | None = None,
        *,
        keep: bool = False,
        h0: H0Persistence | None = None,
    ) -> dict[str, float] | None:
        """Record the points after `step` training steps, if the schedule selects this step.

        Args:
            step: above every step recorded before.
            points: (N, D), or (..., N, D) for several clouds, flattened to B; any floating type,
                device and strides, also with a gradient, which is left alone.
                `prompt_clouds(model)` gives the virtual tokens of a peft model.
            lengths: (...) valid points of each cloud of a padded batch.
            keep: record this step with its points and H1 even if the schedule leaves it out. The
                last step of a training is recorded this way.
            h0: the barcode of exactly these points under the tracker's metric and with these
                lengths, where the caller has it already: deaths (..., N-1) and edges
                (..., N-1, 2), on any device. It is computed otherwise.

        Returns:
            The means over clouds of the columns in `LOGGED`, without those that are not defined;
            None if the step is not one to record.

        Raises:
            ValueError: a step that is not above the last, another number of clouds than before,
                an `h0` whose shapes are not those of the points, or what `h0_persistence` raises of
                shapes and lengths.
            TypeError: points of another type, or an `h0` without deaths and edges.
            OSError: the file cannot be written.
        """
        if not (keep or self.due(step)):
            return None
        if self._last_step is not None and step <= self._last_step:
            raise ValueError(
                f"step {step} is not above the last recorded step {self._last_step}: to go back, "
                "make a tracker with resume=STEP"
            )
        batch, sizes = self._as_batch(points, lengths)
        known = None
        if h0 is not None:
            deaths, edges = given_barcode(h0, points.shape)
            shape = (len(batch), deaths.shape[-1])
            known = H0Persistence(deaths.reshape(shape), edges.reshape(*shape, 2))
        now = take(batch, self._metric, sizes, known)
        if not all(now.finite):
            self._warn(
                "finite",
                f"the points are not finite, or their distances overflow, from step {step} on "
                f"(cloud {now.finite.index(False)} the first): such clouds are recorded without "
                "bars",
            )
        first = self._first is None
        if self._scales is None:
            self._scales = scales_for(now.deaths)
        rows = h0_rows(
            step,
            now,
            self._previous,
            self._first,
            scales=self._scales,
            rho=self._rho,
            keep_points=keep or first or self._points_every(step),
        )
        with self._lock:
            self._writer.write(rows)
        self._first = self._first or now
        self._previous = now
        self._last_step, self._last_rows = step, rows
        if self._h1 and self._h1_every and (keep or first or self._h1_every(step)):
            self._submit_h1(step, now)
        return summary(rows, LOGGED)

    def keep_last(self) -> None:
        """Add the points and H1 of the last record where the schedule has left them out, for a
        training that stops early. Its rows are written again; the later row of a step counts."""
        last = self._previous
        if not self._last_rows or last is None or self._last_step is None:
            return
        if any(row.get("points") is None for row in self._last_rows):
            assert last.points is not None
            points = last.points.cpu().double().numpy()
            for cloud, (row, size) in enumerate(zip(self._last_rows, last.sizes(), strict=True)):
                row["points"] = points[cloud, :size].ravel()
            with self._lock:
                self._writer.write(self._last_rows)
        if self._h1 and self._last_h1 != self._last_step:
            self._submit_h1(self._last_step, last)

    def flush(self) -> None:
        """Wait for H1 of the steps so far, and force the record to the disk."""
        if self._h1 is not None:
            self._h1.wait()
        with self._lock:
            self._writer.sync()

    def close(self) -> None:
        """Finish H1 and close the file; a second call does nothing."""
        if self._h1 is not None:
            self._h1.close()
            if self._h1.skipped:
                self._warn(
                    "skipped",
                    f"H1 was too slow for its interval: {self._h1.skipped} steps have none; use a "
                    "larger h1_every",
                )
        with self._lock:
            self._writer.close()

    def _as_batch(
        self, points: Tensor | np.ndarray, lengths: Tensor | Sequence[int] | None
    ) -> tuple[Tensor, Tensor | None]:
        x = as_tensor(points, "points")
        if x.dim() < 2:
            raise shape_error("points", x.shape, "(N, D) or (..., N, D)")
        sizes = check_lengths(lengths, x.shape[:-2], x.device)
        x = x.unsqueeze(0) if x.dim() == 2 else x.flatten(0, -3)
        x = x.float() if x.dtype in HALF else x
        expected = self._clouds()
        if expected is not None and len(x) != expected:
            raise ValueError(
                f"points: {len(x)} clouds, but this record has {expected}: write another record "
                "with another tracker"
            )
        return x, None if sizes is None else sizes.reshape(-1)

    def _clouds(self) -> int | None:
        if self._names is not None:
            return len(self._names)
        return None if self._first is None else len(self._first.deaths)

    def _submit_h1(self, step: int, now: Snapshot) -> None:
        self._last_h1 = step
        assert self._h1 is not None
        assert now.points is not None
        if now.points.shape[1] > self._max_h1:
            self._warn(
                "large",
                f"no H1 of clouds of more than {self._max_h1} points (here {now.points.shape[1]}): "
                "a larger max_h1_points asks for it",
            )
            return
        if job := h1_job(step, now):
            self._h1.submit(job)

    def _remember_kept(self, resume: int | None, resume_points: Tensor | np.ndarray | None) -> None:
        """Take up the thread from the rows that were kept."""
        kept = self._writer.kept
        assert kept is not None
        steps = kept.steps()
        if not len(steps):
            return
        clouds = kept.clouds
        self._last_step = int(steps[-1])
        self._first = snapshot_of_rows([kept.row(int(steps[0]), cloud) for cloud in clouds])
        self._previous = snapshot_of_rows([kept.row(int(steps[-1]), cloud) for cloud in clouds])
        if resume_points is not None and self._last_step == resume:
            batch, _ = self._as_batch(resume_points, None)
            self._previous = replace(self._previous, points=batch.clone())
        self._scales = kept.row(int(steps[0]))["scales"]

    def _warn(self, kind: str, message: str) -> None:
        if kind not in self._warned:
            self._warned.add(kind)
            warnings.warn(f"{self.path}: {message}", UserWarning, stacklevel=4)
