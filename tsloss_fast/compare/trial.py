"""A trial: a mapping of everything that the result of a run depends on."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from tsloss_fast.compare.methods import essence
from tsloss_fast.tuning.tasks import task_difficulty

__all__ = ["Trial", "trial_key"]

Trial = dict[str, Any]


def trial_key(trial: Mapping[str, Any]) -> str:
    """A name of the trial by what its result depends on.

    Names of methods and starts are no part of it, nor what a loss does not use, nor the size of a
    split that is not looked at: with `split="by_item"` no split depends on the others' sizes.
    Made again from the trial whenever results are read: the one in a file is for the reader.
    """
    search = trial["stage"] == "search"
    idle = ("test_size", "curve_size") if search else ("validation_size",)
    content = {
        name: value for name, value in trial.items() if name not in ("method", "start", *idle)
    }
    # Of results that are older than the choice.
    content.setdefault("lr_schedule", "constant")
    content["difficulty"] = task_difficulty(trial["task"], trial["difficulty"])
    content["settings"] = essence(trial["settings"])
    for name in ("lr", "weight", "weight_decay", "jitter"):
        content[name] = float(content[name])
    text = json.dumps(content, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
