"""The term in a trainer: the same gradient whatever the batching, and no trace in evaluation."""

from __future__ import annotations

import importlib
import shutil
import sys
from pathlib import Path

import pytest
import torch
from test_prompts import CONFIGS, DIM, N, make_peft, trainable
from tiny_llama import NEEDS, make_tiny_model

pytest.importorskip("transformers", reason=NEEDS)
pytest.importorskip("peft", reason=NEEDS)

import peft
from transformers import Trainer, TrainerCallback, TrainingArguments

from tsloss_fast import TSLoss
from tsloss_fast.tuning import TSLossMixin, TSLossTrainer, add_soft_prompt, prompt_clouds

WEIGHT = 10.0


def initial() -> torch.Tensor:
    return torch.randn(N, DIM, generator=torch.Generator().manual_seed(5))


def soft_prompt():
    return add_soft_prompt(make_tiny_model(), initial())


def sentences(count: int = 16) -> list[dict[str, torch.Tensor]]:
    """Token rows with a different number of labels each, as real batches have."""
    generator = torch.Generator().manual_seed(0)
    rows = torch.randint(4, 120, (count, 8), generator=generator)
    data = []
    for i, row in enumerate(rows):
        labels = row.clone()
        labels[: i % 5] = -100
        data.append({"input_ids": row, "attention_mask": torch.ones_like(row), "labels": labels})
    return data


def arguments(folder: Path, **changes) -> TrainingArguments:
    settings = {
        "output_dir": str(folder),
        "use_cpu": True,
        "report_to": [],
        "disable_tqdm": True,
        "save_strategy": "no",
        "per_device_train_batch_size": 4,
        "max_steps": 2,
        "learning_rate": 0.0,
        "lr_scheduler_type": "constant",
        "weight_decay": 0.0,
        "max_grad_norm": 0.0,
        "logging_steps": 1,
    }
    return TrainingArguments(**{**settings, **changes})


class Gradients(TrainerCallback):
    """Keeps the gradient of the prompt as it is at each step of the optimizer."""

    def __init__(self) -> None:
        self.steps: list[torch.Tensor] = []

    def on_pre_optimizer_step(self, args, state, control, model=None, **kwargs):
        (parameter,) = trainable(model).values()
        self.steps.append(parameter.grad.clone())


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


def expected_gradient() -> torch.Tensor:
    points = initial().requires_grad_()
    (WEIGHT * TSLoss()(points)).backward()
    return points.grad


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


class Prompts(TrainerCallback):
    """Keeps the prompt as it is at the beginning of each step."""

    def __init__(self) -> None:
        self.steps: list[torch.Tensor] = []

    def on_step_begin(self, args, state, control, model=None, **kwargs):
        self.steps.append(prompt_clouds(model).detach().clone())


@pytest.mark.parametrize("accumulation", [1, 3])
def test_the_log_holds_the_mean_of_each_term_since_the_last_log(accumulation, tmp_path):
    kept = Prompts()
    loss = TSLoss(connectivity=1.0, redundancy=2.0, compactness=0.5, reference=3.0)
    trainer = TSLossTrainer(
        model=soft_prompt(),
        args=arguments(
            tmp_path,
            learning_rate=0.1,
            max_steps=7,
            logging_steps=3,
            gradient_accumulation_steps=accumulation,
            eval_strategy="steps",
            eval_steps=2,
        ),
        train_dataset=sentences(),
        eval_dataset=sentences(4),
        callbacks=[kept],
        ts_loss=loss,
    )
    trainer.train()
    values = [loss(points, return_terms=True) for points in kept.steps]
    steps = {"tsloss/total": [float(total) for total, _ in values]}
    for name in ("connectivity", "redundancy", "compactness"):
        steps[f"tsloss/{name}"] = [float(terms[name]) for _, terms in values]
    assert steps["tsloss/total"][0] != pytest.approx(steps["tsloss/total"][-1], rel=1e-3)

    history = trainer.state.log_history
    evaluations = [entry for entry in history if "eval_loss" in entry]
    trainings = [entry for entry in history if "eval_loss" not in entry]
    assert len(evaluations) >= 3
    assert not [key for entry in evaluations for key in entry if "tsloss" in key]
    # Steps 1-3, 4-6, and the seventh with the summary of the run.
    assert ["loss" in entry for entry in trainings] == [True, True, False]
    for entry, window in zip(trainings, (slice(0, 3), slice(3, 6), slice(6, 7)), strict=True):
        for name, series in steps.items():
            part = series[window]
            assert entry[name] == pytest.approx(sum(part) / len(part), rel=1e-4), name


