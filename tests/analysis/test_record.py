"""A record cut anywhere gives every whole batch before the cut, and says what is missing."""

from __future__ import annotations

import os
import warnings
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("pyarrow")

import pyarrow as pa

from tsloss_fast.analysis.record import RecordError
from tsloss_fast.analysis.record.reader import TopologyRecord, read_record
from tsloss_fast.analysis.record.schema import SCHEMA
from tsloss_fast.analysis.record.writer import RecordWriter


def row(step: int, n: int = 3) -> dict[str, object]:
    return {
        "step": step,
        "cloud": 0,
        "dimension": 0,
        "n_points": n,
        "n_features": 2,
        "births": np.zeros(n - 1),
        "deaths": np.arange(n - 1.0) + step,
        "edges": [[0, k + 1] for k in range(n - 1)],
        "bars": n - 1,
        "points": np.arange(2.0 * n),
    }


@pytest.fixture
def written(tmp_path: Path) -> tuple[Path, list[int]]:
    """A record of five steps, and the size of the file after each."""
    path = tmp_path / "topology.arrows"
    writer = RecordWriter(path, {"metric": "euclidean"})
    sizes = [path.stat().st_size]
    for step in range(5):
        writer.write([row(step)])
        sizes.append(path.stat().st_size)
    writer.close()
    return path, sizes


def steps_of(record: TopologyRecord) -> list[int]:
    return [int(step) for step in record.steps()]


def test_a_file_cut_at_any_byte_gives_what_was_whole(written: tuple[Path, list[int]]) -> None:
    path, sizes = written
    whole = path.read_bytes()
    assert sizes == sorted(set(sizes))
    assert len(whole) == sizes[-1]
    for cut in sorted({*range(sizes[0], len(whole), 31), *sizes, *(n - 1 for n in sizes[1:])}):
        path.write_bytes(whole[:cut])
        record = read_record(path)
        complete = sum(cut >= size for size in sizes[1:])
        assert steps_of(record) == list(range(complete)), cut
        # What follows the last whole batch is not silently forgotten.
        assert record.damaged_bytes == cut - sizes[complete], cut
        for step in range(complete):
            np.testing.assert_array_equal(record.row(step)["deaths"], [step, step + 1])
    for cut in range(0, sizes[0], 50):
        path.write_bytes(whole[:cut])
        with pytest.raises(RecordError, match="not a record of topology: no Arrow stream"):
            read_record(path)


def test_a_changed_byte_is_an_error_with_the_name_or_ends_the_record(
    written: tuple[Path, list[int]],
) -> None:
    path, sizes = written
    whole = path.read_bytes()
    refused = []
    for place in range(0, sizes[1], 11):
        data = bytearray(whole)
        data[place] ^= 1 << place % 8
        path.write_bytes(data)
        try:
            record = read_record(path)
        except RecordError as error:
            refused.append(str(error))
            continue
        # What is read can be used.
        for cloud in record.clouds:
            for step in record.steps(cloud):
                record.row(int(step), cloud)
                record.cloud_name(cloud)
    assert len(refused) > 50
    assert all(str(path) in message for message in refused)


@pytest.mark.parametrize(
    "changes",
    [
        {"step": None},
        {"cloud": None},
        {"cloud": -1},
        {"dimension": 2},
        {"births": np.zeros(7)},
        {"edges": [[0, 1]]},
        {"edges": [[0, 1], [0, 3]]},
        {"edges": [[0, 1], [-1, 2]]},
        {"n_points": 4},
        {"n_features": None},
    ],
)
def test_a_record_ends_before_a_row_whose_parts_do_not_go_together(
    tmp_path: Path, changes: dict[str, object]
) -> None:
    path = tmp_path / "topology.arrows"
    writer = RecordWriter(path, {})
    writer.write([row(0)])
    size = path.stat().st_size
    writer.write([row(1), row(2) | changes])
    writer.write([row(3)])
    writer.close()
    record = read_record(path)
    assert steps_of(record) == [0]
    left_out = path.stat().st_size - size
    assert record.damaged_bytes == left_out
    said = f"is damaged or cut off after step 0, and is read without its last {left_out} bytes"
    assert record.damage == said


