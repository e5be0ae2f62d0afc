"""`tsloss barcode` goes on where it was stopped, by Ctrl-C or a kill at any moment."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from clouds import gaussian
from saved_tables import ROWS, assert_barcode_of, left_behind, save, table

from tsloss_fast import h0_persistence
from tsloss_fast.analysis.table import table as searched
from tsloss_fast.cli import main
from tsloss_fast.distributed.cloud import Edges
from tsloss_fast.distributed.watch import Begun


def run_until(
    monkeypatch: pytest.MonkeyPatch, file: Path, out: Path, stop: int
) -> tuple[int, list[str]]:
    """Stops after so many units of work, as Ctrl-C does; the exit code and the stages begun."""
    done, begun = [0], []
    real_done, real_begin = searched.Work.done, searched.Work.begin

    def counted(self: Any, state: Any, forest: Any) -> None:
        real_done(self, state, forest)
        done[0] += 1
        if done[0] == stop:
            raise KeyboardInterrupt

    def seen(self: Any, stage: str, units: int) -> Any:
        result = real_begin(self, stage, units)
        begun.append(f"{stage} {result.units}/{units}")
        return result

    with monkeypatch.context() as patch:
        patch.setattr(searched, "KEEP_SECONDS", 0.0)
        patch.setattr(searched.Work, "done", counted)
        patch.setattr(searched.Work, "begin", seen)
        patch.setattr(searched, "rows_of_block", lambda *args: 96)
        code = main(["barcode", str(file), "--out", str(out)])
    return code, begun


def test_it_goes_on_wherever_it_was_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    points = table()
    file = save(tmp_path / "model.safetensors", embedding=points)
    out = tmp_path / "o.npz"
    blocks = -(-ROWS // 96)
    units = blocks + blocks * (blocks + 1) // 2
    for stop in range(1, units + 1):
        code, _ = run_until(monkeypatch, file, out, stop)
        assert code == 130
        assert not out.exists()
        code, begun = run_until(monkeypatch, file, out, -1)
        assert code == 0
        assert_barcode_of(points, out)
        pairs = units - blocks
        at = [f"sample {min(stop, blocks)}/{blocks}", f"own pairs {max(stop - blocks, 0)}/{pairs}"]
        assert begun == at
        assert left_behind(out) == []
        out.unlink()


@pytest.mark.parametrize("changed", ["the table", "the index"])
def test_a_change_of_the_table_or_the_index_begins_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changed: str
) -> None:
    weights = save(tmp_path / "weights.safetensors", embedding=table())
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"embedding": weights.name}}))
    out, points = tmp_path / "o.npz", table()
    assert run_until(monkeypatch, index, out, 12)[0] == 130
    if changed == "the table":
        points = points.flip(0)
        save(weights, embedding=points)
    else:
        index.write_text(json.dumps({"weight_map": {"embedding": weights.name}}, indent=1))
    code, begun = run_until(monkeypatch, index, out, -1)
    assert code == 0
    assert begun[0].startswith("sample 0/")
    assert_barcode_of(points, out)


def test_squares_lost_before_the_stop_are_not_forgotten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two points so near each other that the search has to be done again, with lengths."""
    points = torch.from_numpy(gaussian(400, 4, dtype=np.float64))
    points[:2, 0] = 0
    points[1] = points[0]
    points[1, 0] = 1e-200
    np.save(tmp_path / "p.npy", points.numpy())
    expected = h0_persistence(points).deaths
    assert expected[0] == 1e-200
    out = tmp_path / "o.npz"
    units = 2 * (5 + 15)
    for stop in range(1, units + 1, 3):
        assert run_until(monkeypatch, tmp_path / "p.npy", out, stop)[0] == 130
        assert run_until(monkeypatch, tmp_path / "p.npy", out, -1)[0] == 0
        with np.load(out) as found:
            np.testing.assert_array_equal(found["deaths"], expected)
        out.unlink()


def flipped(kept: bytes) -> bytes:
    """Return the bytes with a bit of an array's numbers changed."""
    at = kept.index(b"stage-0-keys.npy") + 400
    return kept[:at] + bytes([kept[at] ^ 1]) + kept[at + 1 :]


@pytest.mark.parametrize(
    "damage", [lambda _: b"", lambda _: b"junk", lambda kept: kept[:-200], flipped]
)
def test_a_damaged_state_is_as_good_as_none(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    damage: Callable[[bytes], bytes],
) -> None:
    file = save(tmp_path / "model.safetensors", embedding=table())
    out, state = tmp_path / "o.npz", tmp_path / ".o.npz.partial" / "process-0.npz"
    assert run_until(monkeypatch, file, out, 12)[0] == 130
    state.write_bytes(damage(state.read_bytes()))
    code, begun = run_until(monkeypatch, file, out, -1)
    assert code == 0
    assert begun[0].startswith("sample 0/")
    assert_barcode_of(table(), out)
    assert left_behind(out) == []
    assert capsys.readouterr().err.count("the search begins anew") == 1


def first(value: float) -> Callable[[np.ndarray], np.ndarray]:
    """An array with another first entry."""
    return lambda array: np.where(np.arange(array.size).reshape(array.shape) == 0, value, array)


