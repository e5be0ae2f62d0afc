"""What a tracker records is what the definitions say, whatever the clouds look like."""

from __future__ import annotations

import gc
import math
import os
import queue
import subprocess
import sys
import threading
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("pyarrow")
pytest.importorskip("gudhi")
pytest.importorskip("sklearn")

import gudhi.hera
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.cluster.hierarchy import single
from scipy.spatial.distance import pdist

from tsloss_fast import TSLoss, h0_persistence
from tsloss_fast.analysis import TopologyTracker, read_record
from tsloss_fast.analysis.h1 import BackgroundH1, _finish, find_engine, h1_diagram
from tsloss_fast.analysis.record import RecordError
from tsloss_fast.analysis.tracker import LOGGED


def walk(steps: int, shape: tuple[int, ...] = (12, 5), seed: int = 0) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    moves = torch.randn(steps, *shape, generator=generator, dtype=torch.float64)
    moves[1:] *= 0.2
    return list(moves.cumsum(0))


def record_all(path: Path, points_of_steps: list[Any], /, **options: Any) -> Any:
    with TopologyTracker(path, **options) as tracker:
        for step, points in enumerate(points_of_steps):
            tracker.record(step, points)
    return read_record(path)


def test_every_quantity_is_what_its_definition_says(tmp_path: Path) -> None:
    clouds = walk(4)
    record = record_all(tmp_path, clouds)
    assert record.steps().tolist() == [0, 1, 2, 3]
    assert record.damaged_bytes == 0
    for step, points in enumerate(clouds):
        row = record.row(step)
        deaths = single(pdist(points.numpy()))[:, 2]
        np.testing.assert_allclose(row["deaths"], deaths, rtol=1e-12)
        assert (row["births"] == 0).all()
        ends = points.numpy()[row["edges"]]
        np.testing.assert_allclose(np.linalg.norm(ends[:, 0] - ends[:, 1], axis=-1), deaths)
        shares = deaths / deaths.sum()
        entropy = -(shares * np.log(shares)).sum()
        expected = {
            "bars": 11,
            "n_points": 12,
            "n_features": 5,
            "total_persistence": deaths.sum(),
            "mean_lifetime": deaths.mean(),
            "max_lifetime": deaths.max(),
            "coefficient_of_variation": deaths.std() / deaths.mean(),
            "persistent_entropy": entropy,
            "entropy_gap": math.log(11) - entropy,
            "redundancy": (np.maximum(1 - deaths / (0.5 * deaths.mean()), 0) ** 2).mean(),
        }
        for name, value in expected.items():
            assert row[name] == pytest.approx(value, rel=1e-9, abs=1e-12), name
        alive = (deaths[None, :] > row["scales"][:, None]).sum(1) + 1
        assert row["components"].tolist() == alive.tolist()


def test_distances_displacements_and_merges_are_to_the_record_before_and_the_first(
    tmp_path: Path,
) -> None:
    clouds = walk(5)
    record = record_all(tmp_path, clouds)
    first = record.row(0)
    for name in ("bottleneck", "wasserstein", "displacement"):
        assert first[f"{name}_previous"] is None
        assert first[f"{name}_first"] is None
    assert first["edges_added"] is None
    for step in range(1, 5):
        row = record.row(step)
        finite = [record.diagrams(s)[0][:-1] for s in (step - 1, 0, step)]
        for name, other, start in (("previous", finite[0], step - 1), ("first", finite[1], 0)):
            assert row[f"bottleneck_{name}"] == pytest.approx(
                gudhi.hera.bottleneck_distance(other, finite[2], 1e-9), rel=1e-6
            )
            assert row[f"wasserstein_{name}"] == pytest.approx(
                gudhi.hera.wasserstein_distance(other, finite[2], 1.0, np.inf, 1e-9), rel=1e-6
            )
            moved = (clouds[step] - clouds[start]).norm(dim=1).mean()
            assert row[f"displacement_{name}"] == pytest.approx(float(moved))
        before = {tuple(edge) for edge in record.row(step - 1)["edges"].tolist()}
        now = {tuple(edge) for edge in row["edges"].tolist()}
        assert {tuple(edge) for edge in row["edges_added"].tolist()} == now - before
        assert {tuple(edge) for edge in row["edges_removed"].tolist()} == before - now
    assert any(len(record.row(step)["edges_added"]) for step in range(1, 5))


