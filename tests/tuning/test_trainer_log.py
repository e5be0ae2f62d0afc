"""What a trainer's log says of the terms."""

from __future__ import annotations

import pytest
import torch
from tiny_llama import NEEDS

pytest.importorskip("transformers", reason=NEEDS)
pytest.importorskip("peft", reason=NEEDS)

from trained import arguments, sentences, soft_prompt
from transformers import TrainerCallback

from tsloss_fast import TSLoss
from tsloss_fast.tuning import TSLossTrainer, prompt_clouds


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