# What is changed in a state, and how.
CHANGES: list[tuple[str, Callable[[np.ndarray], Any]]] = [
    *(("ends", first(n)) for n in (10**12, -(10**9), 100, -1)),
    ("ends", lambda ends: ends.astype(np.int32)),
    ("ends", lambda ends: ends.astype(float)),
    ("ends", lambda ends: ends[:, :1].copy()),
    ("ends", lambda ends: ends[:2].copy()),
    ("ends", lambda ends: ends[:, ::-1].copy()),
    ("keys", lambda keys: keys[:, None]),
    ("keys", first(-1.0)),
    ("keys", first(np.nan)),
    ("units", lambda units: np.array(-5)),
    ("units", lambda units: np.array([3, 4])),
    ("lost", lambda lost: np.array(0.5)),
]


def stopped_work(folder: Path) -> Callable[[], searched.Work]:
    """A search through 100 rows that was stopped in its second stage, to be opened again."""
    ends = torch.tensor([[0, 1], [1, 2], [0, 99]])

    def opened() -> searched.Work:
        return searched.Work(folder / "process-0.npz", "a search", 100)

    search = opened()
    for stage, done in (("sample", 4), ("own pairs", 6)):
        begun = search.begin(stage, done)
        begun.units = done
        begun.found.append(Edges(torch.tensor([0.0, 2.0, np.inf], dtype=torch.float64), ends))
        search.done(begun, Edges.none())
    return opened


def begun_of(search: searched.Work) -> list[Begun]:
    return [search.begin("sample", 4), search.begin("own pairs", 10)]


def test_a_state_is_gone_on_with_as_it_was_kept(tmp_path: Path) -> None:
    search = stopped_work(tmp_path)()
    assert search.goes_on
    for begun, units in zip(begun_of(search), (4, 6), strict=True):
        assert begun.units == units
        assert begun.found[0].ends.tolist() == [[0, 1], [1, 2], [0, 99]]
        assert begun.found[0].keys.tolist() == [0.0, 2.0, np.inf]
    assert search.begin("ring", 5).units == 0


def kept_state(path: Path) -> dict[str, np.ndarray]:
    with np.load(path) as kept:
        return dict(kept)


@pytest.mark.parametrize("stage", [0, 1])
def test_a_state_that_cannot_be_one_of_this_table_is_discarded(tmp_path: Path, stage: int) -> None:
    opened = stopped_work(tmp_path)
    path = tmp_path / "process-0.npz"
    state = kept_state(path)
    for field, change in CHANGES:
        name = f"stage-{stage}-{field}"
        np.savez(path, **{**state, name: change(state[name])})
        with pytest.warns(UserWarning, match=r"process-0.npz cannot be used .* begins anew"):
            search = opened()
        assert not search.goes_on
        begun = begun_of(search)[stage]
        assert (begun.units, begun.found, begun.lost) == (0, [], False)


@pytest.mark.parametrize("lost", ["stage-0", "stage-1"])
def test_a_forged_state_without_edges_gives_no_more_than_a_wrong_result(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lost: str
) -> None:
    file = save(tmp_path / "model.safetensors", embedding=table())
    out, path = tmp_path / "o.npz", tmp_path / ".o.npz.partial" / "process-0.npz"
    assert run_until(monkeypatch, file, out, 12)[0] == 130
    state = kept_state(path)
    state |= {f"{lost}-keys": np.empty(0), f"{lost}-ends": np.empty((0, 2), np.int64)}
    np.savez(path, **state)
    code, _ = run_until(monkeypatch, file, out, -1)
    assert code == 1 or len(np.load(out)["deaths"]) == ROWS - 1


# The command, but for how often its state is kept.
OFTEN = """
import sys
from tsloss_fast.analysis.table import table as searched
from tsloss_fast.cli import main

searched.KEEP_SECONDS = 0.1
sys.exit(main(["barcode", *sys.argv[1:]]))
"""


def kill_all(script: Path) -> None:
    """Every process that runs the script: those of torchrun are in sessions of their own."""
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if str(script).encode() in (folder / "cmdline").read_bytes():
                os.kill(int(folder.name), signal.SIGKILL)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")
@pytest.mark.parametrize("processes", [1, 2])
def test_killed_at_any_moment(tmp_path: Path, processes: int) -> None:
    points = torch.from_numpy(gaussian(20000, 256))
    file = save(tmp_path / "model.safetensors", embedding=points)
    out = tmp_path / "o.npz"
    script = tmp_path / "often.py"
    script.write_text(OFTEN, encoding="utf-8")
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    command = [sys.executable, *(launch if processes == 2 else []), str(script)]
    command += [str(file), "--out", str(out), "--block-mb", "1"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    state = tmp_path / ".o.npz.partial" / "process-0.npz"
    for pause in (0.0, 0.3):
        before = state.stat().st_mtime_ns if state.exists() else 0
        process = subprocess.Popen(
            command,
            env=environment,
            stderr=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
        )
        end = time.monotonic() + 120
        while not state.exists() or state.stat().st_mtime_ns == before:
            assert process.poll() is None, "it ended before a state was kept"
            assert time.monotonic() < end
            time.sleep(0.01)
        time.sleep(pause)
        kill_all(script)
        process.wait()
        assert not out.exists()
    last = subprocess.run(
        command, env=environment, check=True, timeout=300, capture_output=True, text=True
    )
    assert "goes on where it was stopped" in last.stderr
    assert_barcode_of(points, out)
    assert left_behind(out) == []
