"""What a tracker records is what the definitions say, whatever the clouds look like."""

from __future__ import annotations

import math
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
from walks import record_all, walk

from tsloss_fast import H0Persistence, TSLoss, h0_persistence
from tsloss_fast.analysis import TopologyTracker, read_record
from tsloss_fast.analysis.record.measures import LOGGED


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


@pytest.mark.parametrize(
    ("shape", "lengths"), [((12, 5), None), ((2, 3, 12, 5), None), ((3, 12, 5), [12, 4, 1])]
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_barcode_that_is_given_is_recorded_and_not_computed_again(
    tmp_path: Path,
    barcodes: list[None],
    shape: tuple[int, ...],
    lengths: list[int] | None,
    dtype: torch.dtype,
) -> None:
    clouds = [points.to(dtype) for points in walk(4, shape)]
    results: dict[bool, list[Any]] = {True: [], False: []}
    for known in results:
        with TopologyTracker(tmp_path / str(known), h1_every=None, points_every=2) as tracker:
            for step, points in enumerate(clouds):
                # The deaths have a gradient, as those of a loss have.
                h0 = h0_persistence(points.clone().requires_grad_(), lengths=lengths)
                before = len(barcodes)
                logged = tracker.record(step, points, lengths, h0=h0 if known else None)
                assert len(barcodes) == before + (not known)
                results[known].append(logged)
                # The caller's tensors may be used again.
                h0.deaths.detach().fill_(7.0)
                h0.edges.fill_(0)
    assert results[True] == results[False]
    tables = [read_record(tmp_path / str(known)).table.drop(["time"]) for known in results]
    assert tables[0].equals(tables[1])


def test_a_barcode_in_numpy_arrays_goes_with_an_array(tmp_path: Path) -> None:
    points = walk(1)[0].numpy()
    with TopologyTracker(tmp_path, h1_every=None) as tracker:
        tracker.record(0, points, h0=h0_persistence(points))
    found = read_record(tmp_path).row(0)["deaths"]
    np.testing.assert_array_equal(found, h0_persistence(points).deaths)


def test_a_given_barcode_that_is_not_finite_is_recorded_without_bars(tmp_path: Path) -> None:
    points = torch.stack(walk(2))
    points[1, 3, 2] = math.nan
    with (
        TopologyTracker(tmp_path, h1_every=None) as tracker,
        pytest.warns(UserWarning, match="not finite.*cloud 1 the first"),
    ):
        tracker.record(0, points, h0=h0_persistence(points, check_finite=False))
    record = read_record(tmp_path)
    assert len(record.row(0, 0)["deaths"]) == 11
    assert record.row(0, 1)["deaths"] is None


@pytest.mark.parametrize(
    ("deaths", "edges", "message"),
    [
        (
            (5,),
            (11, 2),
            r"h0.deaths: got shape \(5,\), expected \(11,\) for points of shape \(12, 5",
        ),
        ((1, 11), (1, 11, 2), r"h0.deaths: got shape \(1, 11\), expected \(11,\)"),
        ((11,), (11, 3), r"h0.edges: got shape \(11, 3\), expected \(11, 2\).*or leave h0 out"),
        ((11,), (10, 2), r"h0.edges: got shape \(10, 2\), expected \(11, 2\)"),
    ],
)
def test_a_barcode_of_other_points_is_refused_by_its_shape(
    tmp_path: Path, deaths: tuple[int, ...], edges: tuple[int, ...], message: str
) -> None:
    h0 = H0Persistence(torch.zeros(deaths), torch.zeros(edges, dtype=torch.int64))
    with TopologyTracker(tmp_path, h1_every=None) as tracker:
        with pytest.raises(ValueError, match=message):
            tracker.record(0, walk(1)[0], h0=h0)
        with pytest.raises(TypeError, match="h0: got Tensor, expected what h0_persistence returns"):
            tracker.record(0, walk(1)[0], h0=h0.deaths)  # type: ignore[arg-type]
        tracker.record(0, walk(1)[0])
    assert read_record(tmp_path).steps().tolist() == [0]


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
