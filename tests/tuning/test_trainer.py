"""The term in a trainer: the same gradient whatever the batching, and no trace in evaluation."""

from __future__ import annotations

import pytest
import torch
from peft_models import N, make_peft
from tiny_llama import NEEDS, make_tiny_model

pytest.importorskip("transformers", reason=NEEDS)
pytest.importorskip("peft", reason=NEEDS)

import peft
from trained import WEIGHT, Gradients, arguments, expected_gradient, sentences, soft_prompt
from transformers import Trainer

from tsloss_fast import TSLoss
from tsloss_fast.tuning import TSLossMixin, TSLossTrainer, prompt_clouds


def step_gradients(folder, weight, cls=TSLossTrainer, items=True, options=None, **changes):
    kept = Gradients()
    trainer = cls(
        model=soft_prompt(),
        args=arguments(folder, **changes),
        train_dataset=sentences(),
        callbacks=[kept],
        ts_weight=weight,
        **(options or {}),
    )
    if not items:
        trainer.model_accepts_loss_kwargs = False
    trainer.train()
    return kept.steps


class Undivided(TSLossTrainer):
    loss_is_scaled_for_ga = True


class Divided(TSLossTrainer):
    loss_is_scaled_for_ga = False


def mean_of_logits(outputs, labels, num_items_in_batch=None):
    return outputs.logits.square().mean()


@pytest.mark.parametrize(
    "way",
    [
        {},
        {"items": False},
        {"options": {"compute_loss_func": mean_of_logits}},
        {"options": {"compute_loss_func": mean_of_logits}, "items": False},
        {"cls": Undivided},
        {"cls": Divided},
        {"cls": Divided, "items": False},
        {"average_tokens_across_devices": False},
    ],
    ids=[
        "items",
        "no_items",
        "loss_func",
        "loss_func_no_items",
        "scaled",
        "unscaled",
        "unscaled_no_items",
        "no_average",
    ],
)
@pytest.mark.parametrize(
    ("accumulation", "batch", "steps"),
    # 16 rows: 16 = 1 × 16 = 4 × 4; and five batches of 3 (or 1) rows in groups of 4 and 1 or 2.
    [(1, 16, 1), (4, 4, 1), (4, 3, 2)],
    ids=["whole", "four", "partial_last_group"],
)
def test_the_gradient_of_the_term_is_the_same_for_every_accumulation(
    accumulation, batch, steps, way, tmp_path
):
    settings = {
        "gradient_accumulation_steps": accumulation,
        "per_device_train_batch_size": batch,
        "max_steps": steps,
        **way,
    }
    with_term = step_gradients(tmp_path, WEIGHT, **settings)
    without = step_gradients(tmp_path, 0.0, **settings)
    assert len(with_term) == steps
    for a, b in zip(with_term, without, strict=True):
        torch.testing.assert_close(a - b, expected_gradient(), rtol=1e-4, atol=1e-5)


def test_the_whole_gradient_does_not_depend_on_the_accumulation(tmp_path):
    def whole(accumulation: int, batch: int) -> torch.Tensor:
        settings = {"per_device_train_batch_size": batch, "max_steps": 1}
        settings["gradient_accumulation_steps"] = accumulation
        return step_gradients(tmp_path, WEIGHT, **settings)[0]

    torch.testing.assert_close(whole(4, 4), whole(1, 16), rtol=1e-4, atol=1e-5)


def test_evaluation_is_that_of_the_plain_trainer(tmp_path):
    settings = {"args": arguments(tmp_path), "eval_dataset": sentences()}
    plain = Trainer(model=soft_prompt(), **settings).evaluate()
    ours = TSLossTrainer(model=soft_prompt(), **settings, ts_weight=1e3).evaluate()
    assert ours["eval_loss"] == plain["eval_loss"]
    assert not [key for key in ours if "tsloss" in key]


def test_a_prediction_with_outputs_is_left_alone(tmp_path):
    settings = {"args": arguments(tmp_path)}
    plain = Trainer(model=soft_prompt(), **settings).predict(sentences())
    ours = TSLossTrainer(model=soft_prompt(), **settings).predict(sentences())
    assert (ours.predictions == plain.predictions).all()
    assert ours.metrics["test_loss"] == plain.metrics["test_loss"]


