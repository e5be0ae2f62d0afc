"""Goals, thresholds and worst cases."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from made_results import GEMM, made_row, results_of
from tsloss_fast.benchmarks import goals, report, thresholds, worst
from tsloss_fast.benchmarks.ours import implementations
from tsloss_fast.benchmarks.records import Row
from tsloss_fast.benchmarks.workloads import CLOUDS, parse

from tsloss_fast import _core


def verdicts_of(*rows: Row, isa: str = "avx512_vnni") -> dict[tuple[str, str], str]:
    results = results_of(*rows)
    results.machine["instruction set of tsloss_fast"] = isa
    return {(line[0], line[1]): line[-1] for line in goals.assess(results)}


def test_goals_say_what_was_met_and_by_how_much_the_rest_was_missed() -> None:
    rows = [
        made_row("4096x768", 0.2, **{GEMM: 1.0}),
        made_row("10000x768", 0.3, **{GEMM: 1.0}),
        made_row("20x2048", 20e-6, **{GEMM: 30e-6, "ripser.py": 40e-6, "giotto-ph": 90e-6}),
        made_row("10x576", 8e-6, **{"ripser.py": 10e-6}),
        made_row("33x44", 1.0, **{GEMM: 1.0}),
        made_row("10000x2@1", 3.0, **{"quitefastmst": 1.0}),
    ]
    assert verdicts_of(*rows) == {
        ("4096×768", GEMM): "met",
        ("10000×768", GEMM): "missed by 50%",
        ("20×2048", GEMM): "missed by 25%",
        ("20×2048", "the best other way: ripser.py"): "met",
        ("10×576", "the best other way: ripser.py"): "met, the aim of 0.75 is not",
        ("10000×2, 1 thread", "quitefastmst"): "missed by 200%",
    }


def test_goals_are_those_of_the_instruction_set() -> None:
    rows = [
        made_row("20x4096", 0.7, **{"ripser.py": 1.0}),
        made_row("10000x768", 0.3, **{GEMM: 1.0}),
    ]
    best = ("20×4096", "the best other way: ripser.py")
    assert verdicts_of(*rows)[best] == "missed by 17%"
    assert verdicts_of(*rows, isa="avx2")[best] == "met"
    assert verdicts_of(*rows, isa="avx2")["10000×768", GEMM] == "no goal here"


def test_goals_are_reported_only_where_they_are_asked_for() -> None:
    results = results_of(made_row("4096x768", 0.3, **{GEMM: 1.0}))
    for page in (report.text, report.markdown):
        assert "goal" not in page(results).lower()
        assert "missed" not in page(results)
        assert "missed by 20%" in page(results, goals=True)


def test_every_goal_names_a_workload_and_an_implementation() -> None:
    for goal in goals.GOALS:
        labels = [i.label for i in implementations(parse(goal.workload))]
        assert goal.against in (*labels, goals.BEST)


def test_every_single_cloud_has_a_goal_against_the_best_other_way() -> None:
    found = {goal.workload: goal for goal in goals.GOALS if goal.against == goals.BEST}
    assert set(found) == set(CLOUDS)
    assert {name for name, goal in found.items() if goal.aim} == {"5x768", "10x576", "32x128"}
    assert all(goal.avx2 <= 0.75 for goal in found.values() if goal.avx2 and not goal.aim)


def test_thresholds_are_measured_written_and_leave_nothing_overridden(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    settings: list[dict[str, int]] = []
    override = _core.set_overrides

    def noted(**setting: int) -> None:
        settings.append(setting)
        override(**setting)

    monkeypatch.setattr(_core, "set_overrides", noted)
    target = tmp_path / "thresholds.md"
    assert thresholds.main(["--quick", "--seconds", "0.01", "--output", str(target)]) == 0
    printed = capsys.readouterr().out
    assert target.read_text(encoding="utf-8") == printed
    assert "| 40 × 16 |" in printed
    with pytest.raises(SystemExit):
        thresholds.main(["--seconds", "0"])
    assert {"path": 1} in settings
    assert settings[-1] == {}

    def fail(points: torch.Tensor) -> None:
        raise MemoryError

    monkeypatch.setattr(thresholds, "h0_persistence", fail)
    with pytest.raises(MemoryError):
        thresholds.main(["--quick"])
    assert settings[-1] == {}


def test_thresholds_show_the_constant_of_the_source_tree_or_that_there_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    header = tmp_path / "tuning.h"
    monkeypatch.setattr(thresholds, "_TUNING", header)
    assert thresholds.constant("kSmallDimension") is None
    header.write_text("constexpr int64_t kSmallDimension = 77;\n", encoding="utf-8")
    assert thresholds.constant("kSmallDimension") == 77
    with pytest.raises(ValueError, match="no integer constant kOther"):
        thresholds.constant("kOther")


def test_worst_cases_are_measured_and_written(tmp_path: Path) -> None:
    target = tmp_path / "worst.md"
    arguments = ["--shapes", "60x20", "--seconds", "0.001"]
    assert worst.main([*arguments, "--output", str(target)]) == 0
    table = target.read_text(encoding="utf-8")
    for name in worst.CLOUDS:
        assert f"| {name} |" in table
    assert "60 points in 20 dimensions" in table
    for bad in (["--shapes", "1x5"], ["--shapes", "5"], ["--seconds", "0"]):
        with pytest.raises(SystemExit):
            worst.main(bad)