def test_the_record_agrees_with_the_loss(tmp_path: Path) -> None:
    points = walk(1)[0]
    _, terms = TSLoss()(points, return_terms=True)
    row = record_all(tmp_path, [points]).row(0)
    assert row["coefficient_of_variation"] ** 2 == pytest.approx(terms["connectivity"].item())
    assert row["redundancy"] == pytest.approx(terms["redundancy"].item())


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


def test_a_batch_of_clouds_is_recorded_cloud_by_cloud(tmp_path: Path) -> None:
    batch = torch.stack(walk(6)).reshape(2, 3, 12, 5)
    names = [f"layer {n}" for n in range(6)]
    together = record_all(tmp_path / "together", [batch, batch + batch.cos()], clouds=names)
    assert together.clouds == list(range(6))
    assert together.cloud_name(4) == "layer 4"
    for cloud in (0, 5):
        single_cloud = batch.reshape(6, 12, 5)[cloud]
        alone = record_all(tmp_path / str(cloud), [single_cloud, single_cloud + single_cloud.cos()])
        for dimension in (0, 1):
            one, other = alone.row(0, 0, dimension), together.row(0, cloud, dimension)
            for name in ("deaths", "edges", "total_persistence", "points"):
                np.testing.assert_array_equal(one[name], other[name])
        for name in ("bottleneck_previous", "displacement_first", "wasserstein_first"):
            assert alone.row(1)[name] == pytest.approx(together.row(1, cloud)[name], rel=1e-12)


def test_the_padding_of_a_batch_is_never_looked_at(tmp_path: Path) -> None:
    padded = torch.full((3, 12, 5), float("nan"), dtype=torch.float64)
    lengths = [12, 4, 1]
    clouds = walk(2)
    for index, n in enumerate(lengths):
        padded[index, :n] = clouds[0][:n]
    moved = padded + 1.0
    with TopologyTracker(tmp_path / "padded") as tracker:
        tracker.record(0, padded, lengths)
        logged = tracker.record(1, moved, lengths)
    assert logged is not None
    assert all(math.isfinite(value) for value in logged.values())
    record = read_record(tmp_path / "padded")
    for index, n in enumerate(lengths):
        row = record.row(1, index)
        assert (row["n_points"], len(row["deaths"]), len(row["edges"])) == (n, n - 1, n - 1)
        assert row["displacement_first"] == pytest.approx(math.sqrt(5))
        assert row["bottleneck_first"] == pytest.approx(0.0, abs=1e-12)
        expected = h0_persistence(clouds[0][:n]).deaths.numpy()
        np.testing.assert_array_equal(record.row(0, index)["deaths"], expected)
        assert record.row(0, index)["points"].shape == (n, 5)
        # The same tree: what fills up a batch is no edge that comes or goes.
        assert row["edges_added"].size == row["edges_removed"].size == 0
        assert record.steps(index, 1).tolist() == [0]


def test_any_floating_tensor_is_taken_and_its_gradient_left_alone(tmp_path: Path) -> None:
    base = walk(1)[0]
    expected = h0_persistence(base.float()).deaths.double().numpy()
    given: dict[str, Any] = {
        "parameter": torch.nn.Parameter(base.float()),
        "strided": torch.stack([base.float(), base.float()], -1)[..., 0],
        "array": base.float().numpy(),
        "reversed": base.flip(0).float().numpy()[::-1],
        "foreign": base.float().numpy().astype(">f4"),
        "bfloat16": base.bfloat16(),
    }
    for name, points in given.items():
        row = record_all(tmp_path / name, [points]).row(0)
        target = h0_persistence(base.bfloat16().float()).deaths.double().numpy()
        np.testing.assert_array_equal(row["deaths"], target if name == "bfloat16" else expected)
    assert given["parameter"].grad is None
    with torch.inference_mode():
        record_all(tmp_path / "inference", [base.clone()])


def test_points_that_change_in_place_are_compared_with_what_they_were(tmp_path: Path) -> None:
    points = walk(1)[0]
    with TopologyTracker(tmp_path) as tracker:
        tracker.record(0, points)
        points += 2.0
        tracker.record(1, points)
    assert read_record(tmp_path).row(1)["displacement_first"] == pytest.approx(2 * math.sqrt(5))


