"""Killed at any moment and started again, a run ends with the same bits as one left alone."""

from __future__ import annotations

import json
import os
import pickle
import random
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_llama import NEEDS, make_tiny_model, make_tiny_tokenizer, save_tiny

pytest.importorskip("transformers", reason=NEEDS)
pytest.importorskip("peft", reason=NEEDS)

from killed_runs import _hold, context, tune_and_die, tune_here
from peft import PeftModel
from safetensors.torch import load_file

from tsloss_fast._files import whole_file, whole_folder
from tsloss_fast.analysis import read_record
from tsloss_fast.tuning import initial_prompt, load_model, prompt_clouds
from tsloss_fast.tuning.run_folder import (
    MetricsLog,
    RunFolderError,
    claim,
    exclusive,
    finish_checkpoint,
    newest_checkpoint,
    read_metrics,
)
from tsloss_fast.tuning.tune import TuningInterrupted

ADAPTER = "adapter/adapter_model.safetensors"


@pytest.fixture(scope="module")
def untouched(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return tune_here(str(tmp_path_factory.mktemp("untouched") / "run"))


def log_without_times(folder: Path) -> list[dict[str, Any]]:
    return [{k: v for k, v in r.items() if "seconds" not in k} for r in read_metrics(folder)]


def assert_same_run(result: Any, untouched: Any) -> None:
    assert torch.equal(result.prompt, untouched.prompt)
    assert log_without_times(result.folder) == log_without_times(untouched.folder)
    assert record_without_times(result.folder) == record_without_times(untouched.folder)
    names = [
        sorted(str(path.relative_to(run.folder)) for path in run.folder.rglob("*"))
        for run in (result, untouched)
    ]
    assert names[0] == names[1]
    for name in [ADAPTER, *(n for n in names[0] if n.endswith(("config.json", "epoch_004.pt")))]:
        assert (result.folder / name).read_bytes() == (untouched.folder / name).read_bytes()
    places = [run.folder / "checkpoints/checkpoint-14" for run in (result, untouched)]
    states = [torch.load(place / "optimizer.pt", weights_only=True)["state"] for place in places]
    for name in ("exp_avg", "exp_avg_sq", "step"):
        assert torch.equal(states[0][0][name], states[1][0][name])
    losses = [load_file(place / "tsloss.safetensors") for place in places]
    assert torch.equal(losses[0]["measured"], losses[1]["measured"])
    assert losses[0]["measured"].any()


def record_without_times(folder: Path) -> list[dict[str, Any]]:
    rows = read_record(folder).table.drop_columns(["time"]).to_pylist()
    # H1 is written when it is ready.
    return sorted(rows, key=lambda row: (row["dimension"], row["step"]))


# Renames in order: config.json, the record, the prompts of epochs 0 and 1, the marks of the
# checkpoints of steps 4 and so on, between the prompts of the epochs. Saves by torch: the prompts
# of epochs 0 and 1, then optimizer, scheduler and generators of step 4, epoch 2, ….
MOMENTS = [
    ("step", 2, ""),  # before any checkpoint
    ("step", 7, ""),
    ("step", 14, ""),  # after the last step, before its checkpoint
    ("half a line", 9, ""),
    ("replace", 1, "before"),  # config.json written under its temporary name only
    ("replace", 2, "before"),  # the record of topology
    ("replace", 4, "before"),  # an epoch's prompt
    ("replace", 5, "before"),  # the first checkpoint, complete but not marked
    ("replace", 5, "after"),
    ("half a batch", 7, ""),  # of the record, after the first checkpoint
    ("save", 3, "before"),  # within a checkpoint: peft's files are written, the optimizer is not
    ("save", 4, "after"),
    ("save", 13, "after"),  # the third checkpoint
    ("half a removal", 1, ""),  # while an old checkpoint is pruned
    ("replace", 11, "before"),  # the last checkpoint is complete but not marked
    ("fsync", 12, "before"),
    ("fsync", 40, "after"),
]


@pytest.mark.parametrize("moment", MOMENTS, ids=lambda m: "-".join(map(str, m)).strip("-"))
def test_a_run_killed_once_ends_with_the_same_bits(
    moment: tuple[str, int, str], tmp_path: Path, untouched: Any
) -> None:
    out = tmp_path / "run"
    assert tune_and_die(str(out), moment) == -signal.SIGKILL
    assert not (out / "adapter").exists()
    assert_same_run(tune_here(str(out)), untouched)


def test_a_run_killed_again_and_again_ends_with_the_same_bits(
    tmp_path: Path, untouched: Any
) -> None:
    out = str(tmp_path / "run")
    for moment in [("step", 6, ""), ("fsync", 3, "before"), ("save", 2, "after"), ("step", 9, "")]:
        assert tune_and_die(out, moment) == -signal.SIGKILL
    result = tune_here(out)
    assert result.resumed_from == 8
    assert_same_run(result, untouched)


@pytest.mark.slow
def test_a_run_killed_at_random_moments_ends_with_the_same_bits(
    tmp_path: Path, untouched: Any
) -> None:
    """The process is killed from outside at a random moment."""
    chosen = random.Random(os.environ.get("TSLOSS_KILL_SEED", "1"))
    out = tmp_path / "run"
    killed = 0
    for _ in range(40):
        process = context().Process(target=tune_here, args=(str(out),))
        process.start()
        log, lines = out / "metrics.jsonl", chosen.randint(1, 22)
        end = time.monotonic() + 120
        while process.is_alive() and time.monotonic() < end:
            if log.exists() and log.read_bytes().count(b"\n") >= lines:
                time.sleep(0.05 * chosen.random())
                process.kill()
                break
            time.sleep(0.001)
        process.join(120)
        killed += process.exitcode == -signal.SIGKILL
        if process.exitcode == 0 or killed == 6:
            break
    assert killed
    assert_same_run(tune_here(str(out)), untouched)


def test_a_kill_inside_a_checkpoint_leaves_the_one_before_in_place(tmp_path: Path) -> None:
    out = tmp_path / "run"
    # Saves: epochs 0 and 1, three of checkpoint 4, epoch 2, checkpoint 8.
    assert tune_and_die(str(out), ("save", 8, "before")) == -signal.SIGKILL
    left = sorted(path.name for path in (out / "checkpoints").iterdir())
    assert left == ["checkpoint-4", "checkpoint-8"]
    assert (out / "checkpoints/checkpoint-8/adapter_model.safetensors").exists()
    seen = []
    tune_here(str(out), seen.append)
    assert seen[0] == {"kind": "resume", "step": 4}
    assert [record["step"] for record in seen if record["kind"] == "step"] == list(range(5, 15))


def test_more_steps_extend_a_finished_run_to_the_bits_of_a_longer_one(tmp_path: Path) -> None:
    settings = {"eval_every": 3}
    short = tune_here(str(tmp_path / "run"), steps=9, **settings)
    longer = tune_here(str(tmp_path / "run"), steps=15, **settings)
    assert (short.resumed_from, longer.resumed_from) == (0, 9)
    at_once = tune_here(str(tmp_path / "other"), steps=15, **settings)
    assert torch.equal(longer.prompt, at_once.prompt)
    assert log_without_times(longer.folder) == log_without_times(at_once.folder)
    assert record_without_times(longer.folder) == record_without_times(at_once.folder)
    adapters = [load_file(run.folder / ADAPTER)["prompt_embeddings"] for run in (longer, at_once)]
    assert torch.equal(*adapters)
    with pytest.raises(RunFolderError, match=r"another configuration: steps \(15 there, 9 here\)"):
        tune_here(str(tmp_path / "run"), steps=9, **settings)


def test_a_run_whose_rate_depends_on_its_steps_is_not_extended(tmp_path: Path) -> None:
    linear = {"trainer": {"lr_scheduler_type": "linear"}}
    tune_here(str(tmp_path / "run"), steps=2, **linear)
    with pytest.raises(RunFolderError, match=r"steps \(2 there, 4 here\)"):
        tune_here(str(tmp_path / "run"), steps=4, **linear)


def test_a_finished_run_is_not_run_again(tmp_path: Path) -> None:
    out = str(tmp_path / "run")
    first, seen = tune_here(out), []
    again = tune_here(out, seen.append)
    assert seen == [{"kind": "resume", "step": 14}]
    assert again.resumed_from == 14
    assert torch.equal(again.prompt, first.prompt)
    assert again.final == first.final


def test_an_interrupt_ends_the_step_keeps_it_and_says_how_to_go_on(
    tmp_path: Path, untouched: Any
) -> None:
    def interrupt(record: Any) -> None:
        if record["kind"] == "step" and record["step"] == 6:
            os.kill(os.getpid(), signal.SIGINT)

    out = tmp_path / "run"
    handler = signal.getsignal(signal.SIGINT)
    with pytest.raises(TuningInterrupted, match=r"after step 6 of 14.*the same command goes on"):
        tune_here(str(out), interrupt)
    assert signal.getsignal(signal.SIGINT) is handler
    assert (out / "checkpoints" / "checkpoint-6").is_dir()
    result = tune_here(str(out))
    assert result.resumed_from == 6
    assert torch.equal(result.prompt, untouched.prompt)
    assert log_without_times(result.folder) == log_without_times(untouched.folder)


def test_old_checkpoints_go_when_new_ones_are_in_place(untouched: Any) -> None:
    left = sorted(path.name for path in (untouched.folder / "checkpoints").iterdir())
    assert left == ["checkpoint-12", "checkpoint-14"]


def test_checkpoints_and_the_final_adapter_are_read_by_peft(untouched: Any) -> None:
    for name, same in (("adapter", True), ("checkpoints/checkpoint-12", False)):
        folder = untouched.folder / name
        model = PeftModel.from_pretrained(make_tiny_model(), str(folder))
        assert torch.equal(prompt_clouds(model)[0], untouched.prompt) is same
        assert json.loads((folder / "adapter_config.json").read_text())["num_virtual_tokens"] == 6


def test_epoch_prompts_have_the_authors_format(untouched: Any) -> None:
    files = sorted((untouched.folder / "prompts").iterdir())
    assert [file.name for file in files] == [f"soft_prompt_epoch_{n:03d}.pt" for n in range(5)]
    prompts = [torch.load(file, weights_only=True) for file in files]
    assert all(p.shape == (1, 6, 32) and p.dtype == torch.float32 for p in prompts)
    initial = initial_prompt(make_tiny_model(), make_tiny_tokenizer(), 6)
    assert torch.equal(prompts[0][0], initial)
    # Epoch 4 ends with step 12, whose checkpoint is still there.
    weights = load_file(untouched.folder / "checkpoints/checkpoint-12/adapter_model.safetensors")
    assert torch.equal(prompts[4][0], weights["prompt_embeddings"])


def test_another_configuration_is_refused_with_the_keys_that_differ(
    tmp_path: Path, untouched: Any
) -> None:
    with pytest.raises(RunFolderError) as error:
        tune_here(str(untouched.folder), lr=0.1, steps=10)
    message = str(error.value)
    assert "lr (0.03 there, 0.1 here), steps (14 there, 10 here)." in message
    assert "Use another folder" in message
    assert "seed" not in message


def test_a_task_file_that_changed_is_another_configuration(tmp_path: Path) -> None:
    def write(answer: str) -> None:
        rows = [{"question": f"{i} ?", "answer": answer} for i in range(30)]
        path.write_text("\n".join(map(json.dumps, rows)))

    path, out = tmp_path / "task.jsonl", str(tmp_path / "run")
    write("yes")
    tune_here(out, task=str(path), steps=2)
    write("no")
    with pytest.raises(RunFolderError, match="another configuration: task_digest"):
        tune_here(out, task=str(path), steps=2)


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with a checkpoint of step 4, killed two steps later."""
    out = tmp_path_factory.mktemp("killed") / "run"
    assert tune_and_die(str(out), ("step", 6, "")) == -signal.SIGKILL
    return out


def other_layer() -> tuple[Any, Any]:
    """Change one number outside the embeddings, as a fine-tuning with LoRA would."""
    model = make_tiny_model()
    model.model.layers[1].mlp.up_proj.weight.data[3, 5] += 1e-3
    return model, make_tiny_tokenizer()


def other_angles() -> tuple[Any, Any]:
    model = make_tiny_model()
    model.config.rope_theta = 123.0
    return model, make_tiny_tokenizer()


def other_tokenizer() -> tuple[Any, Any]:
    tokenizer = make_tiny_tokenizer()
    tokenizer.add_tokens(["True and"])
    return make_tiny_model(), tokenizer


@pytest.mark.parametrize(
    ("load", "message"),
    [
        (other_layer, r'another configuration: the model.s weights or configuration, SHA-256 \("'),
        (other_angles, "another configuration: the model.s weights or configuration"),
        (other_tokenizer, "another configuration: the tokens of the items"),
    ],
)
def test_a_run_does_not_go_on_with_another_model(
    load: Any, message: str, killed: Path, tmp_path: Path
) -> None:
    out = shutil.copytree(killed, tmp_path / "run")
    with pytest.raises(RunFolderError, match=message + ".* Use another folder .* or restore"):
        tune_here(str(out), load=load)


def test_a_model_that_was_moved_is_the_same_model(
    killed: Path, tmp_path: Path, untouched: Any
) -> None:
    out = shutil.copytree(killed, tmp_path / "run")
    save_tiny(tmp_path / "moved")
    result = tune_here(
        str(out),
        load=lambda: load_model(str(tmp_path / "moved")),
        model=str(tmp_path / "moved"),
    )
    assert result.resumed_from == 4
    assert torch.equal(result.prompt, untouched.prompt)
    with pytest.raises(RunFolderError, match=r'model \("tiny" there, "b" here\), the model.s wei'):
        tune_here(str(out), load=other_layer, model="b")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda kept: kept["made_with"].update(torch="1.13.1"), r'of torch \("1.13.1" there, "'),
        (lambda kept: kept["made_with"].pop("torch"), r"of torch \(null there"),
        (lambda kept: kept.pop("digests"), "of an older version of tsloss_fast, which"),
        (lambda kept: kept["digests"].pop("tokens"), "config.json cannot be read"),
        (lambda kept: kept["made_with"].update(torch=f"{torch.__version__}.post1"), None),
    ],
)
def test_a_run_goes_on_with_the_versions_that_it_began_with(
    change: Any, message: str | None, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    tune_here(str(out), steps=1)
    kept = json.loads((out / "config.json").read_text())
    change(kept)
    (out / "config.json").write_text(json.dumps(kept))
    if message is None:
        assert tune_here(str(out), steps=1).resumed_from == 1
        return
    with pytest.raises(RunFolderError, match=message):
        tune_here(str(out), steps=1)


def test_an_extended_run_keeps_its_first_command_line(tmp_path: Path) -> None:
    digests = {"model": "m", "tokens": "t"}
    for steps, command in ((1, "first"), (2, "second")):
        claim(tmp_path, {"steps": steps, "trainer": {}}, {}, digests, command)
    kept = json.loads((tmp_path / "config.json").read_text())
    assert (kept["config"]["steps"], kept["command"]) == (2, "first")


def test_two_processes_cannot_write_one_folder_and_a_killed_one_lets_go(tmp_path: Path) -> None:
    out = tmp_path / "run"
    holder = context()
    ready = holder.Event()
    process = holder.Process(target=_hold, args=(str(out), ready), daemon=True)
    process.start()
    assert ready.wait(60)
    with pytest.raises(RunFolderError, match=rf"another process \(pid {process.pid}\)"):
        tune_here(str(out))
    process.kill()
    process.join(60)
    with exclusive(out):
        pass


@pytest.mark.parametrize(
    ("file", "damage"),
    [
        ("optimizer.pt", lambda raw: raw[: len(raw) // 2]),
        ("optimizer.pt", lambda raw: b""),
        ("trainer_state.json", lambda raw: raw.replace(b"8", b"7", 1)),
        ("finished.json", lambda raw: raw[:-9]),
        ("adapter_model.safetensors", lambda raw: raw[:-40]),
        ("adapter_model.safetensors", lambda raw: b"\xff" * len(raw)),
    ],
)
def test_a_damaged_checkpoint_is_named_with_what_to_do(
    tmp_path: Path, file: str, damage: Any
) -> None:
    out = tmp_path / "run"
    tune_here(str(out), steps=8)
    path = out / "checkpoints" / "checkpoint-8" / file
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(RunFolderError, match=r"checkpoint-8 cannot be read .*from checkpoint-4"):
        tune_here(str(out), steps=8)
    shutil.rmtree(out / "checkpoints" / "checkpoint-8")
    assert tune_here(str(out), steps=8).resumed_from == 4


class _Bomb:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> Any:
        return os.system, (f"touch '{self.marker}'",)


@pytest.mark.parametrize("file", ["optimizer.pt", "scheduler.pt", "rng_state.pth"])
def test_no_code_in_a_checkpoint_is_executed(tmp_path: Path, file: str) -> None:
    """Not even if the digests say that the file is what was written."""
    out, marker = tmp_path / "run", tmp_path / "executed"
    tune_here(str(out), steps=4)
    place = out / "checkpoints" / "checkpoint-4"
    torch.save({"state": _Bomb(marker)}, place / file)
    with pytest.raises(RunFolderError, match=f"cannot be read .{file} is not what was written"):
        tune_here(str(out), steps=5)
    finish_checkpoint(out, 4)
    with pytest.raises(pickle.UnpicklingError):
        tune_here(str(out), steps=5)
    assert not marker.exists()


def test_a_log_shorter_than_its_checkpoint_is_not_continued(tmp_path: Path) -> None:
    out = tmp_path / "run"
    tune_here(str(out), steps=4)
    (out / "metrics.jsonl").write_bytes(b"")
    with pytest.raises(
        RunFolderError, match=r"does not fit the checkpoint of step 4 .it ends after"
    ):
        tune_here(str(out), steps=4)
    (out / "config.json").unlink()
    with pytest.raises(RunFolderError, match=r"metrics.jsonl but no config.json"):
        tune_here(str(out), steps=4)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda lines: lines[1:], "does not begin with the rates without tuning"),
        (lambda lines: [line for line in lines if '"eval"' not in line], "holds no evaluation"),
        (lambda lines: lines[:3] + lines[4:], "a step is missing or stands twice"),
        (lambda lines: [lines[0].replace("share_prompt", "x"), *lines[1:]], "share_prompt"),
    ],
)
def test_a_damaged_log_is_not_continued(tmp_path: Path, damage: Any, message: str) -> None:
    out = tmp_path / "run"
    tune_here(str(out), steps=4)
    lines = (out / "metrics.jsonl").read_text().splitlines()
    (out / "metrics.jsonl").write_text("\n".join(damage(lines)) + "\n")
    with pytest.raises(RunFolderError, match=message):
        tune_here(str(out), steps=4)


@pytest.mark.parametrize("name", ["metrics.jsonl", "topology.arrows", "checkpoints", "prompts"])
def test_what_may_be_another_programs_is_left_alone(tmp_path: Path, name: str) -> None:
    file = tmp_path / "run" / name / "kept" if "." not in name else tmp_path / "run" / name
    file.parent.mkdir(parents=True)
    file.write_text("{}")
    with pytest.raises(RunFolderError, match=f"holds {name} but no config.json"):
        tune_here(str(tmp_path / "run"), steps=1)
    assert file.read_text() == "{}"


def test_only_checkpoints_are_touched_in_their_folder(tmp_path: Path) -> None:
    out = tmp_path / "run"
    tune_here(str(out), steps=8)
    place = out / "checkpoints"
    for name in ("checkpoint-old", "checkpoint-4-backup"):
        (place / name).mkdir()
    (place / "checkpoint-5").touch()
    assert tune_here(str(out), steps=9).resumed_from == 8
    left = {path.name for path in place.iterdir()}
    assert left == {
        *("checkpoint-old", "checkpoint-4-backup", "checkpoint-5"),
        *("checkpoint-8", "checkpoint-9"),
    }


def test_a_checkpoint_is_pruned_only_after_the_new_one_is_whole(tmp_path: Path) -> None:
    """Two kills, one while a checkpoint is pruned, leave one to go on from."""
    out = tmp_path / "run"
    assert tune_and_die(str(out), ("half a removal", 1, "")) == -signal.SIGKILL
    assert newest_checkpoint(out, clean=False).name == "checkpoint-12"
    assert tune_and_die(str(out), ("save", 1, "before")) == -signal.SIGKILL
    assert newest_checkpoint(out, clean=False).name == "checkpoint-12"


def test_a_worker_that_outlives_its_parent_does_not_hold_the_folder(tmp_path: Path) -> None:
    """A forked process inherits the lock's descriptor, and lets it go."""
    from tsloss_fast._files import exclusive as held

    reader, writer = os.pipe()
    parent = os.fork()
    if not parent:
        with held(tmp_path):
            if not os.fork():
                os.write(writer, f"{os.getpid()}".encode())
                time.sleep(60)
                os._exit(0)
            time.sleep(60)
        os._exit(0)
    worker = int(os.read(reader, 32))
    os.kill(parent, signal.SIGKILL)
    os.waitpid(parent, 0)
    with held(tmp_path):
        os.kill(worker, signal.SIGKILL)


def test_lines_after_the_checkpoint_are_cut_off(tmp_path: Path) -> None:
    log = MetricsLog(tmp_path, None)
    reference = {"kind": "reference", "share_prompt": True}
    kept = [reference, {"kind": "step", "step": 1}, {"kind": "eval", "step": 1}]
    for record in [*kept, {"kind": "step", "step": 2}]:
        log.write(record)
    log.close()
    MetricsLog(tmp_path, 1).close()
    assert read_metrics(tmp_path) == kept
    MetricsLog(tmp_path, None).close()
    assert read_metrics(tmp_path) == []


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    target, folder = tmp_path / "file", tmp_path / "folder"
    target.write_text("old")
    folder.mkdir()
    (folder / "old").touch()

    def fail(path: Path) -> None:
        path.write_text("half")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"), whole_file(target) as temporary:
        fail(temporary)
    with pytest.raises(OSError, match="disk full"), whole_folder(folder) as temporary:
        fail(temporary / "new")
    assert target.read_text() == "old"
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["file", "folder", "old"]
    with whole_folder(folder) as temporary:
        (temporary / "new").touch()
    assert [path.name for path in folder.iterdir()] == ["new"]
