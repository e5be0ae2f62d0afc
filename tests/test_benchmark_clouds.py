"""Workloads of the benchmark: their names and their data."""

from __future__ import annotations

import time

import pytest
import torch
from tsloss_fast.benchmarks import measure as measuring
from tsloss_fast.benchmarks.ours import implementations
from tsloss_fast.benchmarks.workloads import DEFAULT, LOW, QUICK, STEPS, parse, select


@pytest.mark.parametrize("name", [*DEFAULT, "vocabulary-49152x576", "3x5x8", "clusters-2x9x4"])
def test_a_workload_has_one_name(name: str) -> None:
    assert parse(name).name == name


def test_no_two_workloads_share_a_label() -> None:
    labels = [parse(name).label for name in DEFAULT]
    assert len(set(labels)) == len(DEFAULT)


def test_a_name_may_hold_the_type_and_the_threads() -> None:
    workload = parse("100x3-float64@2")
    assert (workload.dtype, workload.threads) == ("float64", 2)
    assert workload.cloud().dtype == torch.float64
    assert workload.label == "100×3 float64, 2 threads"
    assert parse("100x3").threads is None


def test_every_size_is_in_the_table_of_its_reader() -> None:
    assert {parse(name).section for name in STEPS} == {"Training step, forward and backward"}
    assert {parse(name).section for name in LOW} == {"Low dimensions, forward"}
    assert parse("64x20x2048@2").section == "Batches of clouds, forward"
    assert parse("256x1024").section == "One cloud, forward"
    assert parse("clusters-1024x768").section == "Large clouds, and parts of a step"
    # The tables come in this order, each once.
    sections = [parse(name).section for name in DEFAULT]
    changes = [s for s, before in zip(sections, ["", *sections], strict=False) if s != before]
    assert len(changes) == len(set(changes)) == 5


def test_a_library_that_needs_all_distances_does_not_meet_a_million_points() -> None:
    labels = [i.label for i in implementations(parse("1000000x2@1"))]
    assert labels == ["tsloss_fast", "quitefastmst", "torch.pdist + fastcluster"]
    assert "GUDHI RipsComplex" in [i.label for i in implementations(parse("128x2"))]


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
        ("pair-4x5x3", "without a batch"),
        ("5x3@0", "at least 1 after the @"),
        ("5x3-float16", "names no workload"),
    ],
)
def test_a_bad_size_is_refused_with_what_was_expected(name: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse(name)


def test_the_quick_set_is_the_steps_and_four_sizes_of_the_default_set() -> None:
    assert [w.name for w in select(None, quick=True)] == list(QUICK)
    assert len(QUICK) == len(STEPS) + 4
    assert set(QUICK) < set(DEFAULT)
    assert [w.name for w in select(["6x4", "6×4", "5x4"], quick=True)] == ["6x4", "5x4"]


def test_the_data_are_the_same_in_every_run_and_have_the_stated_shape() -> None:
    torch.manual_seed(int(time.time()))
    assert torch.equal(parse("3x5x8").cloud(), parse("3x5x8").cloud())
    assert parse("3x5x8").cloud().shape == (3, 5, 8)
    clusters = parse("clusters-60x8")
    deaths = measuring.exact(clusters, clusters.cloud())["deaths"]
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