def test_a_cloud_whose_number_of_points_changes_has_no_displacement(tmp_path: Path) -> None:
    batch = torch.stack(walk(2))
    with TopologyTracker(tmp_path) as tracker:
        tracker.record(0, batch, [12, 4])
        tracker.record(1, batch + 1, [12, 5])
    rows = [read_record(tmp_path).row(1, cloud) for cloud in (0, 1)]
    assert rows[0]["displacement_previous"] == pytest.approx(math.sqrt(5))
    assert rows[1]["displacement_previous"] is None
    assert rows[1]["bottleneck_previous"] > 0


def test_points_that_all_coincide(tmp_path: Path) -> None:
    row = record_all(tmp_path, [torch.ones(7, 3)]).row(0)
    assert row["deaths"].tolist() == [0.0] * 6
    for name in ("persistent_entropy", "entropy_gap", "coefficient_of_variation", "redundancy"):
        assert row[name] == 0.0, name
    assert row["components"].tolist() == [1] * 33


points_strategy = st.integers(0, 6).flatmap(
    lambda n: st.integers(0, 3).flatmap(
        lambda d: st.lists(
            st.lists(
                st.sampled_from([0.0, 1.0, -1.0, 1e8, 1e8 + 1, 1e-8, 1e150]), min_size=d, max_size=d
            ),
            min_size=n,
            max_size=n,
        ).map(lambda rows: np.array(rows, dtype=np.float64).reshape(n, d))
    )
)


@settings(max_examples=60, deadline=None)
@given(before=points_strategy, after=points_strategy)
def test_ugly_clouds_are_recorded(
    tmp_path_factory: pytest.TempPathFactory, before: np.ndarray, after: np.ndarray
) -> None:
    folder = tmp_path_factory.mktemp("ugly")
    record = record_all(folder, [before, after], h1_every=1)
    for step, points in enumerate((before, after)):
        row = record.row(step)
        deaths = h0_persistence(points).deaths
        np.testing.assert_array_equal(row["deaths"], deaths)
        assert row["bars"] == max(len(points) - 1, 0)
        assert row["total_persistence"] == pytest.approx(deaths.sum())
        assert row["points"] is None or row["points"].shape == points.shape
        assert 0 <= row["entropy_gap"] <= math.log(max(row["bars"], 1)) + 1e-12
        assert len(record.diagrams(step)[0]) == len(points)
    moved = record.row(1)["displacement_previous"]
    assert (moved is None) == (before.shape != after.shape)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_points_that_are_not_finite_do_not_end_the_training(tmp_path: Path, value: float) -> None:
    clouds = torch.stack(walk(2))
    clouds[1, 3, 2] = value
    tracker = TopologyTracker(tmp_path, h1_every=1)
    tracker.record(0, torch.stack(walk(2)))
    with pytest.warns(UserWarning, match=r"not finite.* from step 1 on \(cloud 1 the first\)"):
        tracker.record(1, clouds)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # said once
        tracker.record(2, clouds)
    tracker.record(3, torch.stack(walk(2)), keep=True)
    tracker.close()
    record = read_record(tmp_path)
    bad, good = record.row(2, 1), record.row(2, 0)
    assert bad["deaths"] is None
    assert bad["edges"] is None
    for name in (*LOGGED, "bars", "components"):
        assert bad[name] is None or name == "displacement_previous", name
    assert len(good["deaths"]) == 11
    assert len(record.row(3, 1)["deaths"]) == 11
    assert record.steps(1, 1).tolist() == [0, 3]
    assert record.steps(0, 1).tolist() == [0, 1, 2, 3]
    with pytest.raises(ValueError, match="were not finite"):
        record.diagrams(2, 1)


