"""The page of evidence: its numbers are those of the results, and it says no more than they do."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from made_records import make_run
from tiny_llama import NEEDS

pytest.importorskip("transformers", reason=NEEDS)
pytest.importorskip("peft", reason=NEEDS)
pytest.importorskip("yaml", reason=NEEDS)
pytest.importorskip("matplotlib", reason=NEEDS)
pytest.importorskip("scipy", reason=NEEDS)

from tsloss_fast.benchmarks.evidence import write
from tsloss_fast.benchmarks.evidence.__main__ import main

from tsloss_fast.compare.design import Design, trial_key

MACHINE = {"processor": "P", "cores": "2", "torch": "2", "instruction set of torch": "AVX2"}
SESSION = {
    "kind": "session",
    "date": "2026-11-25T10:00:00Z",
    "processes": 2,
    "threads": 1,
    "machine": MACHINE,
}


def made_design(name: str = "default", **changes: Any) -> Design:
    task = {"task": "boolean", "steps": 20, "eval_every": 10, "accuracy_threshold": 0.75}
    return Design.from_mapping(
        {
            "name": name,
            "question": f"What of {name}?",
            "tasks": [task | {"ce_threshold": 0.1, "test_size": 100, "curve_size": 10}],
            "methods": ["ce", "tsloss", "l2"],
            "search": None,
            **changes,
        }
    )


def lines_of(design: Design, **gains: float) -> list[dict[str, Any]]:
    """The design and runs whose methods are better than cross-entropy by so much."""
    found: list[dict[str, Any]] = [
        {
            "kind": "experiment",
            "name": design.name,
            "date": "2026-11-25T09:00:00Z",
            "design": design.to_mapping(),
        },
        SESSION,
    ]
    for group in design.groups():
        chosen = {m.name: (design.lr, 0.0 if m.adds_nothing else m.scale) for m in design.methods}
        for seed in design.seeds:
            for trial in design.final_trials(group, chosen, seed):
                rate = 0.6 + 0.01 * seed + gains.get(trial["method"], 0.0)
                run = make_run(**trial, accuracy=[0.1, rate, rate], ce=[2.0, 0.5, 0.5])
                found.append(run | {"key": trial_key(trial), "trial": trial, "task_digest": "d"})
    return found


def put(folder: Path, name: str, lines: list[dict[str, Any]]) -> None:
    folder.mkdir(exist_ok=True)
    (folder / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def page_of(tmp_path: Path) -> str:
    write(tmp_path / "evidence", tmp_path / "evidence.md", None)
    return (tmp_path / "evidence.md").read_text(encoding="utf-8")


def test_the_table_has_levels_rates_and_paired_differences(tmp_path: Path) -> None:
    put(tmp_path / "evidence", "default", lines_of(made_design(), tsloss=0.2, l2=-0.1))
    page = page_of(tmp_path)
    rows = [line.strip("| ").split(" | ") for line in page.splitlines() if line.startswith("| def")]
    assert [row[4] for row in rows] == ["ce", "tsloss", "l2"]
    header = next(line for line in page.splitlines() if line.startswith("| experiment"))
    named = [dict(zip(header.strip("| ").split(" | "), row, strict=False)) for row in rows]
    assert named[0]["accuracy"] == "0.62"
    assert named[1]["accuracy"] == "0.82"
    assert (named[1]["majority"], named[1]["zero-shot"]) == ("0.55", "0.50")
    assert named[1]["final accuracy"] == "**+0.20 (+0.20 to +0.20)**"
    assert named[2]["final accuracy"] == "**−0.10 (−0.10 to −0.10)**"
    # Cross-entropy never reaches 0.75, TSLoss does at step 10: the difference is a bound.
    assert named[1]["steps to accuracy"] == "**−10 (−10 to −10), 5 censored**"
    assert named[1]["steps to CE"] == named[2]["steps to CE"] == "never reached"
    assert "- The interval excludes zero, for the better: tsloss (default: boolean): " in page
    assert "- The interval excludes zero, for the worse: l2 (default: boolean): " in page
    assert "What of default?" in page
    assert "15 runs; " in page
    assert "P, 2 cores, torch 2 (AVX2), 2 processes of 1 thread(s) (2026-11-25)" in page


def test_nothing_is_claimed_where_nothing_differs_or_seeds_are_few(tmp_path: Path) -> None:
    put(tmp_path / "evidence", "default", lines_of(made_design()))
    few = made_design("few", seeds=[0, 1, 2], virtual_tokens=[20])
    put(tmp_path / "evidence", "few", lines_of(few, tsloss=0.2, l2=0.2))
    page = page_of(tmp_path)
    assert "for the better: nowhere." in page
    assert "for the worse: nowhere." in page
    assert "- No interval excludes zero: tsloss (default: boolean); l2 (default: boolean)." in page
    assert "- Too few seeds so far to say anything: tsloss (few: boolean); l2 (few" in page
    assert "**+" not in page


def test_experiments_share_runs_and_count_a_comparison_once(tmp_path: Path) -> None:
    put(tmp_path / "evidence", "default", lines_of(made_design()))
    # All its runs are in the other file.
    other = made_design("other", methods=["ce", "l2"])
    put(tmp_path / "evidence", "other", lines_of(other)[:1])
    page = page_of(tmp_path)
    assert "| other | boolean | 0.55 | 0.50 | l2 | 5 |" in page
    assert "15 runs; " in page
    # Three outcomes and the cross-entropy, less the steps to a CE, which are never reached. The two
    # methods came to the same numbers, and count once.
    assert "Of 3 intervals" in page
    assert "tsloss and l2 came to the same numbers in every run" in page
    assert "- No interval excludes zero: tsloss (default: boolean); l2 (default: boolean)." in page
    put(tmp_path / "evidence", "default", lines_of(made_design(), tsloss=0.01))
    assert "Of 6 intervals" in page_of(tmp_path)


def test_a_pilot_is_told_of_and_left_out(tmp_path: Path) -> None:
    put(tmp_path / "evidence", "pilot", lines_of(made_design("pilot"), tsloss=0.3))
    with pytest.raises(ValueError, match="no results but those of the pilot"):
        page_of(tmp_path)
    put(tmp_path / "evidence", "default", lines_of(made_design(lr=0.02)))
    page = page_of(tmp_path)
    assert "A pilot of 15 runs" in page
    assert "| pilot |" not in page
    assert "for the better: nowhere." in page
    assert (tmp_path / "evidence" / "pilot.md").exists()


def test_a_design_that_was_changed_after_runs_is_named(tmp_path: Path) -> None:
    lines = lines_of(made_design())
    again = made_design(confidence=0.9).to_mapping()
    lines.append({**lines[0], "date": "2026-11-26T09:00:00Z", "design": again})
    put(tmp_path / "evidence", "default", lines)
    page = page_of(tmp_path)
    assert "The design was changed after 15 runs (2026-11-26): confidence." in page
    assert "bootstrap intervals of 90 %" in page


def test_the_readme_gets_the_table_between_its_marks(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    put(tmp_path / "evidence", "default", lines_of(made_design(), tsloss=0.2))
    readme = tmp_path / "README.md"
    readme.write_text("before\n<!-- evidence -->\nold\n<!-- /evidence -->\nafter\n")
    arguments = ["--results", str(tmp_path / "evidence"), "--readme", str(readme)]
    assert main(arguments) == 0
    first = readme.read_text(encoding="utf-8")
    assert first.startswith("before\n<!-- evidence -->\n| method | boolean |")
    assert first.endswith("<!-- /evidence -->\nafter\n")
    assert "| tsloss | **+0.20 (+0.20 to +0.20)** |" in first
    assert "boolean: 0.620 with cross-entropy alone, 0.550 by the majority answer, 0.500" in first
    assert "old" not in first
    assert f"wrote {tmp_path / 'evidence.md'}" in capsys.readouterr().out
    assert main(arguments) == 0
    assert readme.read_text(encoding="utf-8") == first
    readme.write_text("no marks")
    with pytest.raises(ValueError, match="must hold <!-- evidence -->"):
        main(arguments)
    with pytest.raises(SystemExit):
        main(["--results", str(tmp_path / "nowhere")])


def test_a_readme_without_the_default_comparison_is_refused(tmp_path: Path) -> None:
    put(tmp_path / "evidence", "other", lines_of(made_design("other")))
    readme = tmp_path / "README.md"
    readme.write_text("<!-- evidence --><!-- /evidence -->")
    with pytest.raises(ValueError, match="'default', which has no results here"):
        write(tmp_path / "evidence", tmp_path / "evidence.md", readme)
    assert readme.read_text() == "<!-- evidence --><!-- /evidence -->"
