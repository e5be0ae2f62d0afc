"""When a tracker records, and the file it writes: read by others, resumed, never mixed or lost."""

from __future__ import annotations

import gc
import math
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("pyarrow")
pytest.importorskip("gudhi")
pytest.importorskip("sklearn")

from walks import record_all, walk

from tsloss_fast.analysis import TopologyTracker, read_record
from tsloss_fast.analysis.record import RecordError
from tsloss_fast.analysis.record.measures import LOGGED


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
        ({"rho": 0.0}, "rho: got 0.0, expected a finite number above 0"),
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