def test_only_the_steps_asked_for_are_recorded(tmp_path: Path) -> None:
    cloud = walk(1)[0]
    with TopologyTracker(tmp_path, every=3, points_every=6, h1_every=None) as tracker:
        assert tracker.due(3)
        assert not tracker.due(4)
        logged = [tracker.record(step, cloud) for step in range(8)]
        assert tracker.record(8, cloud, keep=True) is not None
    record = read_record(tmp_path)
    assert record.steps().tolist() == [0, 3, 6, 8]
    assert [step for step, entry in enumerate(logged) if entry is not None] == [0, 3, 6]
    kept = [s for s in record.steps().tolist() if record.row(s)["points"] is not None]
    assert kept == [0, 6, 8]
    assert len(record.steps(0, 1)) == 0
    chosen = record_all(tmp_path / "chosen", [cloud] * 9, every=lambda step: step in (2, 7))
    assert chosen.steps().tolist() == [2, 7]


def test_what_is_returned_are_means_over_clouds_for_a_log(tmp_path: Path) -> None:
    batch = torch.stack(walk(2))
    with TopologyTracker(tmp_path) as tracker:
        first = tracker.record(0, batch)
        second = tracker.record(1, batch * 2)
    assert first is not None
    assert second is not None
    assert set(first) < set(second) == set(LOGGED)
    rows = [read_record(tmp_path).row(1, cloud) for cloud in (0, 1)]
    for name in LOGGED:
        assert second[name] == pytest.approx((rows[0][name] + rows[1][name]) / 2), name


def test_pandas_and_numpy_open_the_file(tmp_path: Path) -> None:
    pytest.importorskip("pandas")
    import pyarrow as pa

    clouds = walk(3)
    record = record_all(tmp_path, clouds, h1_every=None)
    frame = pa.ipc.open_stream(tmp_path / "topology.arrows").read_pandas()
    assert frame["step"].tolist() == [0, 1, 2]
    np.testing.assert_array_equal(
        np.stack(frame["deaths"]), [record.row(s)["deaths"] for s in range(3)]
    )
    means = record.series("mean_lifetime")
    np.testing.assert_array_equal(means, frame["mean_lifetime"].to_numpy())
    assert np.isnan(record.series("displacement_first")[0])


def resumable(kind: str) -> tuple[list[torch.Tensor], list[int] | None]:
    """Nine steps of three clouds, and their lengths."""
    clouds = list(torch.stack(walk(27)).reshape(3, 9, 12, 5).unbind(1))
    if kind == "not finite at first":
        clouds[0][1, 2, 3] = math.nan
    if kind == "not finite at last":
        clouds[5][1, 2, 3] = math.inf
    return clouds, {"ragged": [12, 3, 1], "short": [7, 7, 7]}.get(kind)


def rows_of(record: Any) -> list[dict[str, Any]]:
    table = record.table.drop_columns(["time"]).to_pylist()
    return sorted(table, key=lambda row: (row["dimension"], row["step"], row["cloud"]))


@pytest.mark.filterwarnings("ignore:.*not finite:UserWarning")
@pytest.mark.parametrize(
    "kind", ["whole", "ragged", "short", "not finite at first", "not finite at last"]
)
def test_a_resumed_record_is_the_one_that_was_never_stopped(tmp_path: Path, kind: str) -> None:
    clouds, lengths = resumable(kind)
    options: dict[str, Any] = {"h1_every": 2, "points_every": 4}
    for name, end in (("whole", 9), ("cut", 7)):
        with TopologyTracker(tmp_path / name, **options) as tracker:
            for step in range(end):
                tracker.record(step, clouds[step], lengths)
    again = TopologyTracker(tmp_path / "cut", resume=5, resume_points=clouds[5], **options)
    assert read_record(tmp_path / "cut").steps().tolist() == [0, 1, 2, 3, 4, 5]
    with again:
        for step in range(6, 9):
            again.record(step, clouds[step], lengths)
    whole, cut = (read_record(tmp_path / name) for name in ("whole", "cut"))
    # As text, in which NaN is equal to NaN.
    for ours, theirs in zip(rows_of(cut), rows_of(whole), strict=True):
        assert repr(ours) == repr(theirs)
    assert cut.metadata == whole.metadata
    assert whole.row(8)["displacement_previous"] > 0


def test_a_training_that_stops_early_keeps_its_last_points(tmp_path: Path) -> None:
    clouds = walk(4)
    with TopologyTracker(tmp_path) as tracker:
        tracker.keep_last()  # nothing to keep yet
        for step, points in enumerate(clouds):
            tracker.record(step, points)
        tracker.keep_last()
        tracker.keep_last()
    record = read_record(tmp_path)
    assert record.steps().tolist() == [0, 1, 2, 3]
    np.testing.assert_array_equal(record.row(3)["points"], clouds[3])
    assert record.row(3)["displacement_previous"] > 0
    assert record.steps(0, 1).tolist() == [0, 3]
    assert record.table.num_rows == 4 + 1 + 2


