"""Runs are what the model and the losses give by hand, alone or together, stopped or not."""

from __future__ import annotations

import math
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from small_designs import TASK, made, timeless, trials, write
from tsloss_fast.benchmarks.study import packed, run
from tsloss_fast.benchmarks.study.design import trial_key
from tsloss_fast.benchmarks.study.results import read_results
from tsloss_fast.benchmarks.study.run import run_study, train
from tsloss_fast.benchmarks.study.tasks import load_task

from tsloss_fast import h0_persistence
from tsloss_fast.tuning import add_soft_prompt, initial_prompt
from tsloss_fast.tuning.answers import Choices, answer_logits, encode_items, evaluate


@pytest.mark.parametrize(
    ("method", "lr_schedule"),
    [("ce", "linear"), ("tsloss", "constant"), ("tsloss-decay", "linear"), ("l2", "constant")],
)
def test_training_is_that_of_pefts_model_by_hand(
    method: str, lr_schedule: str, tiny: Any, tmp_path: Path
) -> None:
    """The steps are made again with peft's forward pass and one AdamW."""
    (record,) = train(trials(tmp_path, [method], lr_schedule=lr_schedule), *tiny)
    task = load_task("boolean", train_size=20, test_size=16)
    items, test = (encode_items(split, tiny[1]) for split in (task.train, task.test))
    model = add_soft_prompt(tiny[0], initial_prompt(*tiny, 6)).eval()
    prompt = next(p for p in model.parameters() if p.requires_grad)
    optimizer = torch.optim.AdamW([prompt], lr=0.03, weight_decay=0.0)
    losses = []
    for step in range(1, 7):
        ce = answer_logits(model, run.batch_of(items, step, 0, 8)).cross_entropy()
        deaths = h0_persistence(prompt).deaths
        spread = deaths.var(correction=0) / deaths.mean() ** 2
        short = torch.relu(1 - 2 * deaths / deaths.mean()).square().mean()
        term = {
            "ce": torch.zeros(()),
            "tsloss": 10 * (spread + short),
            "tsloss-decay": 10 * (1 - step / 6) * (spread + short),
            "l2": 0.03 * prompt.square().sum(1).mean(),
        }[method]
        optimizer.zero_grad()
        (ce + term).backward()
        if lr_schedule == "linear":
            optimizer.param_groups[0]["lr"] = 0.03 * (7 - step) / 6
        optimizer.step()
        losses.append(ce.item())
    assert record["train_ce"] == pytest.approx(losses, rel=1e-4)
    choices = Choices(item.answer for item in (*items, *test))
    for found, wanted in ((record["end"], test), (record["curve"][-1], test[:10])):
        expected = evaluate(model, wanted, choices)
        for name in ("accuracy", "restricted_accuracy", "ce"):
            assert found[name] == pytest.approx(expected[name], rel=1e-4), name
    bare = evaluate(tiny[0], test, choices)
    assert record["reference"]["zero_shot_accuracy"] == pytest.approx(bare["accuracy"])
    assert record["reference"]["zero_shot_ce"] == pytest.approx(bare["ce"], rel=1e-5)
    assert record["reference"]["majority_rate"] == task.majority_rate
    deaths = h0_persistence(prompt.detach()).deaths
    assert record["curve"][-1]["mean_death"] == pytest.approx(deaths.mean().item(), rel=1e-4)
    assert [point["step"] for point in record["curve"]] == [0, 3, 6]
    assert record["task_digest"] == task.digest[:16]


def test_every_epoch_reads_every_item_once_in_another_order() -> None:
    items: list[Any] = list(range(20))
    epochs = [
        [i for step in (1, 2, 3) for i in run.batch_of(items, 3 * e + step, 5, 8)] for e in (0, 1)
    ]
    assert [sorted(epoch) for epoch in epochs] == [items, items]
    assert epochs[0] != epochs[1]
    assert run.batch_of(items, 1, 5, 8) != run.batch_of(items, 1, 6, 8)


def test_a_run_is_the_same_alone_and_among_others(tiny: Any, tmp_path: Path) -> None:
    start = {"name": "x", "init": "text", "init_text": "x", "jitter": 0.01}
    arms = ["ce", "l2", "pairwise", "hofer", "surrogate", "tsloss"]
    wanted = trials(tmp_path, [*arms, {"name": "own", "loss": "ce", "start": start}])
    together = train(wanted, *tiny)
    assert len({record["train_ce"][-1] for record in together}) == 7
    # All but the arm with a start of its own begin alike.
    assert len({str(record["curve"][0]) for record in together[:-1]}) == 1
    assert together[0]["curve"][0] != together[-1]["curve"][0]
    assert len({record["task_digest"] for record in together}) == 1
    for record, trial in zip(together, wanted, strict=True):
        assert record["key"] == trial_key(trial)
        assert record["cohort"] == 7
        alone = train([trial], *tiny)
        assert timeless([record], "cohort") == timeless(alone, "cohort")


