"""What the runs of a group came to, as tables in Markdown."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from tsloss_fast._terminal import table_lines
from tsloss_fast.compare.comparison import Comparison, Experiment
from tsloss_fast.compare.numbers import (
    NEVER,
    NONE,
    decimals,
    difference_text,
    interval_text,
    p_text,
    signed,
    span,
)
from tsloss_fast.compare.outcomes import OUTCOMES
from tsloss_fast.compare.run_group import RunGroup

__all__ = [
    "difference_cell",
    "differences_table",
    "methods_table",
    "search_table",
]

Record = Mapping[str, Any]


def methods_table(group: RunGroup) -> str:
    columns = (
        "final_accuracy",
        "final_restricted_accuracy",
        "accuracy_area",
        "steps_to_accuracy",
        "steps_to_ce",
        "final_ce",
        "coefficient_of_variation",
    )
    rows = []
    for method, by_seed in group.runs.items():
        runs = list(by_seed.values())
        diverged = sum(run.get("diverged") is not None for run in runs)
        row = [
            method,
            *(_distinct(runs, name) for name in ("lr", "weight")),
            f"{len(runs)}, {diverged} diverged" if diverged else str(len(runs)),
        ]
        for name in columns:
            values = list(group.values(method, name).values())
            text = span(values, decimals(group, OUTCOMES[name]))
            late = len(group.censored(method, name))
            row.append(f"≥ {text}, {late} of {len(values)} never" if late else text)
        rows.append([*row, *_time(runs)])
    labels = [OUTCOMES[name].label for name in columns]
    header = ["method", "lr", "weight", "seeds", *labels, "ms a step", "of it in the loss"]
    return "\n".join(table_lines(header, rows))


def differences_table(experiment: Experiment, found: Sequence[Comparison]) -> str:
    rows = []
    for entry in found:
        difference, digits = entry.difference, decimals(entry.group, entry.outcome)
        if difference is None:
            pairs, what = (str(entry.censored), NEVER) if entry.never else ("0", NONE)
            rows.append([entry.method, entry.outcome.label, pairs, what, *[NONE] * 6])
            continue
        censored = f", {entry.censored} censored" if entry.censored else ""
        rows.append(
            [
                entry.method,
                entry.outcome.label,
                f"{difference.pairs}{censored}",
                signed(difference.mean, digits),
                interval_text(difference.low, difference.high, digits),
                f"**{entry.verdict}**" if difference.claim else entry.verdict,
                interval_text(difference.t_low, difference.t_high, digits),
                " / ".join(map(str, entry.seeds_better)),
                p_text(difference.p),
                p_text(entry.holm),
            ]
        )
    level = f"{100 * experiment.confidence:g}%"
    header = [
        "method",
        "outcome",
        "pairs",
        "difference",
        f"bootstrap {level}",
        "excludes 0",
        f"Student {level}",
        "seeds better / worse / equal",
        "p (sign flips)",
        "p (Holm)",
    ]
    return "\n".join(table_lines(header, rows))


def difference_cell(entry: Comparison | None, censored: bool = False) -> str:
    """A paired difference with its interval, bold where it excludes zero and seeds are enough.

    Args:
        entry: None if the method was not compared.
        censored: whether to say how many pairs are, and the difference thus a bound.
    """
    if entry is None:
        return NONE
    digits = decimals(entry.group, entry.outcome)
    text = NEVER if entry.never else difference_text(entry.difference, digits)
    if censored and entry.censored and not entry.never:
        text += f", {entry.censored} censored"
    return f"**{text}**" if entry.difference and entry.difference.claim else text


def search_table(experiment: Experiment, group: RunGroup) -> str:
    choices = {m: c for m, c in experiment.chosen(group).items() if c["trials"]}
    rates = sorted({trial["lr"] for choice in choices.values() for trial in choice["trials"]})
    rows = [
        [method, *(", ".join(_tried(choice, rate)) or NONE for rate in rates)]
        for method, choice in choices.items()
    ]
    header = ["method", *(f"lr {rate:g}" for rate in rates)]
    return "\n".join(table_lines(header, rows)) if rows else ""


def _tried(choice: Record, rate: float) -> Iterator[str]:
    """The criterion of each trial at a learning rate, by weight if there are several."""
    weighted = len({trial["weight"] for trial in choice["trials"]}) > 1
    at_rate = [trial for trial in choice["trials"] if trial["lr"] == rate]
    for trial in sorted(at_rate, key=lambda trial: float(trial["weight"])):
        value = trial["criterion"]
        text = "diverged" if value is None else f"{value:.4g}"
        text += f" ({trial['weight']:g})" if weighted else ""
        best = (choice["lr"], choice["weight"]) == (rate, trial["weight"])
        yield f"**{text}**" if best else text


def _distinct(runs: Sequence[Record], name: str) -> str:
    return ", ".join(f"{value:g}" for value in sorted({run["trial"][name] for run in runs}))


def _time(runs: Sequence[Record]) -> tuple[str, str]:
    """Milliseconds a step, and the share of the loss in them."""
    seconds = [run["seconds"] for run in runs if run.get("seconds", {}).get("step")]
    if not seconds:
        return NONE, NONE
    step = math.fsum(entry["step"] for entry in seconds)
    terms = [entry["term"] for entry in seconds if entry.get("term") is not None]
    share = f"{100 * math.fsum(terms) / step:.2g}%" if len(terms) == len(seconds) else NONE
    return f"{1000 * step / len(seconds):.3g}", share
