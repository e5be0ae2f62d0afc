"""A soft prompt on the tiny model, and what a trainer needs to train it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from peft_models import DIM, N, trainable
from tiny_llama import NEEDS, make_tiny_model

pytest.importorskip("transformers", reason=NEEDS)
pytest.importorskip("peft", reason=NEEDS)

from transformers import TrainerCallback, TrainingArguments

from tsloss_fast import TSLoss
from tsloss_fast.tuning import add_soft_prompt

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


def expected_gradient() -> torch.Tensor:
    points = initial().requires_grad_()
    (WEIGHT * TSLoss()(points)).backward()
    return points.grad
