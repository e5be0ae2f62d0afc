"""What a cohort trains is what the model and the losses give by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_llama import NEEDS

pytest.importorskip("transformers", reason=NEEDS)
pytest.importorskip("peft", reason=NEEDS)

from tiny_cohorts import train, trials

from tsloss_fast import TSLoss, h0_persistence
from tsloss_fast.compare.cohort import Cohort
from tsloss_fast.tuning import add_soft_prompt, initial_prompt, load_task
from tsloss_fast.tuning.answers import answer_logits, encode_items
from tsloss_fast.tuning.evaluation import Choices, evaluate
from tsloss_fast.tuning.run import epoch_order


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
    choices = Choices(item.answer for item in encode_items(answers, tiny.tokenizer))
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


def test_a_term_on_hidden_states_pulls_the_prompt_through_the_model(
    tiny: Any, tmp_path: Path
) -> None:
    """Adam's first step is lr·sign(gradient), computed here from the model's own hidden states."""
    wanted = trials(["ce", "tsloss-hidden"], task={"steps": 1})
    one = Cohort(wanted, tiny, tmp_path / "state.pt")
    start = one.parameters[0].detach().clone()
    one.finish()
    batch = [one.items.train[i] for i in epoch_order(0, 0, 20)[:8]]
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
