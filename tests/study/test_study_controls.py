"""The positive controls: their losses are those of the papers, and their verdicts follow a rule."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.sparse.csgraph import minimum_spanning_tree
from scipy.spatial.distance import cdist
from torch_threads import torch_threads
from tsloss_fast.benchmarks.study import control_training as training
from tsloss_fast.benchmarks.study import controls
from tsloss_fast.benchmarks.study.control_training import CONTROLS, DENSIFIED
from tsloss_fast.benchmarks.study.statistics import Difference

from tsloss_fast._files import read_json_lines

SMALL = {name: replace(c, seeds=2, rates=[0.01], steps=3) for name, c in CONTROLS.items()}


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    with torch_threads(1):
        yield


def cloud(*shape: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(sum(shape))
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def tree(points: torch.Tensor) -> tuple[np.ndarray, ...]:
    return minimum_spanning_tree(cdist(points, points)).nonzero()


def test_the_mismatch_is_that_of_scipys_trees_and_has_its_gradient() -> None:
    points, codes = cloud(12, 5), cloud(12, 2)
    difference = cdist(points, points) - cdist(codes, codes)
    expected = sum(0.5 * (difference[tree(each)] ** 2).sum() for each in (points, codes))
    assert training.mismatch(points, codes).item() == pytest.approx(expected, rel=1e-12)
    expected = 0.5 * (difference[3, 1] ** 2 + difference[1, 7] ** 2)
    found = training.mismatch(points, codes, torch.tensor([[3, 1], [1, 7]]))
    assert found.item() == pytest.approx(expected, rel=1e-12)
    inputs = points.requires_grad_(), codes.requires_grad_()
    assert torch.autograd.gradcheck(training.mismatch, inputs)


def test_the_densification_is_the_sum_of_deviations_of_each_cloud() -> None:
    clouds = cloud(3, 8, 4)
    lengths = [cdist(each, each) for each in clouds]
    deaths = [d[tree(each)] for d, each in zip(lengths, clouds, strict=True)]
    expected = sum(np.abs(each - 1.5).sum() for each in deaths) / 3
    assert training.densification(clouds, 1.5).item() == pytest.approx(expected, rel=1e-12)
    expected = sum(abs(d[0, 5] - 1.5) + abs(d[5, 2] - 1.5) for d in lengths) / 3
    found = training.densification(clouds, 1.5, torch.tensor([[0, 5], [5, 2]]))
    assert found.item() == pytest.approx(expected, rel=1e-12)


def test_the_divergence_is_that_of_densities_which_ignore_scale() -> None:
    line, even = np.array([[0.0], [1.0], [4.0]]), np.array([[0.0], [14.0], [28.0]])
    p = np.exp(-10 * np.array([[0, 1, 16], [1, 0, 9], [16, 9, 0]]) / 16).sum(1)
    q = np.exp(-10 * np.array([[0, 1, 4], [1, 0, 1], [4, 1, 0]]) / 4).sum(1)
    expected = (p / p.sum() * np.log(p / p.sum() * q.sum() / q)).sum()
    assert training.density_divergence(line, even, 0.1) == pytest.approx(expected, rel=1e-12)


def test_spheres_have_their_radii_and_a_path_meets_every_point() -> None:
    inner, outer = np.split(training.spheres(np.random.default_rng(0), 3, 200), 2)
    assert np.linalg.norm(outer, axis=1) == pytest.approx(25)
    for sphere in np.split(inner, 3):
        assert 7 < np.linalg.norm(sphere.mean(0)) < 13
        assert np.linalg.norm(sphere - sphere.mean(0), axis=1) == pytest.approx(5, abs=0.5)
    path = training.random_path(9, torch.Generator().manual_seed(0))
    assert torch.equal(path[1:, 0], path[:-1, 1])
    assert set(path.flatten().tolist()) == set(range(9))


@pytest.mark.parametrize("name", CONTROLS)
def test_arms_differ_in_nothing_but_their_term(name: str) -> None:
    # More steps than an epoch has, as the order of the next one is drawn then.
    unweighted, weighted = (replace(SMALL[name], steps=25, weight=w) for w in (0.0, 1.0))
    still, moved = (
        [training.train(control, name, arm, 5, 0.01) for arm in controls.ARMS]
        for control in (unweighted, weighted)
    )
    assert still[0] == still[1] == still[2] == moved[1]
    assert len({str(outcomes) for outcomes in moved}) == 3


def test_a_stopped_run_goes_on_to_the_same_lines(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, stopped = tmp_path / "whole.jsonl", tmp_path / "stopped.jsonl"
    controls.run_controls(SMALL, whole)
    calls: list[object] = []

    def interrupted(*arguments: object) -> dict[str, float]:
        calls.append(arguments)
        if len(calls) == 8:
            raise KeyboardInterrupt
        return training.train(*arguments)

    monkeypatch.setattr(controls, "train", interrupted)
    with pytest.raises(KeyboardInterrupt):
        controls.run_controls(SMALL, stopped)
    with stopped.open("ab") as file:
        file.write(b'{"kind":"run","con')
    controls.run_controls(SMALL, stopped)
    assert len(calls) == 18 + 1
    first, second = map(read_json_lines, (whole, stopped))
    assert [line["kind"] for line in second[:2] + second[9:10]] == [
        "controls",
        "session",
        "session",
    ]
    del first[1], second[9], second[1]
    assert first == second
    with pytest.raises(ValueError, match="runs of other settings"):
        controls.run_controls({DENSIFIED: SMALL[DENSIFIED]}, stopped)


def test_the_page_of_the_miniature_and_of_made_up_runs(tmp_path: Path) -> None:
    page, results = tmp_path / "controls.md", tmp_path / "controls.jsonl"
    assert controls.main(["--quick", "--output", str(page)]) == 0
    text = page.read_text(encoding="utf-8")
    assert text.count(": no verdict** (there are too few seeds)") == len(CONTROLS) == 3
    assert "| **better** |" not in text
    head, session, *_ = read_json_lines(results)
    head["controls"] = {DENSIFIED: {**head["controls"][DENSIFIED], "rates": [0.1, 0.2]}}
    runs = [
        {"kind": "run", "control": DENSIFIED, "arm": arm, "seed": seed, "lr": lr}
        | {"accuracy": 0.5 + gain + gain * (seed % 2), "deviation": 1 - gain - gain * (seed % 3)}
        for seed, lr in itertools.product(range(8), (0.1, 0.2))
        for arm, gain in (("topological", 0.1), ("plain", 0.0), ("random paths", 0.1))
    ]
    # The last run is missing, and so is its pair.
    results.write_text("".join(json.dumps(r) + "\n" for r in [head, session, *runs[:-1]]))
    assert controls.main(["--tables", "--output", str(page)]) == 0
    text = page.read_text(encoding="utf-8")
    assert "- **densified digits: reproduced** (" in text
    assert "| accuracy | 0.650 ± 0.053 | 0.500 ± 0.000 | 0.643 ± 0.053 |" in text
    assert "| accuracy (claim) | 8 | +0.150 (+0.105 to +0.195) | **better** | 8 / 0 / 0 |" in text
    assert "| accuracy (claim) | 7 | +0.000 (+0.000 to +0.000) |  | 0 / 0 / 7 |" in text
    assert "the edges of trees are not told apart from those of random paths: +0.000" in text


@pytest.mark.parametrize(
    ("expected", "changes"),
    [
        ("reproduced", {}),
        ("reproduced at a price", {"price": (9, 0.06)}),
        ("not reproduced", {"claim": (9, 0.01)}),
        ("not reproduced", {"p": 0.06}),
        ("contradicted", {"claim": (9, 0.5)}),
        ("void", {"check": (9, 0.1)}),
        ("no verdict", {"claim": (4, -0.01)}),
    ],
)
def test_each_verdict_follows_from_its_numbers(expected: str, changes: dict) -> None:
    """A changed measure has other pairs and another upper end of an interval 0.2 wide."""
    found = []
    for role in ("claim", "check", "price", ""):
        pairs, high = changes.get(role, (9, -0.01))
        difference = Difference(pairs, high - 0.1, low=high - 0.2, high=high)
        measure = controls.Measure("error", -1, role)
        found.append(controls.Compared(measure, difference, changes.get("p", 0.01)))
    assert controls.verdict(found) == expected
