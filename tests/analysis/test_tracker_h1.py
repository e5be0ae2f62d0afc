"""Loops in a tracker: GUDHI's and ripser's, computed behind the training's back."""

from __future__ import annotations

import math
import queue
import subprocess
import sys
import threading
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("pyarrow")
pytest.importorskip("gudhi")
pytest.importorskip("sklearn")

import gudhi.hera
from walks import record_all, walk

from tsloss_fast.analysis import TopologyTracker, read_record
from tsloss_fast.analysis.record.h1 import BackgroundH1, _finish, find_engine, h1_diagram


def test_h1_is_gudhis_and_comes_with_its_own_distances(tmp_path: Path) -> None:
    clouds = walk(7, (40, 4))
    record = record_all(tmp_path, clouds, h1_every=3)
    assert record.steps(0, 1).tolist() == [0, 3, 6]
    diagrams = {}
    for step in (0, 3, 6):
        tree = gudhi.RipsComplex(points=clouds[step].numpy()).create_simplex_tree(max_dimension=2)
        tree.persistence()
        theirs = tree.persistence_intervals_in_dimension(1)
        theirs = theirs[np.lexsort((theirs[:, 0], theirs[:, 1]))]
        assert len(theirs) > 3
        ours = record.diagrams(step)[1]
        np.testing.assert_allclose(ours, theirs, rtol=1e-6)
        diagrams[step] = ours
        row = record.row(step, dimension=1)
        lifetimes = ours[:, 1] - ours[:, 0]
        assert row["bars"] == len(ours)
        assert row["max_lifetime"] == pytest.approx(lifetimes.max())
        assert row["total_persistence"] == pytest.approx(lifetimes.sum())
        assert row["edges"] is None
    row = record.row(6, dimension=1)
    for name, other in (("previous", 3), ("first", 0)):
        expected = gudhi.hera.wasserstein_distance(diagrams[other], diagrams[6], 1.0, np.inf, 1e-9)
        assert row[f"wasserstein_{name}"] == pytest.approx(expected, rel=1e-5)
    assert len(record.diagrams(1)) == 1


@pytest.mark.parametrize("metric", ["euclidean", "sqeuclidean", "cosine", "manhattan"])
def test_both_engines_of_h1_agree_in_every_metric(metric: str) -> None:
    pytest.importorskip("ripser")
    points = walk(1, (40, 4))[0].numpy()
    a, b = (h1_diagram(points, metric, engine=engine) for engine in ("gudhi", "ripser"))
    assert len(a) > 3
    np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
    gaps = points[:, None] - points
    norms = np.linalg.norm(points, axis=1)
    distances = {
        "euclidean": np.linalg.norm(gaps, axis=-1),
        "sqeuclidean": np.square(gaps).sum(-1),
        "cosine": np.maximum(1 - points @ points.T / np.outer(norms, norms), 0),
        "manhattan": np.abs(gaps).sum(-1),
    }[metric]
    complex_ = gudhi.RipsComplex(distance_matrix=distances)
    tree = complex_.create_simplex_tree(max_dimension=2)
    tree.persistence()
    theirs = tree.persistence_intervals_in_dimension(1)
    theirs = theirs[np.lexsort((theirs[:, 0], theirs[:, 1]))]
    np.testing.assert_allclose(a, theirs, rtol=1e-6, atol=1e-9)


def test_a_failure_of_h1_is_said_once_and_h0_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise MemoryError("no room")

    monkeypatch.setattr("tsloss_fast.analysis.record.h1.h1_diagram", fail)
    with pytest.warns(UserWarning, match="H1 failed .* MemoryError: no room") as caught:
        record = record_all(tmp_path, walk(4), h1_every=1)
    assert len(caught) == 1
    assert record.steps().tolist() == [0, 1, 2, 3]
    assert len(record.steps(0, 1)) == 0


def test_a_failure_of_h1_where_warnings_are_errors_holds_nobody_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    release = threading.Event()

    def fail(*_: Any, **__: Any) -> None:
        assert release.wait(60)
        raise MemoryError("no room")

    monkeypatch.setattr("tsloss_fast.analysis.record.h1.h1_diagram", fail)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tracker = TopologyTracker(tmp_path, h1_every=1)
        for step, points in enumerate(walk(4)):
            tracker.record(step, points)
        release.set()
        waiting = threading.Thread(target=tracker.close, daemon=True)
        tracker._h1.wait()  # type: ignore[union-attr]
        waiting.start()
        waiting.join(30)
    assert not waiting.is_alive()
    assert read_record(tmp_path).steps().tolist() == [0, 1, 2, 3]


def test_training_does_not_wait_for_h1(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    release = threading.Event()

    def slow(points: np.ndarray, *_: Any, **__: Any) -> np.ndarray:
        assert release.wait(60)
        return np.empty((0, 2))

    monkeypatch.setattr("tsloss_fast.analysis.record.h1.h1_diagram", slow)
    cloud = walk(1)[0]
    tracker = TopologyTracker(tmp_path, h1_every=1)
    for step in range(30):
        tracker.record(step, cloud)
    assert read_record(tmp_path).steps().tolist() == list(range(30))
    assert len(read_record(tmp_path).steps(0, 1)) == 0
    release.set()
    with pytest.warns(UserWarning, match="H1 was too slow for its interval: (20|21|22) steps"):
        tracker.close()
    assert 8 <= len(read_record(tmp_path).steps(0, 1)) <= 10


def test_no_h1_of_clouds_that_are_too_large(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="no H1 of clouds of more than 10 points"):
        record = record_all(tmp_path, walk(2), max_h1_points=10)
    assert len(record.steps(0, 1)) == 0


def test_h1_that_was_begun_is_written_when_the_process_ends_without_close(tmp_path: Path) -> None:
    code = (
        "import sys, torch\n"
        "from tsloss_fast.analysis import TopologyTracker\n"
        "tracker = TopologyTracker(sys.argv[1], h1_every=1)\n"
        "for step in range(3): tracker.record(step, torch.randn(60, 8))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert read_record(tmp_path).steps(0, 1).tolist() == [0, 1, 2]


def test_an_engine_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib.util

    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "gudhi" else find(name)
    )
    with pytest.raises(ImportError, match=r"H1 through gudhi needs gudhi.*tsloss-fast\[analysis\]"):
        find_engine("gudhi")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert find_engine("auto") is None


def test_the_thread_ends_with_its_owner() -> None:
    done: list[int] = []
    worker = BackgroundH1(done.append)
    thread = worker._thread
    worker.submit(1)
    del worker
    thread.join(10)
    assert not thread.is_alive()
    assert done == [1]


def test_the_thread_may_end_itself() -> None:
    """The garbage collector may find the owner while the thread works."""
    jobs: queue.Queue[Any] = queue.Queue()
    _finish(jobs, threading.current_thread())
    assert jobs.get_nowait() is None


@pytest.mark.parametrize("n", [0, 1, 2, 3])
def test_no_loop_without_four_points(n: int) -> None:
    assert h1_diagram(np.random.default_rng(n).normal(size=(n, 2))).shape == (0, 2)
    square = np.array([[0.0, 0], [1, 0], [1, 1], [0, 1]])
    np.testing.assert_allclose(h1_diagram(square), [[1.0, math.sqrt(2)]], rtol=1e-6)
    np.testing.assert_allclose(h1_diagram(square, max_edge_length=1.2), [[1.0, math.inf]])
