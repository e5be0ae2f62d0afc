"""`tsloss barcode` goes on where it was stopped, by Ctrl-C or a kill at any moment."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from clouds import gaussian
from saved_tables import ROWS, assert_barcode_of, left_behind, save, table

from tsloss_fast import h0_persistence
from tsloss_fast.analysis.table import command, work
from tsloss_fast.cli import main


def run_until(
    monkeypatch: pytest.MonkeyPatch, file: Path, out: Path, stop: int
) -> tuple[int, list[str]]:
    """Stops after so many units of work, as Ctrl-C does; the exit code and the stages begun."""
    done, begun = [0], []
    real_done, real_begin = work.Work.done, work.Work.begin

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
        patch.setattr(work, "KEEP_SECONDS", 0.0)
        patch.setattr(work.Work, "done", counted)
        patch.setattr(work.Work, "begin", seen)
        patch.setattr(command, "rows_of_block", lambda *args: 96)
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


def test_another_file_begins_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = save(tmp_path / "model.safetensors", embedding=table())
    out = tmp_path / "o.npz"
    assert run_until(monkeypatch, file, out, 12)[0] == 130
    points = table() + 1
    save(file, embedding=points)
    code, begun = run_until(monkeypatch, file, out, -1)
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


@pytest.mark.parametrize("damage", [b"", b"junk", None])
def test_a_damaged_state_is_as_good_as_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: bytes | None
) -> None:
    file = save(tmp_path / "model.safetensors", embedding=table())
    out = tmp_path / "o.npz"
    assert run_until(monkeypatch, file, out, 12)[0] == 130
    (state,) = tmp_path.glob(".o.npz.partial/process-0.npz")
    state.write_bytes(state.read_bytes()[:-200] if damage is None else damage)
    code, begun = run_until(monkeypatch, file, out, -1)
    assert code == 0
    assert begun[0].startswith("sample 0/")
    assert_barcode_of(table(), out)
    assert left_behind(out) == []


# The command, but for how often its state is kept.
OFTEN = """
import sys
from tsloss_fast.analysis.table import work
from tsloss_fast.cli import main

work.KEEP_SECONDS = 0.1
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
