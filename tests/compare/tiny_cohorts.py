"""Cohorts of the tiny model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tsloss_fast.compare.cohort import Cohort
from tsloss_fast.compare.design import Design

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
