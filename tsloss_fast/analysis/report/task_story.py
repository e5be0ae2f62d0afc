"""How a run did on its task, in plain sentences: numbers beside the rates that need no tuning."""

from __future__ import annotations

from typing import Any

import numpy as np

from tsloss_fast.analysis.report.wording import change, listed, number
from tsloss_fast.analysis.runs import Run, Series

__all__ = ["control_of", "tell_task"]

# In these a run and its control may differ.
_OF_THE_LOSS = {
    "loss",
    "weight",
    "connectivity",
    "redundancy",
    "compactness",
    "loops",
    "device",
}


def control_of(run: Run, runs: list[Run]) -> Run | None:
    """The run with cross-entropy alone to set beside this one: the one in its folder, else one of
    the same settings but for the loss; none for a control."""
    if run.control:
        return None
    controls = [other for other in runs if other.control]
    own = [other for other in controls if other.folder.parent == run.folder]
    alike = [other for other in controls if _settings(other) == _settings(run)]
    return next(iter(own + alike), None)


def _settings(run: Run) -> dict[str, Any]:
    return {name: value for name, value in run.config.items() if name not in _OF_THE_LOSS}


def tell_task(run: Run, control: Run | None = None) -> list[str]:
    """Sentences on held-out accuracy and cross-entropy; none where nothing was measured."""
    sentences = []
    for name, title, best in (
        ("accuracy", "The held-out accuracy", np.argmax),
        ("ce", "The held-out cross-entropy", np.argmin),
    ):
        series = run.measured.get(name)
        if series is None or not len(series.steps) or not np.isfinite(series.values).all():
            continue
        steps, values = series.steps, series.values
        if len(steps) == 1:
            text = f"{title} is {number(values[0])} at step {steps[0]}, the only evaluation"
        else:
            # A share of an accuracy near 0 is a large number that means little.
            changed = change(values[0], values[-1], relative=name != "accuracy")
            text = f"{title} {changed} between step {steps[0]} and step {steps[-1]}"
            top = int(best(values))
            if values[top] != values[-1]:
                text += f" (best: {number(values[top])} at step {steps[top]})"
        text += _beside(series, control.measured.get(name) if control else None)
        sentences.append(text + ".")
        if name == "accuracy":
            sentences += _rates(run)
    return sentences


def _beside(series: Series, control: Series | None) -> str:
    if control is None or not len(control.steps):
        return ""
    where = "" if control.steps[-1] == series.steps[-1] else f" at step {control.steps[-1]}"
    return f"; under cross-entropy alone it ends at {number(control.values[-1])}{where}"


def _rates(run: Run) -> list[str]:
    rates = [
        f"{words} {number(value)}"
        for words, key in (
            ("always the most frequent answer reaches", "majority_rate"),
            (
                "the untuned model, told the possible answers, reaches",
                "zero_shot_restricted_accuracy",
            ),
        )
        if isinstance(value := run.reference.get(key), (int, float))
    ]
    return [f"Without tuning, {listed(rates)}."] if rates else []
