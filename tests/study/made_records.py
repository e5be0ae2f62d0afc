"""Records of a study as `tsloss compare` writes them, with numbers chosen here: nothing trains."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

Record = dict[str, Any]
TASK: Record = {
    "task": "boolean", "difficulty": None, "train_size": 128, "test_size": 200, "curve_size": 50,
    "steps": 8, "batch_size": 8, "eval_every": 4,
    "train_ce_threshold": 0.4, "ce_threshold": 0.5, "accuracy_threshold": 0.75,
}  # fmt: skip
REFERENCE = {"majority_rate": 0.55, "zero_shot_accuracy": 0.1, "zero_shot_restricted_accuracy": 0.5}
START: Record = {"name": "x", "init": "text", "init_text": "x", "jitter": 0.0}


def make_design(methods: Sequence[Any] = ("ce", "tsloss"), **changes: Any) -> Record:
    design = {
        "name": "made", "question": "Does it help?", "models": ["smollm2"], "tasks": [TASK],
        "virtual_tokens": [10], "starts": [START],
        "methods": [m if isinstance(m, dict) else {"name": m, "loss": m} for m in methods],
        "lr": [0.03], "seeds": [0, 1, 2, 3, 4], "lr_schedule": "constant", "weight_decay": 0.0,
        "primary": ["train_ce", "final_accuracy"], "margins": {}, "confidence": 0.95, **changes,
    }  # fmt: skip
    return {"kind": "experiment", "name": design["name"], "design": design}


def make_run(
    method: str = "ce",
    seed: int = 0,
    *,
    accuracy: Sequence[float | None] = (0.5, 0.6, 0.7),
    ce: Sequence[float | None] = (2.0, 1.0, 0.6),
    losses: Sequence[float | None] = (1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.5, 0.5),
    task: Mapping[str, Any] = TASK,
    start: Mapping[str, Any] = START,
    diverged: int | None = None,
    **trial: Any,
) -> Record:
    fields = {k: v for k, v in task.items() if not k.endswith("_threshold")}
    fields |= {"start" if k == "name" else k: v for k, v in start.items()}
    fields |= {"stage": "final", "model": "smollm2", "adapter": "prompt", "virtual_tokens": 10}
    fields |= {"weight_decay": 0.0, "lr_schedule": "constant", "method": method}
    fields |= {"settings": {}, "lr": 0.03, "weight": 0.0 if method == "ce" else 3.0}
    fields |= {"seed": seed, **trial}
    steps = range(0, fields["steps"] + 1, fields["eval_every"])
    names = ("step", "accuracy", "ce")
    points = [dict(zip(names, p, strict=True)) for p in zip(steps, accuracy, ce, strict=False)]
    return {
        "kind": "run",
        "key": " ".join(str(fields[k]) for k in ("stage", "task", "start", "method", "lr", "seed")),
        "trial": fields,
        "reference": dict(REFERENCE),
        "curve": [point | {"coefficient_of_variation": 0.05} for point in points],
        "train_ce": list(losses),
        "end": {"accuracy": accuracy[-1], "ce": ce[-1]},
        "seconds": {"step": 0.4, "term": 0.004},
        "diverged": diverged,
        "task_digest": "d",
    }


def flat(rate: float) -> list[float]:
    return [rate] * 3


def make_pairs(differences: Sequence[float], method: str = "tsloss", **trial: Any) -> list[Record]:
    """A pair of runs a seed, whose accuracies differ by these; cross-entropy is 2 - accuracy."""
    runs = []
    for seed, difference in enumerate(differences):
        for name, rate in (("ce", 0.6 + 0.01 * seed), (method, 0.6 + 0.01 * seed + difference)):
            runs.append(make_run(name, seed, accuracy=flat(rate), ce=flat(2 - rate), **trial))
    return runs
