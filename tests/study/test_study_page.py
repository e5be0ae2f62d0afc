"""The page of evidence, from made-up files of results and from the real ones."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import pytest
from made_records import make_design, make_pairs, make_run
from tsloss_fast.benchmarks.study.design import read_design, trial_key
from tsloss_fast.benchmarks.study.page import main, own_records, write

GAINS = [0.1, 0.11, 0.1, 0.12, 0.1]
REAL = Path(__file__).parents[2] / "benchmarks/results/evidence"


def put(folder: Path, name: str, design: dict, *runs: dict) -> None:
    """Write a results file, with the trials that the design means as those of its runs."""
    meant = {}
    for trial in itertools.chain.from_iterable(read_design(design["design"]).cohorts()):
        meant[trial["method"], trial["seed"]] = trial
    records = [run | {"trial": meant[run["trial"]["method"], run["trial"]["seed"]]} for run in runs]
    records = [run | {"key": trial_key(run["trial"])} for run in records]
    folder.mkdir(exist_ok=True)
    (folder / f"{name}.jsonl").write_text("".join(json.dumps(r) + "\n" for r in [design, *records]))


def page_of(folder: Path) -> str:
    write(folder, folder.with_suffix(".md"), None)
    return folder.with_suffix(".md").read_text(encoding="utf-8")


def test_experiments_share_runs_and_a_difference_counts_once(tmp_path: Path) -> None:
    put(tmp_path / "r", "default", make_design(), *make_pairs(GAINS))
    # All of its runs are in the other file.
    put(tmp_path / "r", "other", make_design(name="other"))
    # The pilot has tables, and no number on the page.
    put(tmp_path / "r", "pilot", make_design(name="pilot", lr=[0.02]), make_run())
    page = page_of(tmp_path / "r")
    assert "pilot:" not in page
    assert "| default: boolean (0.550, 0.500) | ce | 0.03 | 0.620 ± 0.016 | 0.050 ± 0.000 |" in page
    assert "| other: boolean (0.550, 0.500) | ce | 0.03 | 0.620 ± 0.016 |" in page
    assert page.count("|  | tsloss | 0.03 | 0.726 ± ") == 2
    assert "There are 10 runs" in page
    assert "3 of 5 intervals exclude zero" in page
    assert "0 of the\n  5 differences are between different learning rates" in page
    for name in ("other.md", "other.png", "pilot.md"):
        assert (tmp_path / "r" / name).exists()


def test_the_runs_of_an_older_design_are_those_that_its_search_chose() -> None:
    design = make_design(lr=0.03)
    choice = {"kind": "choice", "task": "boolean", "method": "tsloss", "virtual_tokens": 10}
    choice |= {"lr": 0.06, "eval_every": 4, "trials": []}
    runs = [
        make_run("tsloss", 0, lr=0.06),
        make_run("tsloss", 9, stage="search", eval_every=8),
        make_run("l2", 0),
        make_run("tsloss", 1, lr=0.06, virtual_tokens=20),
    ]
    assert own_records([design, choice, runs[0]], runs) == [design, choice, *runs[:2]]


def test_the_readme_gets_the_table_between_its_marks(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    put(tmp_path / "r", "default", make_design(), *make_pairs(GAINS))
    readme = tmp_path / "README.md"
    readme.write_text("before\n<!-- evidence -->\nold\n<!-- /evidence -->\nafter\n")
    arguments = ["--results", str(tmp_path / "r"), "--readme", str(readme)]
    assert main(arguments) == 0
    assert f"wrote {tmp_path / 'r.md'}" in capsys.readouterr().out
    first = readme.read_text(encoding="utf-8")
    assert first.startswith("before\n<!-- evidence -->\n| setting | method |")
    assert first.endswith("\n<!-- /evidence -->\nafter\n")
    assert "**+0.106 (+0.095 to +0.117)**" in first
    assert "old" not in first
    readme.write_text("no marks")
    with pytest.raises(ValueError, match="expected <!-- evidence -->"):
        main(arguments)
