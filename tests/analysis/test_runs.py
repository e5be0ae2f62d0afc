"""Which log a record is set beside, and that files of other programs are told from ours."""

from __future__ import annotations

import json
import os
import re
import sys
import time
from pathlib import Path

import pytest
import torch

pytest.importorskip("pyarrow", reason='pip install "tsloss-fast[analysis]"')

from tsloss_fast.analysis.record import RECORD
from tsloss_fast.analysis.record.tracker import TopologyTracker
from tsloss_fast.analysis.runs import (
    OF_THE_LOSS,
    control_of,
    group_runs,
    load_run,
    load_runs,
    settings_that_vary,
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    generator = torch.Generator().manual_seed(0)
    with TopologyTracker(tmp_path) as tracker:
        for step in range(3):
            tracker.record(step, torch.randn(5, 3, generator=generator))
    return tmp_path


def state(path: Path, steps: int, loss: float, age: float) -> None:
    """A state of the Trainer, written `age` seconds after the record began (before: negative)."""
    path.parent.mkdir(exist_ok=True)
    log = [{"step": step, "loss": loss, "epoch": 1.0} for step in range(1, steps + 1)]
    path.write_text(json.dumps({"global_step": steps, "log_history": log}))
    began = load_run(path.parents[path.parent.name.startswith("checkpoint")]).record
    at = min(began.table.column("time").to_pylist()) + age
    os.utime(path, (at, at))


def test_the_state_that_was_written_last_is_the_log_and_not_the_one_of_most_steps(
    folder: Path,
) -> None:
    state(folder / "checkpoint-1000" / "trainer_state.json", 1000, 7.0, 10)
    state(folder / "checkpoint-4" / "trainer_state.json", 4, 2.0, 20)
    series = load_run(folder).measured["train_ce"]
    assert series.steps.tolist() == [1, 2, 3, 4]
    assert series.values.tolist() == [2.0] * 4
    state(folder / "trainer_state.json", 6, 1.0, 30)
    assert load_run(folder).measured["train_ce"].values.tolist() == [1.0] * 6


@pytest.mark.skipif(sys.platform == "darwin", reason="names of files are UTF-8 there")
@pytest.mark.parametrize(("name", "shown"), [(b"caf\xe9", "caf\\udce9"), (b"\x1b[2J", "\\x1b[2J")])
def test_the_name_of_a_run_can_be_shown(folder: Path, name: bytes, shown: str) -> None:
    runs = [folder / part / os.fsdecode(name) for part in ("a", "b")]
    for run in runs:
        run.mkdir(parents=True)
        (run / RECORD).write_bytes((folder / RECORD).read_bytes())
    assert [run.name for run in load_runs(runs)] == [f"{part}/{shown}: {shown}" for part in "ab"]


def test_the_tasks_own_loss_is_shown_where_the_trainer_logs_it(folder: Path) -> None:
    path = folder / "trainer_state.json"
    state(path, 2, 9.0, 10)
    written = json.loads(path.read_text())
    for entry, own in zip(written["log_history"], (0.5, 0.25), strict=True):
        entry["tsloss/task_loss"] = own
    path.write_text(json.dumps(written))
    later = time.time() + 10
    os.utime(path, (later, later))
    assert load_run(folder).measured["train_ce"].values.tolist() == [0.5, 0.25]


def test_a_state_from_before_the_record_is_of_another_training(folder: Path) -> None:
    state(folder / "checkpoint-1000" / "trainer_state.json", 1000, 7.0, -5)
    assert load_run(folder).measured == {}
    (folder / "checkpoint-1000" / "trainer_state.json").write_text("damaged")
    os.utime(folder / "checkpoint-1000" / "trainer_state.json", (1, 1))
    assert load_run(folder).measured == {}


@pytest.mark.parametrize(
    "content",
    [
        [],
        {"config": []},
        {"config": {"loss": "mse"}},
        {"config": {"loss": ["mse"], "weight": 1.0}},
        {"config": {"loss": "mse", "weight": "large"}},
        {"config": {"seed": [1, 2]}},
        {"model_type": "llama"},
        None,
    ],
)
def test_a_config_of_another_program_is_left_alone(folder: Path, content: object) -> None:
    (folder / "config.json").write_text(json.dumps(content))
    run = load_run(folder)
    assert (run.config, run.name) == ({}, folder.name)


@pytest.mark.parametrize("content", [b"", b'{"config": {"lo', b"\xff\x00", b"[" * 100_000], ids=len)
def test_a_config_that_is_no_json_is_named(folder: Path, content: bytes) -> None:
    (folder / "config.json").write_bytes(content)
    with pytest.raises(ValueError, match=r"config\.json is damaged \(.*delete it to go on without"):
        load_run(folder)


def test_a_seed_that_is_no_integer_is_left_out_alone_and_digests_are_settings(folder: Path) -> None:
    configured(folder, folder / "run", seed="first", task="boolean")
    path = folder / "run" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"digests": {"model": "abc"}}))
    expected = {"loss": "tsloss", "weight": 10.0, "task": "boolean", "model_digest": "abc"}
    run = load_run(folder / "run")
    assert (run.config, run.seed) == (expected, None)


@pytest.mark.parametrize("name", [RECORD, "metrics.jsonl", "config.json", "trainer_state.json"])
def test_a_folder_in_the_place_of_a_file_is_named(folder: Path, name: str) -> None:
    (folder / name).unlink(missing_ok=True)
    (folder / name).mkdir()
    for load in (load_run, lambda path: load_runs([path])):
        with pytest.raises(ValueError, match=rf"{re.escape(name)} is a folder: expected a file"):
            load(folder)