def test_the_training_loss_is_the_task_s_plus_the_weighted_term(tmp_path):
    def losses(weight: float, **settings) -> list[dict[str, float]]:
        trainer = TSLossTrainer(
            model=soft_prompt(),
            args=arguments(tmp_path, **settings),
            train_dataset=sentences(),
            ts_weight=weight,
        )
        trainer.train()
        return [entry for entry in trainer.state.log_history if "loss" in entry]

    for settings in ({}, {"gradient_accumulation_steps": 2, "logging_steps": 2}):
        for ours, plain in zip(losses(WEIGHT, **settings), losses(0.0, **settings), strict=True):
            assert ours["loss"] - WEIGHT * ours["tsloss/total"] == pytest.approx(
                plain["loss"], abs=1e-4
            )


def test_a_weight_of_zero_measures_and_does_not_train(tmp_path):
    def run(cls, **options):
        model = soft_prompt()
        args = arguments(tmp_path, learning_rate=0.1, max_steps=3)
        trainer = cls(model=model, args=args, train_dataset=sentences(), **options)
        trainer.train()
        return prompt_clouds(model), trainer.state.log_history

    class Spy(TSLoss):
        def forward(self, points, *args, **kwargs):
            assert not torch.is_grad_enabled(), "a control pays for no backward pass of the term"
            return super().forward(points, *args, **kwargs)

    plain, _ = run(Trainer)
    control, history = run(TSLossTrainer, ts_weight=0, ts_loss=Spy())
    assert torch.equal(control, plain)
    assert history[0]["tsloss/total"] > 0
    trained, _ = run(TSLossTrainer)
    assert not torch.equal(trained, plain)


def test_the_model_s_outputs_are_only_asked_for_when_somebody_wants_them(tmp_path):
    asked: list[bool] = []

    class Spy(Trainer):
        def compute_loss(self, *args, return_outputs=False, **kwargs):
            asked.append(return_outputs)
            return super().compute_loss(*args, return_outputs=return_outputs, **kwargs)

    class Ours(TSLossMixin, Spy):
        pass

    args = arguments(tmp_path)
    trainer = Ours(model=soft_prompt(), args=args, train_dataset=sentences())
    trainer.train()
    assert asked == [False, False]
    trainer.model.train()
    batch = {name: value[None] for name, value in sentences(1)[0].items()}
    loss, outputs = trainer.compute_loss(trainer.model, dict(batch), return_outputs=True)
    assert outputs.logits.shape[:2] == (1, 8 + N)
    assert loss == trainer.compute_loss(trainer.model, dict(batch))


def test_the_term_is_never_part_of_the_model_s_own_loss(tmp_path):
    trainer = TSLossTrainer(
        model=soft_prompt(), args=arguments(tmp_path), train_dataset=sentences(), ts_weight=1e3
    )
    batch = {name: value[None] for name, value in sentences(1)[0].items()}
    expected = soft_prompt().train()(**batch).loss
    assert torch.equal(trainer.model.train()(**batch).loss, expected)


@pytest.mark.parametrize("method", ["prompt", "p_mlp"])
def test_under_bf16_the_term_is_that_of_float32(method, tmp_path):
    seen: list[torch.Tensor] = []

    class Spy(TSLoss):
        def forward(self, points, *args, **kwargs):
            assert not torch.is_autocast_enabled("cpu")
            seen.append(points.detach().clone())
            return super().forward(points, *args, **kwargs)

    model = make_peft(method)
    expected = prompt_clouds(model).detach()
    args = arguments(tmp_path, bf16=True, max_steps=1)
    trainer = TSLossTrainer(model=model, args=args, train_dataset=sentences(), ts_loss=Spy())
    trainer.train()
    # The trainer calls compute_loss outside autocast; one who subclasses it may not.
    batch = {name: value[None] for name, value in sentences(1)[0].items()}
    with torch.autocast("cpu", dtype=torch.bfloat16):
        trainer.compute_loss(trainer.model.train(), batch)
    assert len(seen) == 2
    assert seen[0].dtype == torch.float32
    assert torch.equal(seen[0], expected)
    assert trainer.state.log_history[0]["tsloss/total"] == pytest.approx(float(TSLoss()(expected)))


def test_the_caller_may_say_where_the_points_are(tmp_path):
    lora = peft.LoraConfig(task_type="CAUSAL_LM", r=N)
    model = peft.get_peft_model(make_tiny_model(), lora)
    calls: list[type] = []

    def points(module):
        calls.append(type(module))
        layer = module.get_base_model().model.layers[0].self_attn.q_proj
        return layer.lora_A["default"].weight

    args = arguments(tmp_path)
    trainer = TSLossTrainer(model=model, args=args, train_dataset=sentences(), ts_clouds=points)
    trainer.train()
    assert calls == [type(model)] * 2, "the function is given the bare model, once per step"
    expected = float(TSLoss()(points(model)).detach())
    assert trainer.state.log_history[0]["tsloss/total"] == pytest.approx(expected)
