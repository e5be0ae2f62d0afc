"""Goals, thresholds and worst cases."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tsloss_fast.benchmarks import goals, report, thresholds, worst
from tsloss_fast.benchmarks.ours import IMPLEMENTATIONS
from tsloss_fast.benchmarks.records import Measurement, Results, Row
from tsloss_fast.benchmarks.workloads import parse

from tsloss_fast import _core


def made_up(workload: str, ours: float, label: str, other: float) -> Row:
    cells = [
        Measurement("tsloss_fast", "ours", seconds=[ours], cpu_seconds=[ours]),
        Measurement(label, "yardstick", seconds=[other], cpu_seconds=[other]),
    ]
    return Row(workload, "forward", workload, 0.0, cells)


def test_goals_say_what_was_met_and_by_how_much_the_rest_was_missed() -> None:
    gemm = "sgemm X·Xᵀ"
    rows = [
        made_up("4096x768", 0.2, gemm, 1.0),
        made_up("10000x768", 0.3, gemm, 1.0),
        made_up("20x2048", 20e-6, gemm, 30e-6),
        made_up("33x44", 1.0, gemm, 1.0),
    ]
    verdicts = {(work, against): verdict for work, against, _, _, verdict in goals.assess(rows)}
    assert verdicts == {
        ("4096x768", gemm): "met",
        ("10000x768", gemm): "missed by 50%",
        ("20x2048", gemm): "missed by 25%",
    }


def test_goals_are_reported_only_where_they_are_asked_for() -> None:
    machine = dict.fromkeys(
        ("tsloss-fast", "torch", "processor", "cores", "instruction set of tsloss_fast"), "1"
    )
    rows = [made_up("4096x768", 0.3, "sgemm X·Xᵀ", 1.0)]
    results = Results(machine, {"threads": 1}, rows)
    for page in (report.text, report.markdown):
        assert "goal" not in page(results).lower()
        assert "missed" not in page(results)
        assert "missed by 20%" in page(results, goals=True)


def test_every_goal_names_a_workload_and_an_implementation() -> None:
    for goal in goals.GOALS:
        workload = parse(goal.workload)
        labels = [i.label for i in IMPLEMENTATIONS[workload.kind]]
        assert goal.against in labels


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