def test_a_run_is_given_by_its_folder_or_its_record(folder: Path) -> None:
    assert load_run(folder / RECORD).folder == folder
    (run,) = load_runs([folder / RECORD, folder])
    assert run.folder == folder.resolve()
    (folder / "notes.txt").touch()
    for wrong, words in ((folder / "notes.txt", r"notes\.txt is a file"), ("", "is empty")):
        with pytest.raises((FileNotFoundError, ValueError), match=words):
            load_runs([wrong])


@pytest.mark.parametrize("line", [{"step": 3, "loss": 0.5}, {"kind": "train", "value": []}])
def test_metrics_of_another_program_give_way_to_the_state_of_the_trainer(
    folder: Path, line: object
) -> None:
    (folder / "metrics.jsonl").write_text(json.dumps(line) + "\n")
    assert load_run(folder).measured == {}
    state(folder / "trainer_state.json", 2, 1.0, 10)
    assert load_run(folder).measured["train_ce"].values.tolist() == [1.0, 1.0]


@pytest.mark.parametrize(
    "line",
    [
        {"kind": "step", "loss": 0.5},
        {"kind": "step", "step": 1, "ce": {"mean": 1}, "tsloss": 0.0},
        {"kind": "step", "step": [1], "ce": 1.0, "tsloss": 0.0},
        {"kind": "eval", "accuracy": 0.5},
        {"kind": "eval", "step": 1, "accuracy": "high"},
        [1],
    ],
)
def test_metrics_of_our_kind_but_another_shape_are_named(folder: Path, line: object) -> None:
    (folder / "metrics.jsonl").write_text(json.dumps(line) + "\n")
    with pytest.raises(ValueError, match=r"metrics\.jsonl"):
        load_run(folder)


@pytest.mark.parametrize(
    "content",
    [
        [],
        {"step": 3},
        {"global_step": 3, "log_history": [3]},
        {"global_step": 3, "log_history": None},
        {"global_step": 3, "log_history": [{"loss": 1.0}]},
        {"global_step": 3, "log_history": [{"loss": 1.0, "step": "three"}]},
    ],
)
def test_a_state_of_another_shape_is_named(folder: Path, content: object) -> None:
    (folder / "trainer_state.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"trainer_state\.json is damaged, or no state"):
        load_run(folder)


def configured(record: Path, folder: Path, **config: object) -> None:
    folder.mkdir(parents=True)
    (folder / RECORD).write_bytes((record / RECORD).read_bytes())
    whole = {"config": {"loss": "tsloss", "weight": 10.0, **config}, "command": "tsloss tune --x"}
    (folder / "config.json").write_text(json.dumps(whole))


def test_a_folder_of_seeds_stands_for_its_seeds_and_their_controls(folder: Path) -> None:
    for seed in (0, 1):
        configured(folder, folder / f"out/seed-{seed:03d}", seed=seed)
        configured(folder, folder / f"out/seed-{seed:03d}/control", seed=seed, loss="ce")
    (folder / "out" / "seed-002").mkdir()  # begun, without a record yet
    runs = load_runs([folder / "out"])
    ours, control = "cross-entropy + 10 × TSLoss", "control: cross-entropy alone"
    assert [run.name for run in runs] == [
        f"{name}, seed {seed}" for seed in (0, 1) for name in (ours, control)
    ]
    assert group_runs(runs) == [[0, 2], [1, 3]]
    assert [control_of(run, runs) for run in runs] == [runs[1], None, runs[3], None]
    assert runs[0].command == "tsloss tune --x"
    with pytest.raises(FileNotFoundError, match=r"there is no folder .*nowhere"):
        load_runs([folder / "out", folder / "nowhere"])
    with pytest.raises(FileNotFoundError, match="has no topology"):
        load_runs([folder / "out" / "seed-002"])


def test_a_method_is_the_settings_but_for_the_seed_and_a_control_has_another_loss(
    folder: Path,
) -> None:
    settings: dict[str, dict[str, object]] = {
        "a": {"seed": 1, "lr": 0.1},
        "b": {"seed": 2, "lr": 0.1, "task_digest": "of seed 2"},
        "c": {"seed": 1, "lr": 0.1},  # the seed of a: one observation
        "d": {"seed": 1, "lr": 0.2},
        "e": {"lr": 0.1},
        "f": {"seed": 1, "lr": 0.1, "loss": "ce", "weight": 0.0},
        "g": {"seed": 3, "lr": 0.1, "loss": "ce", "weight": 0.0},
    }
    for name, config in settings.items():
        configured(folder, folder / name, **config)
    runs = load_runs([folder / name for name in settings])
    assert group_runs(runs) == [[0, 1], [2], [3], [4], [5, 6]]
    found = [control_of(run, runs) for run in runs]
    assert found == [runs[5], None, runs[5], None, None, None, None]
    # A control with the same settings goes before one with others in the run's own folder.
    configured(folder, folder / "a" / "control", seed=1, lr=5.0, loss="ce", weight=0.0)
    run, own, other = load_runs([folder / "a", folder / "f"])
    assert control_of(run, [run, own, other]) == other
    assert control_of(run, [run, own]) == own
    assert settings_that_vary([run, own], OF_THE_LOSS) == ["lr"]


def test_a_value_that_was_not_finite_is_nan(folder: Path) -> None:
    line = {"kind": "step", "step": 1, "ce": None, "tsloss": 0.5}
    (folder / "metrics.jsonl").write_text(json.dumps(line) + "\n")
    measured = load_run(folder).measured
    assert [str(measured[name].values.tolist()) for name in ("train_ce", "tsloss")] == [
        "[nan]",
        "[0.5]",
    ]
