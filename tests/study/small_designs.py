"""A design that takes seconds with the tiny model, and its trials."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tsloss_fast.benchmarks.study.design import Design, load_design

TASK: dict[str, Any] = {"task": "boolean", "train_size": 20, "test_size": 16, "curve_size": 10}
TASK |= {"steps": 6, "eval_every": 3}
SMALL: dict[str, Any] = {"name": "small", "tasks": [TASK], "methods": ["ce", "tsloss"]}
SMALL |= {"virtual_tokens": [6], "lr": [0.03], "seeds": [0]}


def write(folder: Path, **changes: Any) -> Path:
    path = folder / "small.yaml"
    path.write_text(json.dumps(SMALL | changes), encoding="utf-8")  # JSON is YAML
    return path


def made(folder: Path, **changes: Any) -> Design:
    return load_design(str(write(folder, **changes)))


def trials(folder: Path, methods: list[Any], **changes: Any) -> list[dict[str, Any]]:
    """The only cohort of a design."""
    task = TASK | changes.pop("task", {})
    changes = {"cohort": 99, "tasks": [task], "methods": methods, **changes}
    (cohort,) = made(folder, **changes).cohorts()
    return cohort


def timeless(records: list[dict[str, Any]], *also: str) -> list[dict[str, Any]]:
    return [{k: v for k, v in r.items() if k not in ("seconds", *also)} for r in records]
