"""The first study read again: its raw results (`evidence/first`) at equal learning rates.

A search with one seed had chosen the learning rate of each method there, so that most comparisons
of that study are of methods and learning rates together.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from tsloss_fast.benchmarks.study.results import read_results
from tsloss_fast.benchmarks.study.statistics import detectable_difference, paired_difference

from tsloss_fast._terminal import table_lines

__all__ = ["first_study"]

_TRIAL = ("stage", "task", "start", "adapter", "virtual_tokens", "method", "lr", "weight", "seed")
_OUTCOMES = ("train_ce", "final_ce", "accuracy")


def first_study(folder: Path) -> dict[str, str]:
    """Return what the template of the page says of the first study, by name."""
    files = [read_results(file) for file in sorted(folder.glob("*.jsonl")) if file.stem != "pilot"]
    lines = [line for file in files for line in file]
    runs = pd.DataFrame([_row(line) for line in lines if line["kind"] == "run"])
    search, final = (runs[runs.stage == stage] for stage in ("search", "final"))
    # Prompts of ten vocabulary rows; the term on hidden states is a different method.
    setting = {"task": "boolean", "start": "vocabulary", "adapter": "prompt", "virtual_tokens": 10}
    usual = final[(final[list(setting)] == pd.Series(setting)).all(axis=1)]
    usual = usual[usual.method != "tsloss-hidden"]
    tsloss, placebo, ce = (
        usual[usual.method == method].set_index("seed").sort_index()
        for method in ("tsloss", "redundancy", "ce")
    )
    choices = [[line for line in file if line["kind"] == "choice"] for file in files]
    return {
        "rate": f"{placebo.lr.iloc[0]:g}",
        "own_rate": f"{ce.lr.iloc[0]:g}",
        "rate_alone": _difference(placebo.accuracy - ce.accuracy),
        "published": _difference(tsloss.accuracy - ce.accuracy),
        "matched_accuracy": _difference(tsloss.accuracy - placebo.accuracy),
        "matched_ce": _difference(tsloss.train_ce - placebo.train_ce),
        "cells": _shared_rates(search),
        "edges": _edges([choice for file in choices for choice in file]),
        "other_rates": _other_rates(choices),
        "correlation": f"{_correlation(usual):+.2f} over {len(usual)} runs",
        "constant": _constant_answers(usual),
        "power": _power(tsloss.accuracy - ce.accuracy, tsloss.accuracy - placebo.accuracy),
    }


def _row(run: Mapping[str, Any]) -> dict[str, Any]:
    trial, losses = run["trial"], run["train_ce"]
    row = {name: trial[name] for name in _TRIAL}
    row |= {"train_ce": math.fsum(losses) / len(losses), "final_ce": run["end"]["ce"]}
    row |= {"accuracy": run["end"]["accuracy"], "majority": run["reference"]["majority_rate"]}
    return row | {"variation": run["curve"][-1].get("coefficient_of_variation")}


def _difference(values: pd.Series) -> str:
    """The mean of paired differences with its 95 % interval."""
    found = paired_difference(values, np.zeros(len(values)))
    numbers = [f"{value:+.3f}" for value in (found.mean, found.low, found.high)]
    return "{} ({} to {})".format(*numbers).replace("-", "\N{MINUS SIGN}")


def _shared_rates(search: pd.DataFrame) -> str:
    """Count the cells of the search where TSLoss was better at the rate of cross-entropy."""
    there = search[search.start.isin(["x", "three words"])]
    ours, theirs = (there[there.method == method] for method in ("tsloss", "ce"))
    cells = ours.merge(theirs, on=["start", "lr", "seed"], suffixes=("", "_ce"))
    better = {name: int((cells[name] < cells[f"{name}_ce"]).sum()) for name in _OUTCOMES[:2]}
    more = int((cells.accuracy > cells.accuracy_ce).sum())
    return (
        f"lower mean training cross-entropy in {better['train_ce']} of {len(cells)} cells (start, "
        f"rate, weight), lower cross-entropy of validation items in {better['final_ce']}, higher "
        f"accuracy in {more}; all cells are of {cells.seed.nunique()} seed"
    )


def _edges(choices: Sequence[Mapping[str, Any]]) -> str:
    """Count how many searches ended at an edge of their grid."""
    ends = {"weight": [0, 0], "lr": [0, 0]}
    for choice in choices:
        for name, count in ends.items():
            tried = {trial[name] for trial in choice["trials"]}
            if len(tried) > 1:
                count[0] += choice[name] in (min(tried), max(tried))
                count[1] += 1
    weights, rates = ends["weight"], ends["lr"]
    return (
        f"{weights[0]} of {weights[1]} chosen weights (only two were tried) and {rates[0]} of "
        f"{rates[1]} chosen rates lie at the edge of their grid"
    )


def _other_rates(choices: Sequence[Sequence[Mapping[str, Any]]]) -> str:
    """Count the rows of the tables whose method has another rate than cross-entropy alone."""
    where = ("task", "start", "virtual_tokens", "adapter")
    pairs = [
        (choice["lr"], base["lr"])
        for file in choices
        for base in file
        for choice in file
        if base["method"] == "ce" != choice["method"] and all(choice[k] == base[k] for k in where)
    ]
    return f"{sum(one != other for one, other in pairs)} of the {len(pairs)} rows"


def _correlation(runs: pd.DataFrame) -> float:
    """Correlation of log CV with accuracy, after the means of the seeds are taken off."""
    table = pd.DataFrame({"log": np.log(runs.variation.astype(float)), "accuracy": runs.accuracy})
    return float((table - table.groupby(runs.seed).transform("mean")).corr().iloc[0, 1])


def _constant_answers(runs: pd.DataFrame) -> str:
    """The least cross-entropy of a constant answer: the entropy of the answers of test items."""
    rates = runs.majority.to_numpy(float)
    entropy = -(rates * np.log(rates) + (1 - rates) * np.log1p(-rates))
    return f"{entropy.min():.3f} to {entropy.max():.3f}"


def _power(published: pd.Series, matched: pd.Series) -> str:
    """The table of the accuracy that n pairs can tell from none in four of five studies."""
    header = ["seeds", "rates of their own", "equal rates"]
    spreads = [float(each.std()) for each in (published, matched)]
    rows = [
        [str(n), *(f"{100 * detectable_difference(spread, n):.1f} points" for spread in spreads)]
        for n in (5, 12, 24, 48)
    ]
    return "\n".join(table_lines(header, rows))
