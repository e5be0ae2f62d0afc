"""Cohorts: each run is the run it would be alone, of the loss it is named after."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_llama import NEEDS

pytest.importorskip("transformers", reason=NEEDS)
pytest.importorskip("peft", reason=NEEDS)

from tsloss_fast import h0_persistence
from tsloss_fast.compare import cohort as cohort_module
from tsloss_fast.compare.cohort import Cohort, CohortInterrupted
from tsloss_fast.compare.design import Design, trial_key
from tsloss_fast.tuning import add_soft_prompt, initial_prompt, load_task
from tsloss_fast.tuning.answers import answer_logits, encode_items
from tsloss_fast.tuning.evaluation import evaluate

TASK = {
    "task": "boolean",
    "train_size": 20,
    "validation_size": 12,
    "test_size": 16,
    "curve_size": 10,
    "steps": 6,
    "eval_every": 3,
}


def trials(
    methods: list[Any], stage: str = "final", lr: float = 0.03, **changes: Any
) -> list[dict[str, Any]]:
    """One trial a method, at its scale."""
    design = Design.from_mapping(
        {
            "name": "t",
            "tasks": [TASK | changes.pop("task", {})],
            "methods": methods,
            "virtual_tokens": [6],
            "search": {"trials": 1, "weights": 1, "seeds": [0], "lr": [lr, lr], "weight": [1, 1]},
            "seeds": [3],
            **changes,
        }
    )
    (group,) = design.groups()
    if stage == "search":
        return design.search_trials(group)
    chosen = {m.name: (lr, 0.0 if m.adds_nothing else m.scale) for m in design.methods}
    return design.final_trials(group, chosen, 0)


def train(wanted: list[dict[str, Any]], tiny: Any, tmp_path: Path, **options: Any) -> Any:
    return Cohort(wanted, tiny, tmp_path / "state.pt", **options).finish()


def timeless(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{k: v for k, v in record.items() if k != "seconds"} for record in records]


def test_a_run_is_the_same_alone_and_among_others(tiny: Any, tmp_path: Path) -> None:
    wanted = trials(["ce", "l2", "pairwise", "hofer", "surrogate", "tsloss"])
    together = train(wanted, tiny, tmp_path)
    assert [record["trial"]["method"] for record in together] == [t["method"] for t in wanted]
    for record, trial in zip(together, wanted, strict=True):
        (alone,) = train([trial], tiny, tmp_path)
        assert record["cohort"] == 6
        assert alone["cohort"] == 1
        changed = {"cohort": 1}
        assert timeless([record | changed]) == timeless([alone])


def test_all_begin_alike_and_then_differ(tiny: Any, tmp_path: Path) -> None:
    records = train(
        trials(["ce", "l2", "pairwise", "hofer", "surrogate", "tsloss"]), tiny, tmp_path
    )
    assert len({record["train_ce"][0] for record in records}) == 1
    assert len({str(record["curve"][0]) for record in records}) == 1
    assert len({record["train_ce"][-1] for record in records}) == 6
    assert len({record["task_digest"] for record in records}) == 1


@pytest.mark.parametrize(
    ("method", "lr_schedule"),
    [("ce", "linear"), ("tsloss", "constant"), ("tsloss-decay", "linear"), ("l2", "constant")],
)
def test_training_is_that_of_pefts_model_by_hand(
    method: str, lr_schedule: str, tiny: Any, tmp_path: Path
) -> None:
    """The same steps with peft's forward pass and one AdamW, from the task's items."""
    (trial,) = trials([method], lr_schedule=lr_schedule)
    (record,) = train([trial], tiny, tmp_path)
    task = load_task(
        "boolean", train_size=20, test_size=16, validation_size=12, seed=0, split="by_item"
    )
    items = encode_items(task.train, tiny.tokenizer)
    initial = initial_prompt(tiny.base, tiny.tokenizer, 6)
    model = add_soft_prompt(tiny.base, initial).eval()
    prompt = next(p for p in model.parameters() if p.requires_grad)
    optimizer = torch.optim.AdamW([prompt], lr=0.03, weight_decay=0.0)
    from tsloss_fast.tuning.run import epoch_order

    losses = []
    for step in range(1, 7):
        epoch, index = divmod(step - 1, 3)
        batch = [items[i] for i in epoch_order(0, epoch, 20)[8 * index : 8 * index + 8]]
        ce = answer_logits(model, batch).cross_entropy()
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
    test = encode_items(task.test, tiny.tokenizer)
    answers = (*task.train, *task.validation, *task.test)
    choices = sorted({item.answer[0] for item in encode_items(answers, tiny.tokenizer)})
    for found, wanted in ((record["end"], test), (record["curve"][-1], test[:10])):
        expected = evaluate(model, wanted, choices)
        assert found["accuracy"] == pytest.approx(expected.accuracy)
        assert found["restricted_accuracy"] == pytest.approx(expected.restricted_accuracy)
        assert found["ce"] == pytest.approx(expected.ce, rel=1e-4)
    bare = evaluate(tiny.base, test, choices)
    assert record["reference"]["zero_shot_accuracy"] == pytest.approx(bare.accuracy)
    assert record["reference"]["zero_shot_ce"] == pytest.approx(bare.ce, rel=1e-5)
    assert record["reference"]["majority_rate"] == task.majority_rate
    deaths = h0_persistence(prompt.detach()).deaths
    assert record["curve"][-1]["mean_death"] == pytest.approx(deaths.mean().item(), rel=1e-4)


def test_curves_stand_at_the_start_at_intervals_and_at_the_end(tiny: Any, tmp_path: Path) -> None:
    (record,) = train(trials(["ce"], task={"steps": 7}), tiny, tmp_path)
    assert [point["step"] for point in record["curve"]] == [0, 3, 6, 7]
    assert len(record["train_ce"]) == 7
    assert record["end"]["items"] == 16
    assert (record["curve"][-1]["accuracy"] * 10) % 1 == pytest.approx(0, abs=1e-9)
    assert record["split"] == "test"
    assert record["forward"] == "packed"


def test_a_search_never_looks_at_a_test_item(
    tiny: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = trials(["ce", "tsloss"], stage="search")
    expected = train(wanted, tiny, tmp_path)
    assert {record["split"] for record in expected} == {"validation"}
    assert [point["step"] for point in expected[0]["curve"]] == list(range(7))
    assert expected[0]["end"]["items"] == 12

    def other_test(*args: Any, **kwargs: Any) -> Any:
        task = load_task(*args, **kwargs)
        return dataclasses.replace(task, test=tuple(reversed(task.train[:16])))

    monkeypatch.setattr(cohort_module, "load_task", other_test)
    found = train(wanted, tiny, tmp_path)
    for record in (*found, *expected):
        del record["task_digest"]
    assert timeless(found) == timeless(expected)


@pytest.mark.parametrize("stop", [1, 3, 5])
def test_a_stopped_cohort_ends_as_one_that_was_not(stop: int, tiny: Any, tmp_path: Path) -> None:
    wanted = trials(["ce", "tsloss", "tsloss-compact"])
    expected = train(wanted, tiny, tmp_path)
    steps: list[int] = []

    def interrupted() -> bool:
        return len(steps) >= stop

    one = Cohort(wanted, tiny, tmp_path / "state.pt", interrupted=interrupted)
    advance = one._advance
    one._advance = lambda: (steps.append(1), advance())[1]  # type: ignore[method-assign, func-returns-value]
    with pytest.raises(CohortInterrupted):
        one.finish()
    assert (tmp_path / "state.pt").exists()
    two = Cohort(wanted, tiny, tmp_path / "state.pt")
    assert timeless(two.finish()) == timeless(expected)
    assert two.model_seconds > 0


def test_a_cohort_asked_to_stop_when_only_its_end_is_left_ends(tiny: Any, tmp_path: Path) -> None:
    """Or the question would be answered to nobody, and whoever asked would wait for ever."""
    asked: list[int] = []
    one = Cohort(
        trials(["ce"], task={"steps": 4}),
        tiny,
        tmp_path / "state.pt",
        interrupted=lambda: bool(asked.append(one.step)),
    )
    (record,) = one.finish()
    assert asked == [1, 2, 3]
    assert record["curve"][-1]["step"] == 4


def test_a_state_of_other_runs_or_a_damaged_one_is_refused(tiny: Any, tmp_path: Path) -> None:
    def stop_now() -> bool:
        return True

    with pytest.raises(CohortInterrupted):
        train(trials(["ce"]), tiny, tmp_path, interrupted=stop_now)
    with pytest.raises(RuntimeError, match=r"state\.pt cannot be read .*other runs.*: delete it"):
        train(trials(["l2"]), tiny, tmp_path)
    (tmp_path / "state.pt").write_bytes(b"PK")
    with pytest.raises(RuntimeError, match=r"state\.pt cannot be read"):
        train(trials(["ce"]), tiny, tmp_path)


def test_a_run_that_diverges_stays_where_it_was_and_harms_no_other(
    tiny: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = trials(["ce", "tsloss"], task={"steps": 6, "eval_every": 2})
    (expected,) = train(wanted[:1], tiny, tmp_path)
    original, calls = tiny.answers, []

    def answers(prompts: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        found = original(prompts, *args, **kwargs)
        if torch.is_grad_enabled():
            calls.append(1)
            if len(calls) == 4:
                # The second run alone has an infinite loss, once.
                factor = torch.ones(len(prompts), 1, 1)
                factor[1] = math.inf
                return dataclasses.replace(found, logits=found.logits * factor)
        return found

    monkeypatch.setattr(tiny, "answers", answers)
    good, bad = train(wanted, tiny, tmp_path)
    assert timeless([good | {"cohort": 1}]) == timeless([expected])
    assert good["diverged"] is None
    assert bad["diverged"] == 4
    assert len(bad["train_ce"]) == 3
    by_step = {point["step"]: point for point in bad["curve"]}
    # At step 3 it was last moved: nothing changes after that.
    assert by_step[4] | {"step": 6} == by_step[6]
    assert by_step[4] != by_step[2] | {"step": 4}
    assert all(math.isfinite(point["ce"]) for point in bad["curve"])


def test_a_term_on_hidden_states_pulls_the_prompt_through_the_model(
    tiny: Any, tmp_path: Path
) -> None:
    """Adam's first step is lr·sign(gradient), computed here from the model's own hidden states."""
    wanted = trials(["ce", "tsloss-hidden"], task={"steps": 1})
    one = Cohort(wanted, tiny, tmp_path / "state.pt")
    start = one.parameters[0].detach().clone()
    one.finish()
    from tsloss_fast import TSLoss
    from tsloss_fast.tuning.run import epoch_order

    batch = [one.train[i] for i in epoch_order(0, 0, 20)[:8]]
    model = add_soft_prompt(tiny.base, start).eval()
    prompt = next(p for p in model.parameters() if p.requires_grad)
    ce = answer_logits(model, batch).cross_entropy()
    states = tiny.base(inputs_embeds=prompt[None], output_hidden_states=True).hidden_states[1:]
    (gradient,) = torch.autograd.grad(ce + 10 * TSLoss()(torch.cat(states)), prompt)
    clear = gradient.abs() > 1e-3 * gradient.abs().max()
    step = one.parameters[1].detach() - start
    torch.testing.assert_close(
        step[clear], -0.03 * gradient.sign()[clear], rtol=1e-3, atol=1e-6, check_stride=False
    )
    assert not torch.equal(one.parameters[0], one.parameters[1])


def test_prefixes_are_trained_as_clouds_of_every_layer(tiny: Any, tmp_path: Path) -> None:
    wanted = trials(["ce", "tsloss"], adapters=["prefix"], lr=0.1)
    one = Cohort(wanted, tiny, tmp_path / "state.pt")
    assert one.parameters[0].shape == (4, 6, 16)
    control, tuned = one.finish()
    assert control["train_ce"][-1] < control["train_ce"][0]
    name = "coefficient_of_variation"
    assert tuned["curve"][-1][name] < control["curve"][-1][name]
    deaths = h0_persistence(one.parameters[1].detach()).deaths
    spread = (deaths.std(-1, correction=0) / deaths.mean(-1)).mean().item()
    assert tuned["curve"][-1][name] == pytest.approx(spread, rel=1e-4)
    # The prompt that the prefix was made of gives the same first loss.
    (as_prompt,) = train(trials(["ce"]), tiny, tmp_path)
    assert control["train_ce"][0] == pytest.approx(as_prompt["train_ce"][0], rel=1e-5)


def test_a_model_that_cannot_be_packed_is_run_padded(tiny: Any, tmp_path: Path) -> None:
    expected = train(trials(["ce", "tsloss"]), tiny, tmp_path)
    tiny.packed = {("prompt", 6): False}
    found = train(trials(["ce", "tsloss"]), tiny, tmp_path)
    for one, other in zip(found, expected, strict=True):
        assert one["forward"] == "padded"
        assert one["train_ce"] == pytest.approx(other["train_ce"], rel=1e-4)
        assert one["end"]["ce"] == pytest.approx(other["end"]["ce"], rel=1e-4)
    with pytest.raises(ValueError, match="leave out the methods that act on them"):
        train(trials(["ce", "tsloss-hidden"]), tiny, tmp_path)


def test_the_time_of_a_term_is_counted_where_it_can_be(tiny: Any, tmp_path: Path) -> None:
    control, tuned, hidden = train(trials(["ce", "tsloss", "tsloss-hidden"]), tiny, tmp_path)
    assert control["seconds"]["term"] == 0
    assert 0 < tuned["seconds"]["term"] < tuned["seconds"]["step"]
    assert hidden["seconds"]["term"] is None


def test_trials_that_do_not_belong_together_are_refused(tiny: Any, tmp_path: Path) -> None:
    one, two = trials(["ce", "tsloss"])
    two["seed"] = 1
    with pytest.raises(ValueError, match="may differ in method, lr and weight only"):
        Cohort([one, two], tiny, tmp_path / "state.pt")
    assert trial_key(one) != trial_key(two)