def test_the_terms_reach_tensorboard(tmp_path, monkeypatch):
    pytest.importorskip("tensorboard", reason="tensorboard is not installed (extra test)")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", str(tmp_path / "events"))
    trainer = TSLossTrainer(
        model=soft_prompt(),
        args=arguments(tmp_path, report_to=["tensorboard"]),
        train_dataset=sentences(),
    )
    trainer.train()
    events = EventAccumulator(str(next((tmp_path / "events").rglob("events.*")).parent)).Reload()
    for name in ("total", "connectivity", "redundancy"):
        scalars = events.Scalars(f"train/tsloss/{name}")
        assert [event.step for event in scalars] == [1, 2]
        assert scalars[0].value == pytest.approx(trainer.state.log_history[0][f"tsloss/{name}"])


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


@pytest.mark.parametrize("method", ["prompt", *sorted(set(CONFIGS) - {"prompt", "multitask"})])
def test_every_method_trains_and_resumes_as_if_never_stopped(method, tmp_path):
    def run(folder: Path, resume: bool = False):
        model = make_peft(method)
        trainer = TSLossTrainer(
            model=model,
            args=arguments(
                folder, learning_rate=0.05, max_steps=6, save_strategy="steps", save_steps=3
            ),
            train_dataset=sentences(),
            ts_loss=TSLoss(compactness=1.0),
        )
        trainer.train(resume_from_checkpoint=str(folder / "checkpoint-3") if resume else None)
        return trainable(model), trainer

    straight, trainer = run(tmp_path)
    start = trainable(make_peft(method))
    moved = [n for n, p in straight.items() if not torch.equal(p, start[n])]
    assert moved, "nothing was trained"
    shutil.rmtree(tmp_path / "checkpoint-6")
    resumed, resumed_trainer = run(tmp_path, resume=True)
    for name, parameter in straight.items():
        assert torch.equal(resumed[name], parameter), name
    assert torch.equal(resumed_trainer.ts_loss.m_ref, trainer.ts_loss.m_ref)


def test_without_the_encoder_s_file_p_tuning_would_resume_from_another_encoder(tmp_path):
    def run(resume):
        model = make_peft("p_mlp")
        args = arguments(
            tmp_path, learning_rate=0.05, max_steps=4, save_strategy="steps", save_steps=2
        )
        trainer = TSLossTrainer(model=model, args=args, train_dataset=sentences())
        trainer.train(resume_from_checkpoint=resume)
        return prompt_clouds(model)

    straight = run(None)
    checkpoint = tmp_path / "checkpoint-2"
    (checkpoint / "prompt_encoder.safetensors").unlink()
    assert not torch.allclose(run(str(checkpoint)), straight, atol=1e-3)


def test_a_checkpoint_without_the_reference_of_compactness_is_told(tmp_path):
    def run(steps, resume=None):
        args = arguments(tmp_path, max_steps=steps, save_strategy="steps", save_steps=1)
        losses = TSLoss(compactness=1.0)
        trainer = TSLossTrainer(
            model=soft_prompt(), args=args, train_dataset=sentences(), ts_loss=losses
        )
        trainer.train(resume_from_checkpoint=resume)

    run(1)
    checkpoint = tmp_path / "checkpoint-1"
    (checkpoint / "tsloss.safetensors").unlink()
    with pytest.warns(UserWarning, match="compactness takes a new reference"):
        run(2, str(checkpoint))


def test_the_best_model_comes_back_with_its_encoder(tmp_path):
    kept: dict[int, torch.Tensor] = {}

    class Keep(TrainerCallback):
        def on_step_end(self, args, state, control, model=None, **kwargs):
            kept[state.global_step] = prompt_clouds(model).detach().clone()

    trainer = TSLossTrainer(
        model=make_peft("p_mlp"),
        args=arguments(
            tmp_path,
            learning_rate=0.5,
            max_steps=4,
            save_strategy="steps",
            save_steps=1,
            eval_strategy="steps",
            eval_steps=1,
            load_best_model_at_end=True,
            metric_for_best_model="loss",
            greater_is_better=True,  # so that the last step is not the best
        ),
        train_dataset=sentences(),
        eval_dataset=sentences(),
        callbacks=[Keep()],
        ts_weight=0.1,
    )
    trainer.train()
    best = trainer.state.best_global_step
    assert best < 4
    torch.testing.assert_close(prompt_clouds(trainer.model), kept[best])


def test_prefix_tuning_with_gradient_checkpointing_is_refused_early(tmp_path):
    args = arguments(tmp_path, gradient_checkpointing=True)
    with pytest.raises(ValueError, match=r"PREFIX_TUNING and gradient checkpointing"):
        TSLossTrainer(model=make_peft("prefix"), args=args, train_dataset=sentences())
    # The plain trainer fails too, in the middle of the first step.
    with pytest.raises(RuntimeError, match="size of tensor"):
        Trainer(model=make_peft("prefix"), args=args, train_dataset=sentences()).train()
    TSLossTrainer(model=make_peft("prompt"), args=args, train_dataset=sentences()).train()


@pytest.mark.parametrize("method", ["prompt", "p_mlp", "multitask", "context"])
def test_label_smoothing_with_tokens_before_the_text_is_refused_early(method, tmp_path):
    args = arguments(tmp_path, label_smoothing_factor=0.1)
    with pytest.raises(ValueError, match=r"label_smoothing_factor=0\.1 does not work"):
        TSLossTrainer(model=make_peft(method), args=args, train_dataset=sentences())