@pytest.mark.parametrize(
    "changes",
    [
        {"edges": [[0, 1], None]},
        {"edges": [[0, 1], [None, 2]]},
        {"edges_added": [None]},
        {"edges_removed": [[0, 1], None]},
        {"components": [2, None]},
    ],
)
def test_a_record_ends_before_a_row_whose_lists_have_gaps(
    written: tuple[Path, list[int]], changes: dict[str, object]
) -> None:
    path, sizes = written
    batch = pa.RecordBatch.from_pylist([row(5) | changes], schema=SCHEMA)
    path.write_bytes(path.read_bytes() + batch.serialize().to_pybytes())
    record = read_record(path)
    assert steps_of(record) == [0, 1, 2, 3, 4]
    assert record.damaged_bytes == path.stat().st_size - sizes[-1]


@pytest.mark.parametrize("tail", [b"\0" * 4096, b"\xff" * 100, b"garbage" * 50])
def test_garbage_after_the_last_batch_is_left_out(
    written: tuple[Path, list[int]], tail: bytes
) -> None:
    path, _ = written
    path.write_bytes(path.read_bytes() + tail)
    record = read_record(path)
    assert steps_of(record) == [0, 1, 2, 3, 4]
    assert record.damaged_bytes > 0


def test_a_damaged_tail_is_dropped_when_the_record_goes_on(
    written: tuple[Path, list[int]],
) -> None:
    path, sizes = written
    path.write_bytes(path.read_bytes()[: sizes[4] + 40])
    with pytest.raises(FileExistsError, match="exists: resume it from a step"):
        RecordWriter(path, {})
    writer = RecordWriter(path, {"more": 1}, keep=2)
    assert steps_of(read_record(path)) == [0, 1, 2]
    writer.write([row(7)])
    writer.close()
    record = read_record(path)
    assert steps_of(record) == [0, 1, 2, 7]
    assert (record.damaged_bytes, record.damage) == (0, None)
    assert record.metadata == {"metric": "euclidean", "more": 1}
    # And it is an ordinary Arrow stream again.
    assert pa.ipc.open_stream(path).read_all().num_rows == 4


