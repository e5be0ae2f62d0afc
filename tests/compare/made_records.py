"""Records of a comparison as the command writes them, with curves chosen here: nothing trains."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

Record = dict[str, Any]
PLAN: Record = {
    "task": "boolean",
    "difficulty": None,
    "train_size": 128,
    "validation_size": 60,
    "test_size": 200,
    "curve_size": 50,
    "steps": 60,
    "batch_size": 8,
    "eval_every": 10,
    "ce_threshold": 0.5,
    "accuracy_threshold": 0.75,
}


def make_design(
    methods: Sequence[str] = ("ce", "tsloss"),
    tasks: Sequence[Mapping[str, Any]] = (PLAN,),
    seeds: Sequence[int] = (0, 1, 2, 3, 4),
    **changes: Any,
) -> Record:
    design = {
        "name": "made",
        "models": ["smollm2"],
        "tasks": [dict(task) for task in tasks],
        "adapters": ["prompt"],
        "virtual_tokens": [10],
        "starts": [{"name": "vocabulary", "init": "vocabulary"}],
        "methods": [{"name": name, "loss": "exact"} for name in methods],
        "seeds": list(seeds),
        "bootstrap": 500,
        "confidence": 0.95,
    }
    return {"kind": "experiment", "name": "made", "design": {**design, **changes}}


def make_run(
    method: str = "ce",
    seed: int = 0,
    *,
    accuracy: Sequence[float] | float = 0.7,
    ce: Sequence[float] | float = 0.6,
    end: Mapping[str, float] | None = None,
    plan: Mapping[str, Any] = PLAN,
    **trial: Any,
) -> Record:
    """A final run; a curve that is one number is flat. `end` changes the end's numbers."""
    fields = {name: value for name, value in plan.items() if not name.endswith("threshold")}
    trial = {
        "stage": "final",
        "model": "smollm2",
        **fields,
        "adapter": "prompt",
        "virtual_tokens": 10,
        "start": "vocabulary",
        "method": method,
        "settings": {},
        "lr": 0.03,
        "weight": 0.0 if method == "ce" else 10.0,
        "seed": seed,
        **trial,
    }
    steps = range(0, trial["steps"] + 1, trial["eval_every"])
    rates = [accuracy] * len(steps) if isinstance(accuracy, float) else list(accuracy)
    nats = [ce] * len(steps) if isinstance(ce, float) else list(ce)
    curve = [
        {
            "step": step,
            "accuracy": rate,
            "restricted_accuracy": rate,
            "ce": nat,
            "mean_death": 3.0,
            "coefficient_of_variation": 0.05 if method == "ce" else 0.01,
            "redundancy": 0.0,
        }
        for step, rate, nat in zip(steps, rates, nats, strict=True)
    ]
    last = curve[-1]
    return {
        "kind": "run",
        "key": "-".join(str(trial[n]) for n in ("stage", "task", "start", "method", "lr", "seed")),
        "trial": trial,
        "reference": {
            "majority_rate": 0.55,
            "zero_shot_accuracy": 0.1,
            "zero_shot_restricted_accuracy": 0.5,
            "zero_shot_ce": 2.0,
        },
        "split": "test",
        "curve": curve,
        "train_ce": [0.5] * trial["steps"],
        "end": {
            "items": trial["test_size"],
            "accuracy": last["accuracy"],
            "restricted_accuracy": last["restricted_accuracy"],
            "ce": last["ce"],
            **(end or {}),
        },
        "seconds": {"step": 0.4, "term": 0.0 if method == "ce" else 0.01},
        "diverged": None,
    }


def make_pairs(differences: Sequence[float], method: str = "tsloss", **trial: Any) -> list[Record]:
    """A pair of flat runs a seed, whose accuracies differ by these."""
    return [
        run
        for seed, difference in enumerate(differences)
        for run in (
            make_run("ce", seed, accuracy=0.6 + 0.01 * seed, **trial),
            make_run(method, seed, accuracy=0.6 + 0.01 * seed + difference, **trial),
        )
    ]


def make_choice(
    method: str, grid: Mapping[tuple[float, float], float | None], lr: float, weight: float
) -> Record:
    """The choice of (lr, weight) from the criterion of each."""
    return {
        "kind": "choice",
        "model": "smollm2",
        "task": "boolean",
        "virtual_tokens": 10,
        "start": "vocabulary",
        "method": method,
        "trials": [{"lr": r, "weight": w, "criterion": c} for (r, w), c in grid.items()],
        "lr": lr,
        "weight": weight,
    }


def make_experiment(
    methods: Sequence[str],
    tasks: Sequence[str],
    seeds: int = 5,
    gains: Mapping[str, float] | None = None,
) -> list[Record]:
    """Learning curves with noise, as an experiment has them; a gain shifts a method's accuracy."""
    generator = np.random.default_rng(0)
    plans = [{**PLAN, "task": task} for task in tasks]
    records = [make_design(methods, plans, range(seeds))]
    for plan, seed, method in itertools.product(plans, range(seeds), methods):
        time = np.linspace(0, 1, 7)
        best = 0.8 + 0.03 * generator.normal() + (gains or {}).get(method, 0.0)
        curve = 0.5 + (best - 0.5) * (1 - np.exp(-4 * time)) + 0.02 * generator.normal(size=7)
        rates = [round(float(rate) * 50) / 50 for rate in np.clip(curve, 0, 1)]
        nats = [float(nat) for nat in 0.4 + 1.2 * np.exp(-3 * time) - 0.3 * (best - 0.8)]
        final = round(best * 200) / 200
        records.append(
            make_run(method, seed, accuracy=rates, ce=nats, end={"accuracy": final}, plan=plan)
        )
    return records
