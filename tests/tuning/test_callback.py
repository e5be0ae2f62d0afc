"""The Trainer's prompt is recorded at every step, through checkpoints and processes."""

from __future__ import annotations

import ast
import copy
import json
import pickle
import shutil
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_llama import NEEDS, make_tiny_model

pytest.importorskip("transformers", reason=NEEDS)
pytest.importorskip("peft", reason=NEEDS)
pytest.importorskip("pyarrow", reason=NEEDS)

from peft import PrefixTuningConfig, get_peft_model
from peft_models import dropout_encoder
from transformers import Trainer, TrainerCallback, TrainingArguments

from tsloss_fast import h0_persistence
from tsloss_fast.analysis import load_run, read_record
from tsloss_fast.analysis.record.measures import LOGGED
from tsloss_fast.tuning import (
    PromptTopologyCallback,
    TSLossTrainer,
    add_soft_prompt,
    cloud_names,
    hidden_states,
    prompt_clouds,
)

STEPS = 6


def arguments(folder: Path, **changes: Any) -> TrainingArguments:
    options: dict[str, Any] = {
        "max_steps": STEPS,
        "per_device_train_batch_size": 2,
        "learning_rate": 0.1,
        "logging_steps": 2,
        "report_to": "none",
        "save_strategy": "no",
        "use_cpu": True,
        "disable_tqdm": True,
        "seed": 0,
    }
    return TrainingArguments(str(folder), **(options | changes))


def data() -> list[dict[str, list[int]]]:
    generator = torch.Generator().manual_seed(0)
    rows = torch.randint(4, 100, (16, 6), generator=generator).tolist()
    return [{"input_ids": row, "labels": row} for row in rows]


def prompted(seed: int = 0) -> Any:
    generator = torch.Generator().manual_seed(seed)
    return add_soft_prompt(make_tiny_model(), torch.randn(7, 32, generator=generator))


def trainer(folder: Path, model: Any = None, kind: Any = Trainer, **changes: Any) -> Any:
    return kind(
        model=prompted() if model is None else model,
        args=arguments(folder, **changes),
        train_dataset=data(),
    )


def test_every_step_is_recorded_from_the_first_prompt_to_the_last(tmp_path: Path) -> None:
    made = trainer(tmp_path)
    start = prompt_clouds(made.model)[0].detach().clone()
    callback = PromptTopologyCallback(h1_every=3)
    made.add_callback(callback)
    made.train()
    record = read_record(tmp_path)
    assert record.steps().tolist() == list(range(STEPS + 1))
    assert record.steps(0, 1).tolist() == [0, 3, 6]
    first, last = record.row(0), record.row(STEPS)
    torch.testing.assert_close(torch.from_numpy(first["points"]).float(), start, rtol=0, atol=0)
    end = prompt_clouds(made.model)[0].detach()
    torch.testing.assert_close(torch.from_numpy(last["points"]).float(), end, rtol=0, atol=0)
    deaths = h0_persistence(end).deaths.double()
    assert torch.equal(torch.from_numpy(last["deaths"]), deaths)
    assert last["displacement_first"] == pytest.approx(float((end - start).norm(dim=1).mean()))
    assert record.metadata["clouds"] == ["prompt"]
    assert callback.tracker is not None


def test_the_training_is_not_changed_by_being_watched(tmp_path: Path) -> None:
    prompts = []
    for watched in (True, False):
        made = trainer(tmp_path / str(watched))
        if watched:
            made.add_callback(PromptTopologyCallback())
        made.train()
        prompts.append(prompt_clouds(made.model).detach())
    assert torch.equal(*prompts)


