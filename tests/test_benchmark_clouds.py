"""Workloads of the benchmark: their names and their data."""

from __future__ import annotations

import time

import pytest
import torch
from tsloss_fast.benchmarks import measure as measuring
from tsloss_fast.benchmarks.workloads import DEFAULT, QUICK, parse, select


@pytest.mark.parametrize("name", [*DEFAULT, "vocabulary-49152x576", "3x5x8", "clusters-2x9x4"])
def test_a_workload_has_one_name(name: str) -> None:
    assert parse(name).name == name
    assert parse(parse(name).label.replace(" ", "-")).name == name


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("20", "names no workload"),
        ("20x", "names no workload"),
        ("x20x3", "names no workload"),
        ("sideways-20x3", "unknown kind 'sideways'"),
        ("1x3", "at least 2 points"),
        ("5x0", "at least 2 points"),
        ("0x5x3", "at least 2 points"),
        ("loss-4x5x3", "without a batch"),
    ],
)
def test_a_bad_size_is_refused_with_what_was_expected(name: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse(name)


def test_the_quick_set_is_four_sizes_of_the_default_set() -> None:
    assert [w.name for w in select(None, quick=True)] == list(QUICK)
    assert len(QUICK) == 4
    assert set(QUICK) < set(DEFAULT)
    assert [w.name for w in select(["6x4", "6×4", "5x4"], quick=True)] == ["6x4", "5x4"]


def test_the_data_are_the_same_in_every_run_and_have_the_stated_shape() -> None:
    torch.manual_seed(int(time.time()))
    assert torch.equal(parse("3x5x8").cloud(), parse("3x5x8").cloud())
    assert parse("3x5x8").cloud().shape == (3, 5, 8)
    deaths = measuring.exact_deaths(parse("clusters-60x8").cloud())
    assert deaths is not None
    assert (deaths[:-4] < 0.1).all()
    assert (deaths[-4:] > 1).all()


def test_the_new_kinds_of_clouds_are_what_they_say() -> None:
    signs = parse("signs-20x9").cloud()
    assert set(signs.unique().tolist()) == {-1.0, 1.0}
    tails = parse("tails-4000x4").cloud()
    assert tails.abs().max() > 20
    assert tails.median().abs() < 0.1
    with pytest.raises(ValueError, match="one cloud"):
        parse("matrix-2x20x9")