def test_label_smoothing_fails_in_the_plain_trainer_and_works_with_a_prefix(tmp_path):
    args = arguments(tmp_path, label_smoothing_factor=0.1)
    with pytest.raises(RuntimeError, match="size of tensor"):
        Trainer(model=make_peft("prompt"), args=args, train_dataset=sentences()).train()
    TSLossTrainer(model=make_peft("prefix"), args=args, train_dataset=sentences()).train()


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"ts_loss": torch.nn.MSELoss()}, TypeError, "must be a TSLoss or None, got MSELoss"),
        ({"ts_weight": -1.0}, ValueError, "got -1.0"),
        ({"ts_weight": float("inf")}, ValueError, "got inf"),
        ({"ts_weight": "10"}, TypeError, "got str"),
        ({"ts_clouds": torch.zeros(3, 2)}, TypeError, "ts_clouds must be a function"),
    ],
)
def test_wrong_arguments_are_named(options, error, message, tmp_path):
    with pytest.raises(error, match=message):
        TSLossTrainer(model=soft_prompt(), args=arguments(tmp_path), **options)


def test_a_model_without_virtual_tokens_is_refused_at_construction(tmp_path):
    with pytest.raises(ValueError, match="carries no soft prompt"):
        TSLossTrainer(model=make_tiny_model(), args=arguments(tmp_path))
    lora = peft.get_peft_model(make_tiny_model(), peft.LoraConfig(task_type="CAUSAL_LM"))
    with pytest.raises(ValueError, match="LORA, which has no virtual tokens"):
        TSLossTrainer(model=lora, args=arguments(tmp_path))


@pytest.mark.parametrize("accumulation", [1, 2])
def test_trl_s_trainer_takes_the_term_too(accumulation, tmp_path, tiny_tokenizer):
    trl = pytest.importorskip("trl", reason="trl is not installed (extra test)")
    datasets = pytest.importorskip("datasets", reason="datasets is not installed (comes with trl)")

    class Ours(TSLossMixin, trl.SFTTrainer):
        pass

    rows = datasets.Dataset.from_dict({"input_ids": [r["input_ids"] for r in sentences()]})

    def run(weight: float):
        kept = Gradients()
        trainer = Ours(
            model=soft_prompt(),
            args=trl.SFTConfig(
                **{
                    **arguments(tmp_path).to_dict(),
                    "gradient_accumulation_steps": accumulation,
                    "eval_strategy": "steps",
                    "eval_steps": 1,
                    "max_steps": 1,
                }
            ),
            train_dataset=rows,
            eval_dataset=rows,
            processing_class=tiny_tokenizer,
            callbacks=[kept],
            ts_weight=weight,
        )
        trainer.train()
        return kept.steps[0], trainer.state.log_history

    with_term, history = run(WEIGHT)
    without, plain_history = run(0.0)
    torch.testing.assert_close(with_term - without, expected_gradient(), rtol=1e-4, atol=1e-5)
    assert history[0]["tsloss/total"] == pytest.approx(float(TSLoss()(initial())))
    assert "mean_token_accuracy" in history[0]
    assert history[1]["eval_loss"] == plain_history[1]["eval_loss"]
    assert not [key for key in history[1] if "tsloss" in key]


def test_the_term_is_simply_added_in_a_plain_loop():
    accelerate = pytest.importorskip("accelerate", reason=NEEDS)
    accelerator = accelerate.Accelerator(cpu=True, gradient_accumulation_steps=2)
    model = soft_prompt()
    (parameter,) = trainable(model).values()
    model, optimizer = accelerator.prepare(model, torch.optim.SGD([parameter], lr=1.0))
    losses = TSLoss()
    for _ in range(2):
        with accelerator.accumulate(model):
            accelerator.backward(WEIGHT * losses(prompt_clouds(model)))
            optimizer.step()
            optimizer.zero_grad()
    torch.testing.assert_close(initial() - parameter.detach(), expected_gradient())


@pytest.mark.parametrize("missing", ["transformers", "peft"])
def test_without_the_extra_one_error_names_the_command(missing, monkeypatch):
    for name in [name for name in sys.modules if name.startswith("tsloss_fast.tuning")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(ModuleNotFoundError) as error:
        importlib.import_module("tsloss_fast.tuning")
    assert 'pip install "tsloss-fast[tuning]"' in str(error.value)
    assert missing in str(error.value)


def test_every_exported_name_is_there_and_tune_is_the_function():
    import tsloss_fast.tuning as tuning

    importlib.import_module("tsloss_fast.tuning.tune")
    for name in tuning.__all__:
        assert callable(getattr(tuning, name)), name
    with pytest.raises(AttributeError, match="no attribute 'absent'"):
        _ = tuning.absent
