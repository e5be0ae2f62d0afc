"""Whether the parts of a design go together: asked before anything is run."""

from __future__ import annotations

import json
import math
import re
from typing import TYPE_CHECKING, Any

from tsloss_fast.compare.checks import at_least_one, different_seeds, text
from tsloss_fast.compare.methods import essence
from tsloss_fast.compare.outcomes import OUTCOMES
from tsloss_fast.tuning.packed import ADAPTERS
from tsloss_fast.tuning.tasks import task_difficulty

if TYPE_CHECKING:
    from tsloss_fast.compare.design import Design

__all__ = ["check_design"]

LR_SCHEDULES = ("constant", "linear")


def check_design(design: Design) -> None:
    """Refuse what no comparison can be made of.

    Raises:
        ValueError: something is missing, out of range, there twice or at odds with the rest.
    """
    for name in ("tasks", "methods", "models", "adapters", "virtual_tokens", "starts"):
        values = getattr(design, name)
        keys = [str(getattr(value, "name", value)) for value in values]
        if not values or len(set(keys)) != len(keys):
            raise ValueError(f"{name}: expected at least one, each once, got {keys}")
    plain = isinstance(design.name, str) and re.fullmatch(r"[\w][\w .-]*", design.name, re.ASCII)
    if not plain:
        raise ValueError(
            f"name must be letters, digits, spaces, dots and dashes, since it names files; got "
            f"{design.name!r}"
        )
    _refuse_doubles(design)
    different_seeds("seeds", design.seeds)
    if design.search is not None and set(design.search.seeds) & set(design.seeds):
        raise ValueError(
            f"the seeds of the search {list(design.search.seeds)} and of the comparison "
            f"{list(design.seeds)} must differ, or what was chosen is tested on its own items"
        )
    for model in design.models:
        text("models", model)
    for adapter in design.adapters:
        if adapter not in ADAPTERS:
            raise ValueError(f"adapters must be of {', '.join(ADAPTERS)}, got {adapter!r}")
    hidden = [method.name for method in design.methods if method.where == "hidden"]
    if hidden and "prefix" in design.adapters:
        raise ValueError(
            f"the methods {', '.join(hidden)} act on the states of a soft prompt's positions, "
            "which the adapter 'prefix' does not have"
        )
    for count in design.virtual_tokens:
        at_least_one("virtual_tokens", count)
    at_least_one("cohort", design.cohort)
    at_least_one("bootstrap", design.bootstrap)
    if not (math.isfinite(design.lr) and design.lr > 0 and design.weight_decay >= 0):
        raise ValueError(
            f"lr must be above 0 and weight_decay at least 0, got {design.lr}, "
            f"{design.weight_decay}"
        )
    if design.lr_schedule not in LR_SCHEDULES:
        raise ValueError(
            f"lr_schedule must be one of {', '.join(LR_SCHEDULES)}, got {design.lr_schedule!r}"
        )
    unknown = [name for name in design.primary if name not in OUTCOMES]
    if unknown or not design.primary:
        raise ValueError(
            f"primary must be some of {', '.join(OUTCOMES)}, got {list(design.primary)}"
        )
    if not 0 < design.confidence < 1:
        raise ValueError(f"confidence must be between 0 and 1, got {design.confidence}")


def _refuse_doubles(design: Design) -> None:
    """What could not be told apart in the results."""
    keys: dict[str, list[Any]] = {
        "tasks": [
            (p.task, task_difficulty(p.task, p.difficulty), p.train_size, p.steps)
            for p in design.tasks
        ],
        "methods": [json.dumps(essence(m.settings()) | {"scale": m.scale}) for m in design.methods],
        "starts": [(s.init, s.init_text, s.jitter) for s in design.starts],
    }
    for name, values in keys.items():
        for index, value in enumerate(values):
            if value in values[:index]:
                first = values.index(value)
                what = "task, difficulty, train_size and steps" if name == "tasks" else "content"
                raise ValueError(
                    f"{name}: number {first + 1} and number {index + 1} have the same {what}, "
                    "so their runs could not be told apart; leave one out"
                )