def test_a_half_batch_is_never_left_by_a_failing_write(
    written: tuple[Path, list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    path, _ = written
    before = path.read_bytes()
    writer = RecordWriter(path, {}, keep=10)
    pieces = os.write

    def in_pieces(file: int, data: bytes) -> int:
        return pieces(file, data[:1000])

    monkeypatch.setattr(os, "write", in_pieces)
    writer.write([row(9)])
    assert steps_of(read_record(path)) == [0, 1, 2, 3, 4, 9]

    calls = iter([500])

    def full(file: int, data: bytes) -> int:
        for size in calls:
            return pieces(file, data[:size])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(OSError, match="No space left"):
        writer.write([row(10)])
    monkeypatch.undo()
    # Space is there again: the next record follows the last whole one.
    writer.write([row(11)])
    writer.close()
    record = read_record(path)
    assert steps_of(record) == [0, 1, 2, 3, 4, 9, 11]
    assert record.damaged_bytes == 0
    assert len(before) < path.stat().st_size


def test_damage_within_a_record_is_put_aside_and_not_lost(
    written: tuple[Path, list[int]],
) -> None:
    path, sizes = written
    data = bytearray(path.read_bytes())
    data[sizes[2] + 4 : sizes[2] + 40] = b"\xff" * 36  # the row of step 2
    path.write_bytes(data)
    with pytest.warns(UserWarning, match=r"damaged after step 1, .* is now topology-001\.arrows"):
        writer = RecordWriter(path, {}, keep=4)
    writer.close()
    assert steps_of(read_record(path)) == [0, 1]
    assert path.with_name("topology-001.arrows").read_bytes() == data
    # Half a row after the step to go on from is what a kill leaves: nothing to put aside.
    path.write_bytes(path.read_bytes() + b"\xff" * 99)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        RecordWriter(path, {}, keep=1).close()
    assert len(list(path.parent.iterdir())) == 2


def test_an_interrupt_within_a_write_leaves_no_half_batch(
    written: tuple[Path, list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    path, _ = written
    writer = RecordWriter(path, {}, keep=4)
    pieces, calls = os.write, iter([100])

    def interrupted(file: int, data: bytes) -> int:
        for size in calls:
            return pieces(file, data[:size])
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "write", interrupted)
    with pytest.raises(KeyboardInterrupt):
        writer.write([row(5)])
    monkeypatch.undo()
    writer.write([row(6)])
    writer.close()
    assert steps_of(read_record(path)) == [0, 1, 2, 3, 4, 6]


def test_other_arrow_streams_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "topology.arrows"
    table = pa.table({"a": [1]})
    with pa.ipc.new_stream(str(path), table.schema) as stream:
        stream.write_table(table)
    with pytest.raises(RecordError, match="but not a record of topology: it has the columns a"):
        read_record(tmp_path)
    with pytest.raises(FileNotFoundError):
        read_record(tmp_path / "nowhere.arrows")
    with pytest.raises(RecordError):
        RecordWriter(path, {}, keep=0)
    assert pa.ipc.open_stream(path).read_all().equals(table)
    # The same columns from a program that does not say what they mean.
    path.write_bytes(SCHEMA.serialize())
    with pytest.raises(RecordError, match="not a record of topology"):
        read_record(path)
    path.write_bytes(SCHEMA.with_metadata({b"tsloss_fast": b"{half"}).serialize())
    with pytest.raises(RecordError, match="its metadata is not JSON"):
        read_record(path)
    path.write_bytes(SCHEMA.with_metadata({b"tsloss_fast": b'{"clouds": 3}'}).serialize())
    with pytest.raises(RecordError, match="clouds is 3"):
        read_record(path)
    index = SCHEMA.get_field_index("bars")
    for other in (
        SCHEMA.set(index, pa.field("bars", pa.string())),
        SCHEMA.append(pa.field("bars", pa.int32())),
    ):
        path.write_bytes(other.with_metadata({b"tsloss_fast": b"{}"}).serialize())
        with pytest.raises(RecordError, match="the type of its columns bars"):
            read_record(path)


def test_columns_and_rows_that_are_not_there_are_said(written: tuple[Path, list[int]]) -> None:
    record = read_record(written[0])
    with pytest.raises(KeyError, match="no row of step 9, cloud 0, dimension 1"):
        record.row(9, 0, 1)
    with pytest.raises(KeyError):
        record.series("nonsense")
    assert record.cloud_name(3) == "cloud 3"
    assert record.row(2)["points"].shape == (3, 2)
    assert set(record.row(2)) == set(SCHEMA.names)


def test_the_later_of_two_rows_of_a_step_counts(tmp_path: Path) -> None:
    writer = RecordWriter(tmp_path / "topology.arrows", {})
    writer.write([row(1)])
    writer.write([row(1) | {"bars": 77}])
    writer.close()
    assert read_record(tmp_path).series("bars").tolist() == [77.0]


def test_a_closed_writer_says_so(written: tuple[Path, list[int]]) -> None:
    writer = RecordWriter(written[0], {}, keep=4)
    writer.close()
    writer.close()
    with pytest.raises(ValueError, match="is closed"):
        writer.write([row(9)])


def test_a_record_that_an_earlier_version_wrote_is_read() -> None:
    record = read_record(Path(__file__).with_name("written_by_0_1_0.arrows"))
    assert record.metadata["model"] == "tiny"
    assert record.damaged_bytes == 0
    assert steps_of(record) == [0, 5, 10, 15]
    # The points (0, 0), (3, 4), (3, 5), (10, 0), scaled by 1 + step / 10.
    for step in (0, 5, 10, 15):
        died = record.row(step)["deaths"]
        np.testing.assert_allclose(died, (1 + step / 10) * np.array([1, 5, 65**0.5]), rtol=1e-15)
    assert record.row(10)["points"].tolist() == [[0, 0], [6, 8], [6, 10], [20, 0]]
    assert record.steps(dimension=1).tolist() == [0, 10]
    # Half the longest bar, which is nearer to the diagonal than to the bar that it grew from.
    assert record.series("bottleneck_first")[-1] == pytest.approx(2.5 * 65**0.5 / 2)
