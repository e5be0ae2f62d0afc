"""The page of evidence, from made-up files of results and from the real ones."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from made_records import START, make_design, make_pairs, make_run
from tsloss_fast.benchmarks.study.page import main, own_records, read_studies, write

GAINS = [0.1, 0.11, 0.1, 0.12, 0.1]
REAL = Path(__file__).parents[2] / "benchmarks/results/evidence"


def put(folder: Path, name: str, *records: dict) -> None:
    folder.mkdir(exist_ok=True)
    (folder / f"{name}.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records))


def page_of(folder: Path) -> str:
    write(folder, folder.with_suffix(".md"), None)
    return folder.with_suffix(".md").read_text(encoding="utf-8")


def test_experiments_share_runs_and_a_difference_counts_once(tmp_path: Path) -> None:
    put(tmp_path / "r", "default", make_design(), *make_pairs(GAINS))
    # All of its runs are in the other file.
    put(tmp_path / "r", "other", make_design(name="other"))
    page = page_of(tmp_path / "r")
    assert "| default: boolean (0.550, 0.500) | ce | 0.03 | 0.620 ± 0.016 | 0.050 ± 0.000 |" in page
    assert "| other: boolean (0.550, 0.500) | ce | 0.03 | 0.620 ± 0.016 |" in page
    assert page.count("|  | tsloss | 0.03 | 0.726 ± ") == 2
    assert "There are 10 runs" in page
    assert "3 of 5 intervals exclude zero" in page
    assert "0 of the\n  5 differences are between different learning rates" in page
    assert (tmp_path / "r" / "other.md").exists()
    assert (tmp_path / "r" / "other.png").exists()


def test_the_pilot_has_tables_and_no_number_on_the_page(tmp_path: Path) -> None:
    put(tmp_path / "r", "pilot", make_design(name="pilot", lr=[0.02]), make_run(lr=0.02))
    put(tmp_path / "r", "default", make_design(), *make_pairs(GAINS))
    page = page_of(tmp_path / "r")
    assert "There are 10 runs" in page
    assert "pilot:" not in page
    assert (tmp_path / "r" / "pilot.md").exists()


def test_a_run_belongs_to_a_design_by_its_content() -> None:
    jitter = {**START, "name": "jittered", "jitter": 0.01}
    arm = {"name": "ce-jitter", "loss": "ce", "start": jitter}
    design = make_design(["ce", arm], seeds=[0, 1])
    same = {"settings": {"loss": "ce"}, "weight": 0.0}
    own = [make_run("ce", 0), make_run("ce-jitter", 1, start=jitter, **same)]
    others = [
        make_run("ce", 2),
        make_run("ce", 0, lr=0.02),
        make_run("tsloss", 0),
        make_run("ce", 0, virtual_tokens=20),
        make_run("ce", 0, lr_schedule="linear"),
    ]
    assert own_records([design], [*others, *own]) == [design, *own]


def test_a_search_gives_a_method_its_rate_and_settings_give_it_its_name() -> None:
    methods = [{"name": "ce", "loss": "ce"}, {"name": "ours", "loss": "exact", "loops": 0.0}]
    design = make_design(methods, lr=0.03, search={"seeds": [9]})
    choice = {"kind": "choice", "method": "ours", "lr": 0.06, "weight": 10.0, "task": "boolean"}
    exact = {"settings": {"loss": "exact", "loops": 0.0}, "weight": 10.0}
    runs = [
        make_run("tsloss", 0, lr=0.06, **exact),
        make_run("tsloss", 0, **exact),
        make_run("tsloss", 9, stage="search", eval_every=8, **exact),
        make_run("tsloss", 8, stage="search", **exact),
    ]
    found = own_records([design, choice], runs)[2:]
    assert [run["key"] for run in found] == [runs[0]["key"], runs[2]["key"]]
    assert {run["trial"]["method"] for run in found} == {"ours"}


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
    assert main(arguments) == 0
    assert readme.read_text(encoding="utf-8") == first
    readme.write_text("no marks")
    with pytest.raises(ValueError, match="expected <!-- evidence -->"):
        main(arguments)
    with pytest.raises(SystemExit):
        main(["--results", str(tmp_path / "nowhere")])


def test_the_real_results_load_whole() -> None:
    lines = [
        json.loads(line) for file in REAL.glob("*.jsonl") for line in file.read_text().splitlines()
    ]
    final = [line for line in lines if line.get("trial", {}).get("stage") == "final"]
    studies = read_studies(REAL)
    told = [run["key"] for study in studies.values() for run in study.runs.run]
    assert set(told) == {run["key"] for run in final}
    for study in studies.values():
        arms, seeds = study.design["methods"], study.design["seeds"]
        groups = len(study.design["tasks"]) * len(study.design["starts"])
        assert len(study.runs) == len(study.seeds) == groups * len(arms) * len(seeds)
        by_key = {run["key"]: run["end"]["accuracy"] for run in final}
        expected = [by_key[run["key"]] for run in study.runs.run]
        assert study.runs.final_accuracy.tolist() == expected
