"""The training loop: what is minimised, what is frozen, what is written down."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import math
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_llama import NEEDS

pytest.importorskip("transformers", reason=NEEDS)
pytest.importorskip("peft", reason=NEEDS)

import functools
import operator

from transformers import MambaConfig, MambaForCausalLM

from tsloss_fast import TSLoss, h0_persistence
from tsloss_fast.tuning import TuneConfig, initial_prompt, tune
from tsloss_fast.tuning.clouds import MeanSquaredNorm
from tsloss_fast.tuning.config import DEFAULT_WEIGHTS
from tsloss_fast.tuning.run_folder import read_metrics
from tsloss_fast.tuning.tasks import load_task
from tsloss_fast.tuning.tune import TuningInterrupted

Tuner = Callable[..., Any]


@pytest.fixture
def settings(tmp_path: Path) -> dict[str, Any]:
    return {
        "out": str(tmp_path / "run"),
        "model": "tiny",
        "steps": 12,
        "train_size": 20,
        "test_size": 10,
        "virtual_tokens": 6,
        "eval_every": 5,
        "checkpoint_every": 100,
    }


@pytest.fixture
def run(settings: dict[str, Any], tiny_model: Any, tiny_tokenizer: Any) -> Tuner:
    def run(progress: Any = None, **changes: Any) -> Any:
        config = TuneConfig(**(settings | changes))
        return tune(config, progress, load=lambda: (tiny_model, tiny_tokenizer))

    return run


def lines(result: Any, kind: str) -> list[dict[str, Any]]:
    return [record for record in read_metrics(result.folder) if record["kind"] == kind]


def test_only_the_prompt_changes(run: Tuner, tiny_model: Any) -> None:
    before = {name: p.detach().clone() for name, p in tiny_model.named_parameters()}
    result = run()
    after = dict(tiny_model.named_parameters())
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert all(p.grad is None and not p.requires_grad for p in after.values())
    assert not tiny_model.training
    start = torch.load(result.folder / "prompts" / "soft_prompt_epoch_000.pt", weights_only=True)
    assert not torch.equal(start[0], result.prompt)


def test_the_loss_is_cross_entropy_plus_the_weighted_term(run: Tuner) -> None:
    result = run(weight=2.5, connectivity=3.0, redundancy=0.5, compactness=0.25)
    steps = lines(result, "step")
    assert len(steps) == 12
    for line in steps:
        terms = line["terms"]
        assert line["tsloss"] == pytest.approx(
            3 * terms["connectivity"] + 0.5 * terms["redundancy"] + 0.25 * terms["compactness"]
        )
        assert line["loss"] == pytest.approx(line["ce"] + 2.5 * line["tsloss"])


def test_the_first_step_is_taken_along_the_gradient_of_that_loss(
    run: Tuner, tiny_model: Any, tiny_tokenizer: Any
) -> None:
    """Adam's first step is lr·sign(gradient), computed here from peft's own forward. All items are
    in the batch, so that their order does not matter."""
    from tsloss_fast.tuning import add_soft_prompt
    from tsloss_fast.tuning.answers import answer_logits, encode_items

    result = run(steps=1, loss="tsloss", weight=10.0, batch_size=20)
    initial = initial_prompt(tiny_model, tiny_tokenizer, 6)
    task = load_task("boolean", train_size=20, test_size=10, seed=0)
    model = add_soft_prompt(tiny_model, initial).eval()
    prompt = next(p for p in model.parameters() if p.requires_grad)
    loss = answer_logits(model, encode_items(task.train, tiny_tokenizer)).cross_entropy()
    (gradient,) = torch.autograd.grad(loss + 10 * TSLoss()(prompt), prompt)
    clear = gradient.abs() > 1e-3 * gradient.abs().max()
    step = result.prompt - initial
    torch.testing.assert_close(
        step[clear], -0.03 * gradient.sign()[clear], rtol=1e-3, atol=1e-6, check_stride=False
    )
    assert lines(result, "step")[0]["grad_norm"] == pytest.approx(gradient.norm().item(), rel=1e-4)


def items_of_steps(monkeypatch: pytest.MonkeyPatch) -> list[list[Any]]:
    """The batches that the training asks for, as they come."""
    # The package has a function of the module's name.
    module = sys.modules["tsloss_fast.tuning.tune"]
    batches: list[list[Any]] = []
    logits = module.answer_logits

    def noted(model: Any, items: Any, **options: Any) -> Any:
        batches.append(list(items))
        return logits(model, items, **options)

    monkeypatch.setattr(module, "answer_logits", noted)
    return batches


def test_each_epoch_has_every_item_once_in_an_order_that_the_seed_decides(
    run: Tuner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    batches = items_of_steps(monkeypatch)
    run(steps=6)
    first, second = (functools.reduce(operator.iadd, batches[k : k + 3], []) for k in (0, 3))
    assert len(first) == len(set(first)) == 20
    assert set(first) == set(second)
    assert first != second
    before = list(batches)
    batches.clear()
    torch.manual_seed(7)
    run(steps=6, loss="ce", out=str(tmp_path / "control"))
    assert batches == before
    batches.clear()
    run(steps=6, seed=1, out=str(tmp_path / "other"))
    assert [len(batch) for batch in batches] == [8, 8, 4] * 2
    assert batches != before


def test_log_lines_describe_the_prompt_they_belong_to(run: Tuner) -> None:
    result = run()
    deaths = h0_persistence(result.prompt).deaths
    last = lines(result, "eval")[-1]
    assert last["mean_death"] == pytest.approx(deaths.mean().item())
    shares = deaths / deaths.sum()
    entropy = -(shares * shares.log()).sum().item()
    assert last["persistent_entropy"] == pytest.approx(entropy, rel=1e-5)
    # A step's line is of the prompt after the step, which is evaluated there.
    by_step = {line["step"]: line for line in lines(result, "step")}
    for line in lines(result, "eval")[1:]:
        for key in ("mean_death", "coefficient_of_variation", "redundancy"):
            assert by_step[line["step"]][key] == line[key]


def test_the_time_of_loss_and_record_is_a_part_of_the_step(run: Tuner) -> None:
    for line in lines(run(), "step"):
        assert 0 < line["loss_seconds"] < line["seconds"]


def test_evaluations_stand_at_the_start_at_intervals_and_at_the_end(run: Tuner) -> None:
    result = run(validation_size=7)
    evaluations = lines(result, "eval")
    assert [line["step"] for line in evaluations] == [0, 5, 10, 12]
    for line in evaluations:
        assert 0 <= line["accuracy"] <= line["restricted_accuracy"] <= 1
        assert (line["validation_accuracy"] * 7) % 1 == pytest.approx(0, abs=1e-9)
    (reference,) = lines(result, "reference")
    assert read_metrics(result.folder)[0] == reference
    task = load_task("boolean", train_size=20, test_size=10, validation_size=7, seed=0)
    assert reference["majority_rate"] == task.majority_rate
    assert result.final == reference | evaluations[-1]


def test_the_references_are_those_of_the_model_without_a_prompt(
    run: Tuner, tiny_model: Any, tiny_tokenizer: Any
) -> None:
    (reference,) = lines(run(), "reference")
    task = load_task("boolean", train_size=20, test_size=10, seed=0)
    true, false = (tiny_tokenizer(word)["input_ids"][0] for word in ("True", "False"))
    right, nats = 0, 0.0
    for item in task.test:
        ids = torch.tensor([tiny_tokenizer(item.question)["input_ids"]])
        logits = tiny_model(input_ids=ids).logits[0, -1]
        right += (" True" if logits[true] > logits[false] else " False") == item.answer
        nats -= logits.log_softmax(-1)[true if item.answer == " True" else false].item()
    assert reference["zero_shot_restricted_accuracy"] == right / 10
    assert reference["zero_shot_ce"] == pytest.approx(nats / 10, rel=1e-5)


def test_the_control_has_the_same_start_and_the_same_data(run: Tuner, tmp_path: Path) -> None:
    tuned, control = run(), run(loss="ce", out=str(tmp_path / "control"))
    start = "prompts/soft_prompt_epoch_000.pt"
    assert (tuned.folder / start).read_bytes() == (control.folder / start).read_bytes()
    first, other = lines(tuned, "step")[0], lines(control, "step")[0]
    assert first["ce"] == other["ce"]
    assert first["tsloss"] == other["tsloss"]
    assert first["loss"] > other["loss"] == other["ce"]
    assert lines(tuned, "reference") != []
    assert {k: v for k, v in lines(tuned, "eval")[0].items() if k != "seconds"} == {
        k: v for k, v in lines(control, "eval")[0].items() if k != "seconds"
    }


def test_tsloss_evens_the_prompt_out_and_cross_entropy_still_falls(
    run: Tuner, tmp_path: Path
) -> None:
    tuned = run(steps=40)
    control = run(steps=40, loss="ce", out=str(tmp_path / "control"))
    cv = "coefficient_of_variation"
    assert tuned.final[cv] < 0.5 * control.final[cv]
    for result in (tuned, control):
        assert result.final["ce"] < lines(result, "eval")[0]["ce"]


@pytest.mark.parametrize("loss", ["surrogate", "total", "l2"])
def test_every_other_loss_falls_where_it_is_all_that_matters(run: Tuner, loss: str) -> None:
    steps = lines(run(loss=loss, weight=1e4, lr=1e-3, steps=15), "step")
    assert steps[-1]["tsloss"] < steps[0]["tsloss"]
    assert steps[-1]["loss"] == pytest.approx(steps[-1]["ce"] + 1e4 * steps[-1]["tsloss"])


def test_the_l2_term_is_the_mean_squared_norm_of_the_tokens() -> None:
    points = torch.tensor([[3.0, 4.0], [0.0, 1.0]])
    assert MeanSquaredNorm()(points).item() == 13.0


def test_epochs_end_where_the_data_ends(run: Tuner) -> None:
    # 20 items in batches of 8: three steps an epoch, the last of 4 items.
    result = run(steps=8)
    assert [line["epoch"] for line in lines(result, "step")] == [1, 1, 1, 2, 2, 2, 3, 3]
    names = sorted(path.name for path in (result.folder / "prompts").iterdir())
    assert names == [f"soft_prompt_epoch_{epoch:03d}.pt" for epoch in (0, 1, 2)]


def test_a_diverging_run_stops_and_says_so(run: Tuner, monkeypatch: pytest.MonkeyPatch) -> None:
    from tsloss_fast.tuning.answers import AnswerLogits

    monkeypatch.setattr(
        AnswerLogits, "cross_entropy", lambda self: self.logits.float().sum() * math.nan
    )
    with pytest.raises(
        FloatingPointError, match=r"not finite at step 1: use a learning rate below 0.03"
    ):
        run()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"out": ""}, "out must name a folder, got ''"),
        ({"loss": "mse"}, "loss must be one of tsloss, surrogate, total, l2, ce"),
        ({"steps": 0}, "steps must be an integer of at least 1"),
        ({"batch_size": 2.5}, "batch_size must be an integer"),
        ({"lr": 0.0}, "lr must be a finite number above 0"),
        ({"lr": math.nan}, "lr must be"),
        ({"weight": -1.0}, "weight must be a finite number >= 0"),
        ({"weight_decay": math.inf}, "weight_decay must be"),
        ({"loss": "ce", "weight": 1.0}, "'ce' adds nothing"),
        ({"seed": -1}, "seed must be in 0"),
        ({"connectivity": -1.0}, "connectivity"),
        ({"loss": "surrogate", "loops": 1.0}, "loops"),
        ({"init": "random"}, "init must be one of vocabulary, text, normal, got 'random'"),
        ({"init": "text"}, "init 'text' needs a text in init_text, got None"),
        ({"init": "text", "init_text": " "}, "needs a text in init_text, got ' '"),
        ({"init_text": "a film"}, "init_text is only used by init 'text', but init is 'vocab"),
        ({"patience": 0, "validation_size": 5}, "patience must be an integer of at least 1, got 0"),
        ({"patience": 2}, "patience=2 needs validation items to stop by, but validation_size is 0"),
        ({"jitter": -0.1}, "jitter must be a finite number >= 0, got -0.1"),
        ({"device": "gpu"}, "a name that torch knows, such as cpu or cuda:0, got 'gpu'"),
        ({"device": ""}, "a name that torch knows, such as cpu or cuda:0, got ''"),
        ({"device": "cuda:99"}, "device must be one of this machine, got 'cuda:99': torch .*use"),
        ({"device": "mps:9"}, "device must be one of this machine, got 'mps:9'"),
        ({"device": "meta"}, "got 'meta': torch .* finds none of this kind"),
    ],
)
def test_bad_settings_are_refused_before_anything_is_made(
    settings: dict[str, Any], change: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        TuneConfig(**(settings | change))
    assert not Path(settings["out"]).exists()


def test_a_second_device_is_to_be_chosen_by_what_is_seen(
    settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    assert TuneConfig(**settings, device="cuda").device == "cuda"
    with pytest.raises(ValueError, match=r"got 'cuda:2': .*CUDA_VISIBLE_DEVICES=2"):
        TuneConfig(**settings, device="cuda:2")


def test_a_missing_gudhi_is_said_before_anything_is_made(
    settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ModuleNotFoundError, match=r"loops=1.0 needs GUDHI.*install"):
        TuneConfig(**settings, loops=1.0)


def test_an_item_longer_than_the_model_reads_is_refused_before_the_first_step(
    run: Tuner, settings: dict[str, Any], tiny_model: Any, tmp_path: Path
) -> None:
    path = tmp_path / "task.jsonl"
    short = [{"question": f"w{i} is", "answer": "yes"} for i in range(29)]
    long = {"question": "word " * 100, "answer": "no no"}
    path.write_text("\n".join(map(json.dumps, [*short, long])))
    # 6 virtual tokens, 100 of the question, and the first of the answer.
    tiny_model.config.max_position_embeddings = 106
    with pytest.raises(
        ValueError,
        match=r"1 of 30 items do not fit into the 106 positions .*'word word .*' -> 'no no', "
        r"needs 107: 6 virtual tokens, 100 of the question and 2 of the answer.*fewer virtual",
    ):
        run(task=str(path), steps=1)
    assert not Path(settings["out"]).exists()
    tiny_model.config.max_position_embeddings = 107
    assert run(task=str(path), steps=1).final["step"] == 1


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (lambda model: setattr(model.config, "is_encoder_decoder", True), "an encoder-decoder"),
        (lambda model: model.to("meta"), "is offloaded or not loaded"),
    ],
)
def test_a_model_that_cannot_be_tuned_is_refused_before_the_first_step(
    run: Tuner, settings: dict[str, Any], tiny_model: Any, fault: Any, message: str
) -> None:
    fault(tiny_model)
    with pytest.raises(ValueError, match=message):
        run()
    assert not Path(settings["out"]).exists()


def test_a_state_space_model_is_tuned(settings: dict[str, Any], tiny_tokenizer: Any) -> None:
    sizes = {"vocab_size": 128, "hidden_size": 16, "num_hidden_layers": 1, "state_size": 4}
    model = MambaForCausalLM(MambaConfig(**sizes))
    config = TuneConfig(**settings | {"steps": 2})
    assert tune(config, load=lambda: (model, tiny_tokenizer)).final["step"] == 2


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"nope": "1"}, "TrainingArguments has no field 'nope'"),
        ({"max_steps": "3"}, "'max_steps' is decided by the other settings of tune"),
        ({"bf16": "perhaps"}, "bf16"),
        ({"eval_on_start": "true"}, "'eval_on_start' is decided"),
        ({"save_only_model": "true"}, "'save_only_model' is decided"),
        ({"logging_strategy": "no"}, "'logging_strategy' is decided"),
        ({"report_to": "tensorbord"}, "tensorbord is not supported"),
    ],
)
def test_fields_of_the_trainer_that_cannot_be_used_are_refused_first(
    run: Tuner, settings: dict[str, Any], fields: dict[str, str], message: str
) -> None:
    with pytest.raises(ValueError, match=f"trainer: .*{message}"):
        run(trainer=fields)
    assert not Path(settings["out"]).exists()


def test_accumulation_takes_the_items_of_a_larger_batch(run: Tuner, tmp_path: Path) -> None:
    # 16 items: each step has all of them, whichever way they are cut. The answers have one token.
    sizes = {"train_size": 16, "steps": 6, "lr": 0.01}
    whole = run(**sizes, batch_size=16)
    cut = run(
        **sizes,
        batch_size=4,
        trainer={"gradient_accumulation_steps": "4"},
        out=str(tmp_path / "cut"),
    )
    torch.testing.assert_close(cut.prompt, whole.prompt, rtol=1e-3, atol=1e-4)
    for one, other in zip(lines(whole, "step"), lines(cut, "step"), strict=True):
        assert other["ce"] == pytest.approx(one["ce"], rel=1e-4)
        assert other["tsloss"] == pytest.approx(one["tsloss"], rel=1e-3, abs=1e-5)
        assert other["loss"] == pytest.approx(one["loss"], rel=1e-3)


def test_the_trainer_reports_to_tensorboard(run: Tuner) -> None:
    pytest.importorskip("tensorboard", reason="needs the extra test")
    result = run(trainer={"report_to": "tensorboard"})
    assert list(result.folder.rglob("*tfevents*"))


PATIENCE = {
    **{"steps": 40, "lr": 0.3, "compactness": 1.0, "patience": 1, "eval_every": 3},
    **{"test_size": 6, "validation_size": 6},
}


def test_patience_ends_a_run_that_no_longer_improves(run: Tuner) -> None:
    seen: list[Any] = []
    result = run(progress=seen.append, **PATIENCE)
    step = result.final["step"]
    assert 3 < step < 40
    assert seen[-1] == {"kind": "end", "step": step}
    values = [line["validation_ce"] for line in lines(result, "eval")[1:]]
    assert values[-1] > min(values[:-1])
    assert values[:-1] == sorted(values[:-1], reverse=True)
    again = run(**PATIENCE)
    assert (again.resumed_from, again.final) == (step, result.final)
    # A longer run would have stopped there as well.
    longer = run(**PATIENCE | {"steps": 60})
    assert (longer.resumed_from, longer.final) == (step, result.final)


class Killed(Exception):
    """Raised in place of a kill."""


@pytest.mark.parametrize("kind", ["step", "eval", "end"])
def test_a_stop_by_patience_is_kept_whenever_the_run_is_stopped_and_started(
    run: Tuner, tmp_path: Path, kind: str
) -> None:
    whole = run(**PATIENCE, out=str(tmp_path / "whole"))
    step = whole.final["step"]

    def kill(record: Any) -> None:
        if record["kind"] == kind and record["step"] == (1 if kind == "step" else step):
            raise Killed

    def interrupt(record: Any) -> None:
        if record["kind"] == "eval" and record["step"] == step:
            os.kill(os.getpid(), signal.SIGINT)

    with contextlib.suppress(Killed):
        run(progress=kill, **PATIENCE)
    with contextlib.suppress(TuningInterrupted):
        run(progress=interrupt, **PATIENCE)
    again = run(**PATIENCE)
    assert torch.equal(again.prompt, whole.prompt)
    assert (again.folder / "checkpoints" / f"checkpoint-{step}").is_dir()
    assert [line["step"] for line in lines(again, "step")] == list(range(1, step + 1))


def test_what_the_trainer_refuses_leaves_nothing_behind(
    run: Tuner, settings: dict[str, Any]
) -> None:
    for fields, error in (
        ({"gradient_accumulation_steps": "0"}, Exception),
        ({"train_sampling_strategy": "group_by_length"}, Exception),
        ({"dataloader_drop_last": "true"}, ValueError),
    ):
        with pytest.raises(error):
            run(trainer=fields, batch_size=64)
        assert not Path(settings["out"]).exists(), fields
    assert run().final["step"] == 12


def test_the_default_weight_depends_on_the_loss(settings: dict[str, Any]) -> None:
    for loss, weight in DEFAULT_WEIGHTS.items():
        assert TuneConfig(**settings, loss=loss).weight == weight


def test_a_mistyped_model_does_not_claim_the_folder(settings: dict[str, Any], run: Tuner) -> None:
    def fail() -> tuple[Any, Any]:
        raise RuntimeError("no such model")

    with pytest.raises(RuntimeError, match="no such model"):
        tune(TuneConfig(**(settings | {"model": "tyni"})), load=fail)
    assert not Path(settings["out"]).exists()
    assert run().final["step"] == 12


def test_the_configuration_is_written_in_full(run: Tuner) -> None:
    written = json.loads((run(lr=0.01).folder / "config.json").read_text())
    assert written["config"]["lr"] == 0.01
    assert written["config"]["weight"] == 10.0
    assert "out" not in written["config"]
    assert written["made_with"]["torch"] == torch.__version__


def test_a_jsonl_task_with_long_answers_is_tuned(run: Tuner, tmp_path: Path) -> None:
    path = tmp_path / "sums.jsonl"
    items = [{"question": f"{a} {b} ?", "answer": f"{b} {a} ."} for a in range(6) for b in range(6)]
    path.write_text("\n".join(map(json.dumps, items)))
    result = run(task=str(path), steps=30)
    assert result.final["ce"] < lines(result, "eval")[0]["ce"]