def test_a_run_that_diverges_stays_where_it_was_and_harms_no_other(
    tiny: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = trials(tmp_path, ["ce", "tsloss"], task={"eval_every": 2})
    expected = train(wanted[:1], *tiny)
    original, calls = packed.packed_answers, []

    def answers(base: Any, prompts: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        found = original(base, prompts, *args, **kwargs)
        if torch.is_grad_enabled():
            calls.append(1)
            # The first call tries packing. In step 4 the second run alone has an infinite loss.
            if len(calls) == 5:
                found.logits[1] = found.logits[1] * math.inf
        return found

    monkeypatch.setattr(packed, "packed_answers", answers)
    good, bad = train(wanted, *tiny)
    assert timeless([good], "cohort") == timeless(expected, "cohort")
    assert (good["diverged"], bad["diverged"], len(bad["train_ce"])) == (None, 4, 3)
    by_step = {point["step"]: point for point in bad["curve"]}
    # It was last moved at step 3, and nothing changes after that.
    assert by_step[4] | {"step": 6} == by_step[6]
    assert by_step[4] != by_step[2] | {"step": 4}


def test_a_run_that_arrives_ends_there_and_changes_no_other(tiny: Any, tmp_path: Path) -> None:
    (whole, slow) = train(trials(tmp_path, ["ce"], lr=[0.3, 0.0001]), *tiny)
    losses = whole["train_ce"]
    # Just above the first loss that the slow run never has, since recorded losses are rounded.
    arrives = next(s for s, loss in enumerate(losses, 1) if loss < min(slow["train_ce"]) - 1e-3)
    stop = losses[arrives - 1] + 1e-4
    assert 1 < arrives < 6
    wanted = trials(tmp_path, ["ce"], lr=[0.3, 0.0001], task={"stop_train_ce": stop})
    ended, other = train(wanted, *tiny)
    assert ended["train_ce"] == losses[:arrives]
    assert ended["diverged"] is None
    # The prompt is that of the step at which the run arrived, before any further update.
    (before,) = train(trials(tmp_path, ["ce"], lr=[0.3], task={"steps": arrives - 1}), *tiny)
    assert ended["end"] == before["end"]
    untouched = ("train_ce", "end", "curve")
    assert [other[name] for name in untouched] == [slow[name] for name in untouched]
    assert ended["key"] != whole["key"]


def runs_of(folder: Path) -> dict[str, Any]:
    lines = read_results(folder) if list(folder.glob("*.jsonl")) else []
    runs = [line for line in lines if line["kind"] == "run"]
    return {line["key"]: timeless([line], "cohort") for line in runs}


@pytest.mark.slow
def test_killed_and_interrupted_studies_end_as_one_that_was_not(
    tiny_folder: Path, tmp_path: Path
) -> None:
    changes = {"models": [str(tiny_folder)], "seeds": [0, 1, 2], "tasks": [TASK | {"steps": 60}]}
    design, out = made(tmp_path, **changes), tmp_path / "out"
    assert run_study(design, tmp_path / "whole") == 0
    words = [sys.executable, "-m", "tsloss_fast", "compare", str(write(tmp_path, **changes))]
    words += ["--out", str(out), "--threads", "1"]

    for number, sent in enumerate((signal.SIGKILL, signal.SIGINT)):
        # Shells let what runs in the background ignore interrupts, which would be inherited.
        signal.signal(signal.SIGINT, signal.default_int_handler)
        with subprocess.Popen(words, stderr=subprocess.PIPE, text=True) as process:
            end = time.monotonic() + 300
            while process.poll() is None and len(runs_of(out)) <= 2 * number:
                assert time.monotonic() < end
                time.sleep(0.02)
            process.send_signal(sent)
            _, errors = process.communicate(timeout=120)
        if sent == signal.SIGINT:
            assert process.returncode == 130, errors
            assert "the same command goes on" in errors
        else:
            with (out / "small.jsonl").open("ab") as file:
                file.write(b'{"kind":"run","key":"')
    assert len(runs_of(out)) < 6
    subprocess.run(words, check=True, timeout=300)
    assert runs_of(out) == runs_of(tmp_path / "whole")
