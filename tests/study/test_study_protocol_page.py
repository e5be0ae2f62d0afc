"""The page of the paper's protocol tells what runs, made here, came to."""

from __future__ import annotations

import math
from typing import Any

import pytest
from tsloss_fast.benchmarks.study.protocol_page import compare, page

SEEDS = list(range(6))
FACTS: dict[str, Any] = {"device": "a device", "date": "", "model": "", "matmul": "", "epochs": 8}
FACTS["epoch_seconds"] = 0.5
FACTS["machine"] = dict.fromkeys(("tsloss-fast", "cuda kernels", "torch", "transformers"), "")
FACTS["protocol"] = {"arms": ["ce", "tsloss"], "seeds": SEEDS, "epochs": 8, "task": "boolean"}
FACTS["protocol"] |= {"train_size": 10, "batch_size": 8, "test_size": 200, "virtual_tokens": 40}
FACTS["protocol"] |= {"init_text": "x", "lr": 0.01}


def made(arm: str, ce: int, right: int, **changes: Any) -> list[dict[str, Any]]:
    """Runs whose cross-entropy falls to 0.1 in epoch `ce`, and that are right from epoch `right`.
    Accuracy differs a little from seed to seed."""
    losses = [0.5 if epoch < ce else 0.1 for epoch in range(1, 9)]
    rates = [0.9 if epoch < right else 1.0 for epoch in range(1, 9)]
    run = {"kind": "run", "arm": arm, "diverged": False, "train_ce": losses}
    run |= {"train_accuracy": rates, "coefficient_of_variation": 0.1}
    found = [run | {"seed": seed, "final_accuracy": 0.5 + seed % 2 / 1000} for seed in SEEDS]
    return [each | changes for each in found]


def test_epochs_are_counted_from_one_and_paired() -> None:
    runs = [*made("ce", 4, 8), *made("tsloss", 2, 8, final_accuracy=0.6)]
    ce, right, mean, accuracy, spread = compare(FACTS, runs)
    assert (ce.difference.mean, ce.difference.pairs, ce.censored) == (-1, 6, 0)
    assert right.difference.mean == 0
    assert mean.difference.mean == pytest.approx(-2 * 0.4 / 8)
    assert accuracy.difference.mean == pytest.approx(0.0995)
    # Four outcomes are tested; the coefficient of variation can be neither better nor worse.
    assert (ce.difference.p, ce.holm, spread.holm) == (2 / 2**6, 4 * 2 / 2**6, None)
    text = page(FACTS, runs)
    assert "tsloss changes the epochs to training CE 0.1 by -50 % (-50 % to -50 %)." in text
    assert "tsloss makes no difference of 0.2 in log2 epochs to training accuracy 1." in text
    assert "makes no difference of 0.03" not in text


def test_what_was_never_reached_is_not_compared() -> None:
    runs = [*made("ce", 9, 9), *made("tsloss", 9, 8)]
    ce, right, *_ = compare(FACTS, runs)
    assert (ce.never, ce.difference.pairs, ce.censored) == (True, 0, 12)
    # An epoch that did not come counts as the last one, so that the two arms do not differ.
    assert (right.never, right.difference.mean, right.censored) == (False, 0, 6)
    assert "| never reached |" in page(FACTS, runs)
    assert "≥ 3.00 ± 0.00, 6 never" in page(FACTS, runs)


def test_a_pair_with_a_run_that_diverged_does_not_count() -> None:
    runs = [*made("ce", 4, 4), *made("tsloss", 2, 4)]
    runs[7] = {key: runs[7][key] for key in ("kind", "arm", "seed")} | {"diverged": True}
    assert [each.difference.pairs for each in compare(FACTS, runs)] == [5] * 5
    assert math.isclose(compare(FACTS, runs)[0].difference.mean or 0, -1)
    assert "| tsloss | 6 | 1 |" in page(FACTS, runs)