def test_a_record_is_neither_overwritten_nor_mixed_with_another(tmp_path: Path) -> None:
    record_all(tmp_path, walk(2))
    before = (tmp_path / "topology.arrows").read_bytes()
    with pytest.raises(FileExistsError, match="resume it from a step"):
        TopologyTracker(tmp_path)
    with pytest.raises(RecordError, match="recorded with metric = 'euclidean', not 'cosine'"):
        TopologyTracker(tmp_path, metric="cosine", resume=0)
    with pytest.raises(RecordError, match="clouds"):
        TopologyTracker(tmp_path, clouds=["a"], resume=0)
    assert (tmp_path / "topology.arrows").read_bytes() == before
    (tmp_path / "other.arrows").write_bytes(b"something else")
    with pytest.raises(RecordError, match="not a record of topology"):
        TopologyTracker(tmp_path / "other.arrows", resume=0)
    assert (tmp_path / "other.arrows").read_bytes() == b"something else"


def test_wrong_arguments_are_refused_before_a_file_is_made(tmp_path: Path) -> None:
    for options, message in (
        ({"metric": "hamming"}, "metric: expected one of"),
        ({"every": 0}, "every: expected an integer of at least 1 or a function, got 0"),
        ({"points_every": True}, "points_every: expected"),
        ({"h1_every": -1}, "h1_every: expected"),
        ({"h1": "dipha"}, "h1: expected auto, gudhi, ripser or None"),
        ({"rho": 0.0}, "rho: expected a number above 0"),
    ):
        with pytest.raises(ValueError, match=message):
            TopologyTracker(tmp_path / "x", **options)  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == []


def test_wrong_points_are_refused_and_nothing_is_written(tmp_path: Path) -> None:
    cloud = walk(1)[0]
    with TopologyTracker(tmp_path, clouds=["a"]) as tracker:
        tracker.record(1, cloud)
        for points, error, message in (
            ([[1.0]], TypeError, "expected a torch.Tensor or numpy.ndarray, got list"),
            (torch.ones(3, 2, dtype=torch.int64), TypeError, "got torch.int64"),
            (torch.ones(3), ValueError, r"expected shape \(N, D\)"),
            (torch.ones(2, 3, 2), ValueError, "2 clouds, but this record has 1"),
        ):
            with pytest.raises(error, match=message):
                tracker.record(2, points)  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="step 1 is not above the last recorded step 1"):
            tracker.record(1, cloud)
    assert read_record(tmp_path).steps().tolist() == [1]
    tracker.close()
    with pytest.raises(ValueError, match="is closed"):
        tracker.record(2, cloud)


def test_a_failure_of_h1_is_said_once_and_h0_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise MemoryError("no room")

    monkeypatch.setattr("tsloss_fast.analysis.tracker.h1_diagram", fail)
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

    monkeypatch.setattr("tsloss_fast.analysis.tracker.h1_diagram", fail)
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


def test_a_tracker_that_nobody_closes_leaves_no_open_file(tmp_path: Path) -> None:
    tracker = TopologyTracker(tmp_path)
    file = tracker._writer._file
    assert file is not None
    os.fstat(file)
    del tracker
    gc.collect()
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(file)


def test_the_default_device_is_not_asked(tmp_path: Path) -> None:
    clouds, lengths = walk(3), torch.tensor([12, 5])
    with torch.device("meta"), TopologyTracker(tmp_path) as tracker:
        for step, points in enumerate(clouds):
            tracker.record(step, points.expand(2, -1, -1), lengths)
    assert len(read_record(tmp_path).row(2, 1)["deaths"]) == 4


def test_training_does_not_wait_for_h1(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    release = threading.Event()

    def slow(points: np.ndarray, *_: Any, **__: Any) -> np.ndarray:
        assert release.wait(60)
        return np.empty((0, 2))

    monkeypatch.setattr("tsloss_fast.analysis.tracker.h1_diagram", slow)
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