@pytest.mark.parametrize("kind", [Trainer, TSLossTrainer])
def test_the_values_reach_the_history_and_every_reporter(
    tmp_path: Path, kind: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("tensorboard", reason="needs the extra test")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*topology")
        made = kind(
            model=prompted(),
            args=arguments(tmp_path, report_to="tensorboard"),
            train_dataset=data(),
            callbacks=[PromptTopologyCallback(log="all")],
        )
        made.train()
    record = read_record(tmp_path)
    history = [entry for entry in made.state.log_history if "loss" in entry]
    assert [entry["step"] for entry in history] == [2, 4, 6]
    (events,) = tmp_path.rglob("events.out.tfevents*")
    shown = EventAccumulator(str(events.parent))
    shown.Reload()
    printed = [ast.literal_eval(line) for line in capsys.readouterr().out.splitlines()]
    for name in ("coefficient_of_variation", "mean_lifetime", "displacement_first"):
        expected = [record.row(step)[name] for step in (2, 4, 6)]
        assert [entry[f"topology/{name}"] for entry in history] == pytest.approx(expected)
        scalars = shown.Scalars(f"train/topology/{name}")
        assert [scalar.step for scalar in scalars] == [2, 4, 6]
        assert [scalar.value for scalar in scalars] == pytest.approx(expected, rel=1e-6)
        # The Trainer's printer, which shows numbers as texts of a few digits.
        assert sum(f"topology/{name}" in line for line in printed) == 3


class Calls(TrainerCallback):
    """Keeps its name in a list that all of them share, with each call."""

    def __init__(self, name: str, calls: list[str]) -> None:
        self.name, self.calls = name, calls

    def on_train_begin(self, *args: Any, **kwargs: Any) -> None:
        self.calls.append(self.name)


def test_going_before_the_reporters_leaves_no_other_callback_out(tmp_path: Path) -> None:
    calls: list[str] = []

    class Subclass(PromptTopologyCallback):
        def on_train_begin(self, *args: Any, **kwargs: Any) -> None:
            calls.append("topology")
            super().on_train_begin(*args, **kwargs)

    callback = Subclass()
    made = trainer(tmp_path)
    for one in (Calls("a", calls), callback, Calls("b", calls), Calls("c", calls)):
        made.add_callback(one)
    made.train()
    assert calls == ["a", "topology", "b", "c"]
    assert made.callback_handler.callbacks[0] is callback
    assert len(made.callback_handler.callbacks) == len(set(made.callback_handler.callbacks))


def test_without_the_frame_of_the_handler_the_history_has_the_values(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("inspect.currentframe", lambda: None)
    made = trainer(tmp_path)
    made.add_callback(PromptTopologyCallback())
    made.train()
    assert not isinstance(made.callback_handler.callbacks[0], PromptTopologyCallback)
    assert "topology/redundancy" in next(e for e in made.state.log_history if "loss" in e)
    assert len(read_record(tmp_path).steps()) == STEPS + 1


@pytest.mark.parametrize(
    ("options", "names"),
    [
        ({}, ["mean_lifetime", "coefficient_of_variation", "redundancy"]),
        ({"log": ()}, []),
        ({"log": "persistent_entropy"}, ["persistent_entropy"]),
        ({"log": ["bottleneck_first", "mean_lifetime"]}, ["bottleneck_first", "mean_lifetime"]),
        ({"log": "all"}, list(LOGGED)),
    ],
)
def test_the_log_has_the_chosen_values_and_the_record_all(
    tmp_path: Path, options: dict[str, Any], names: list[str]
) -> None:
    made = trainer(tmp_path)
    made.add_callback(PromptTopologyCallback(**options))
    made.train()
    entry = next(entry for entry in made.state.log_history if "loss" in entry)
    shown = [name for name in entry if name.startswith("topology/")]
    assert shown == [f"topology/{name}" for name in names]
    assert all(read_record(tmp_path).row(STEPS)[name] is not None for name in LOGGED)


def test_it_works_beside_the_loss(tmp_path: Path) -> None:
    made = trainer(tmp_path, kind=TSLossTrainer)
    made.add_callback(PromptTopologyCallback())
    made.train()
    entry = next(e for e in made.state.log_history if "loss" in e)
    assert {"tsloss/total", "topology/redundancy"} <= set(entry)


def test_a_resumed_training_goes_on_with_its_record(tmp_path: Path) -> None:
    def run(folder: Path, steps: int, resume: bool) -> None:
        # The schedule of the rate must not depend on where the first part stops.
        changes = {"save_strategy": "steps", "save_steps": 4, "lr_scheduler_type": "constant"}
        made = trainer(folder, max_steps=steps, **changes)
        # Step 4, from which it resumes, is one whose points are not kept.
        made.add_callback(PromptTopologyCallback(points_every=3))
        made.train(resume_from_checkpoint=resume)

    run(tmp_path / "whole", STEPS, False)
    # Stopped after step 5, when the newest checkpoint is that of step 4.
    run(tmp_path / "cut", 5, False)
    shutil.rmtree(tmp_path / "cut" / "checkpoint-5", ignore_errors=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        run(tmp_path / "cut", STEPS, True)
    whole, cut = (read_record(tmp_path / name) for name in ("whole", "cut"))
    assert cut.steps().tolist() == whole.steps().tolist()
    for name in ("mean_lifetime", "bottleneck_first", "displacement_previous"):
        assert cut.series(name)[1:] == pytest.approx(whole.series(name)[1:], rel=1e-5), name


def test_the_record_of_another_training_is_put_aside(tmp_path: Path) -> None:
    for number in range(3):
        made = trainer(tmp_path, max_steps=2)
        made.add_callback(PromptTopologyCallback())
        if number == 0:
            made.train()
        else:
            with pytest.warns(UserWarning, match=f"it is now topology-00{number}.arrows"):
                made.train()
    names = sorted(path.name for path in tmp_path.glob("*.arrows"))
    assert names == ["topology-001.arrows", "topology-002.arrows", "topology.arrows"]
    assert all(len(read_record(tmp_path / name).steps()) == 3 for name in names)


def test_prefix_tuning_is_a_cloud_for_the_keys_and_the_values_of_each_layer(
    tmp_path: Path,
) -> None:
    config = PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=5)
    model = get_peft_model(make_tiny_model(), config)
    made = trainer(tmp_path, model)
    made.add_callback(PromptTopologyCallback(every=2))
    made.train()
    record = read_record(tmp_path)
    assert record.steps(3).tolist() == [0, 2, 4, 6]
    names = ["layer 0 keys", "layer 0 values", "layer 1 keys", "layer 1 values"]
    assert [record.cloud_name(cloud) for cloud in record.clouds] == names == cloud_names(model)
    # The names are right: the values of layer 1 are where the model reads them.
    cache = model.get_prompt(batch_size=1)
    values = cache.layers[1].values[0].detach().transpose(0, 1).reshape(5, -1)
    points = torch.from_numpy(record.row(6, 3)["points"]).float()
    torch.testing.assert_close(points, values, rtol=0, atol=0)


def test_anything_in_the_model_can_be_watched(tmp_path: Path) -> None:
    made = trainer(tmp_path)
    rows = PromptTopologyCallback(
        tmp_path / "rows.arrows", clouds=lambda model: model.base_model.lm_head.weight[:9], every=6
    )
    made.add_callback(rows)
    made.train()
    record = read_record(tmp_path / "rows.arrows")
    assert record.row(6)["n_points"] == 9
    assert record.row(6)["displacement_first"] == 0  # the base model is frozen


def test_a_trainers_folder_is_a_run_for_the_reports(tmp_path: Path) -> None:
    made = Trainer(
        model=prompted(),
        args=arguments(
            tmp_path, eval_strategy="steps", eval_steps=3, save_strategy="steps", save_steps=3
        ),
        train_dataset=data(),
        eval_dataset=data()[:4],
    )
    made.add_callback(PromptTopologyCallback(metadata={"model": "tiny"}))
    made.train()
    run = load_run(tmp_path)
    assert run.measured["train_ce"].steps.tolist() == [2, 4, 6]
    assert run.measured["ce"].steps.tolist() == [3, 6]
    states = sorted(tmp_path.glob("checkpoint-*/trainer_state.json"))
    logged = json.loads(states[-1].read_text())["log_history"]
    expected = [entry["eval_loss"] for entry in logged if "eval_loss" in entry]
    assert run.measured["ce"].values.tolist() == pytest.approx(expected)
    assert run.model == "tiny"


def test_a_full_disk_ends_the_record_and_not_the_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tsloss_fast.analysis.record.writer import RecordWriter

    write = RecordWriter.write

    def full(self: Any, rows: Any) -> None:
        rows = list(rows)
        if rows[0]["step"] >= 3:
            raise OSError(28, "No space left on device")
        write(self, rows)

    monkeypatch.setattr(RecordWriter, "write", full)
    made = trainer(tmp_path)
    made.add_callback(PromptTopologyCallback(h1_every=None))
    with pytest.warns(UserWarning, match="not recorded from here on: OSError.*No space left"):
        made.train()
    assert made.state.global_step == STEPS
    assert read_record(tmp_path).steps().tolist() == [0, 1, 2]
    # Old values do not stand in the log as if they were new.
    last = [entry for entry in made.state.log_history if "loss" in entry][-1]
    assert not any(name.startswith("topology/") for name in last)


@pytest.mark.parametrize(("every", "recorded"), [(1, [0, 1, 2, 3, 4]), (3, [0, 3, 4])])
def test_a_training_that_is_stopped_early_is_recorded_to_its_end(
    tmp_path: Path, every: int, recorded: list[int]
) -> None:
    class Stop(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            control.should_training_stop = state.global_step == 4

    made = trainer(tmp_path)
    made.add_callback(PromptTopologyCallback(every=every))
    made.add_callback(Stop())
    made.train()
    assert made.state.global_step == 4
    record = read_record(tmp_path)
    assert record.steps().tolist() == recorded
    assert record.steps(0, 1).tolist() == [0, 4]
    end = prompt_clouds(made.model)[0].detach()
    assert torch.equal(torch.from_numpy(record.row(4)["points"]).float(), end)


def test_an_encoder_with_dropout_is_watched_without_a_draw(tmp_path: Path) -> None:
    config = dropout_encoder()
    ends = []
    for watched in (True, False):
        torch.manual_seed(3)
        made = trainer(tmp_path / str(watched), get_peft_model(make_tiny_model(), config))
        if watched:
            callback = PromptTopologyCallback(h1_every=None)
            made.add_callback(callback)
        made.train()
        assert all(module.training for module in made.model.prompt_encoder.modules())
        ends.append({name: p.detach().clone() for name, p in made.model.named_parameters()})
    assert all(torch.equal(ends[0][name], ends[1][name]) for name in ends[0])
    points = [callback._points(made.model)[0] for _ in range(2)]
    assert torch.equal(*points)


def test_a_pickled_callback_begins_anew_with_the_same_settings(tmp_path: Path) -> None:
    def train(watching: PromptTopologyCallback, name: str) -> list[int]:
        made = trainer(tmp_path / name)
        made.add_callback(watching)
        made.train()
        return read_record(tmp_path / name).steps().tolist()

    callback = PromptTopologyCallback(every=4, h1_every=None)
    before = pickle.dumps(callback)
    assert train(callback, "first") == [0, 4, 6]
    # The tracker of a training that has ended still holds its file and its lock.
    assert callback.tracker is not None
    for number, again in enumerate((pickle.loads(before), copy.deepcopy(callback))):
        assert again.tracker is None
        assert train(again, str(number)) == [0, 4, 6]


def test_what_the_callback_cannot_take_is_refused() -> None:
    with pytest.raises(TypeError, match="takes the step from the Trainer"):
        PromptTopologyCallback(resume=3)
    with pytest.raises(
        ValueError, match=r"'all' or names of mean_lifetime, .*got \['mean_death'\]"
    ):
        PromptTopologyCallback(log=["redundancy", "mean_death"])
    with pytest.raises(TypeError, match="hidden states are there in a training step alone"):
        PromptTopologyCallback(clouds=hidden_states(slice(0, 5)))
