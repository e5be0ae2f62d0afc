"""The page of evidence and its verdict, from made-up results and from the real ones."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import pytest
from made_records import START, make_design, make_pairs, make_run
from tsloss_fast.benchmarks.study.design import read_design, trial_key
from tsloss_fast.benchmarks.study.first_study import first_study
from tsloss_fast.benchmarks.study.outcomes import read_study
from tsloss_fast.benchmarks.study.page import main
from tsloss_fast.benchmarks.study.verdict import Verdict, overall, verdict

GAINS = [0.1, 0.11, 0.1, 0.12, 0.1, 0.1, 0.11, 0.1]
FIRST = Path(__file__).parents[2] / "benchmarks/results/evidence/first"
REPAIR = {"name": "ce-jitter", "loss": "ce", "start": {**START, "name": "j", "jitter": 0.01}}


def put(folder: Path, design: dict[str, Any], *runs: dict[str, Any]) -> None:
    """Write a results file, with the trials that the design means as those of its runs."""
    meant = {}
    for trial in itertools.chain.from_iterable(read_design(design["design"]).cohorts()):
        meant[trial["method"], trial["seed"]] = trial
    records = [run | {"trial": meant[run["trial"]["method"], run["trial"]["seed"]]} for run in runs]
    records = [run | {"key": trial_key(run["trial"])} for run in records]
    lines = "".join(json.dumps(record) + "\n" for record in [design, *records])
    (folder / f"{design['name']}.jsonl").write_text(lines)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder of results that has the first study and the controls, and no other study."""
    (tmp_path / "r").mkdir()
    for name in ("first", "controls"):
        (tmp_path / "r" / name).symlink_to(FIRST.parent / name, target_is_directory=True)
    return tmp_path / "r"


def test_the_page_and_the_readme_have_the_verdict_and_the_differences(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    put(folder, make_design(name="degenerate", seeds=list(range(8))), *make_pairs(GAINS))
    put(folder, make_design(name="other", lr=[0.02]), make_run())
    readme = tmp_path / "README.md"
    readme.write_text("before\n<!-- evidence -->\nold\n<!-- /evidence -->\nafter\n")
    arguments = ["--results", str(folder), "--readme", str(readme)]
    assert main(arguments) == 0
    assert f"wrote {tmp_path / 'r.md'}" in capsys.readouterr().out
    page = (tmp_path / "r.md").read_text(encoding="utf-8")
    row = "|  | tsloss | 8 | final accuracy | **+0.105 (+0.099 to +0.111)** | 0.016 |"
    assert row in page
    # The other two studies that decide are not there.
    assert "**There is no verdict yet.**" in page
    said = "- degenerate: TSLoss helps; tsloss is better in final accuracy by **+0.105 (+0.099 to +"
    assert said in page
    assert "- convergence: not finished, 0 runs so far." in page
    assert (
        "- **other**: Does it help? 1 run, 1 seed, 0.0 hours of steps: [tables](r/other.md)" in page
    )
    assert "- **densified digits: reproduced** (" in page
    for name in ("degenerate.md", "degenerate.png", "other.md", "verdict.png"):
        assert (folder / name).exists()
    first = readme.read_text(encoding="utf-8")
    head = "before\n<!-- evidence -->\n**There is no verdict yet.**\n\n- convergence: not finished"
    assert first.startswith(head)
    assert said in first
    assert first.endswith("\n<!-- /evidence -->\nafter\n")
    assert row in first
    assert "old" not in first
    readme.write_text("no marks")
    with pytest.raises(ValueError, match="expected <!-- evidence -->"):
        main(arguments)


def test_steps_are_told_as_a_ratio(folder: Path, tmp_path: Path) -> None:
    design = make_design(name="convergence", primary=["steps_to_train_ce"], seeds=list(range(8)))
    runs = make_pairs([0.0] * 8)
    for run in runs:
        # Training cross-entropy falls below the threshold of 0.4 at the second or the fourth step.
        late = 4 if run["trial"]["method"] == "tsloss" else 2
        run["train_ce"] = [1.0] * (late - 1) + [0.3] * (9 - late)
    put(folder, design, *runs)
    assert main(["--results", str(folder)]) == 0
    page = (tmp_path / "r.md").read_text(encoding="utf-8")
    told = "it is worse; tsloss needs 2.00 (2.00 to 2.00) times the steps of cross-entropy alone."
    assert told in page


def judged(gains: list[float], *repair: float, seeds: int = 8, **design: Any) -> Verdict:
    """The verdict of a study whose pairs gain these accuracies, and a repair the one behind."""
    runs = make_pairs(gains)
    for gain in repair:
        for run in make_pairs([gain] * len(gains), "ce-jitter"):
            if run["trial"]["method"] == "ce-jitter":
                run["trial"] |= {"start": "j", "jitter": 0.01}
                runs.append(run)
    methods = ["ce", "tsloss", *([REPAIR] if repair else [])]
    head = make_design(methods, seeds=list(range(seeds)), primary=["final_accuracy"], **design)
    return verdict(read_study([head, *runs]))


def test_a_gain_helps_unless_a_trivial_repair_gains_more() -> None:
    assert judged(GAINS).form == "helps"
    assert judged(GAINS, 0.1).form == "helps"
    assert judged(GAINS, 0.2).form == "repairs"
    assert [entry.outcome.name for entry in judged(GAINS).better] == ["final_accuracy"]
    # Interval and test have to agree: four of eight gains are too few for the test.
    few = judged([0.1, 0.1, 0.1, 0.1, 0.0, 0.0, 0.0, 0.0])
    assert (few.found[0].verdict, few.form) == ("better", "not shown")


def test_there_is_no_verdict_before_every_seed_of_every_arm_is_there() -> None:
    assert judged(GAINS, seeds=9).form == "pending"
    methods = ["ce", "tsloss", REPAIR]
    head = make_design(methods, seeds=list(range(8)), primary=["final_accuracy"])
    assert verdict(read_study([head, *make_pairs(GAINS)])).form == "pending"
    assert verdict(read_study([head])).form == "pending"


def test_without_a_clear_difference_the_margin_decides() -> None:
    small = [0.001, -0.001, 0.002, 0.0, -0.002, 0.001, 0.0, -0.001]
    assert judged(small, margins={"final_accuracy": 0.03}).form == "no difference"
    assert judged(small, margins={"final_accuracy": 0.0005}).form == "not shown"
    assert judged(small).form == "not shown"


def test_losses_are_said_and_do_not_go_with_help() -> None:
    loss = judged([-gain for gain in GAINS], margins={"final_accuracy": 0.5})
    assert (loss.form, len(loss.worse)) == ("harms", 1)
    # More accuracy goes with a greater cross-entropy of the training here.
    runs = make_pairs(GAINS)
    for run in runs:
        late = 0.1 * (run["trial"]["method"] == "tsloss") + 0.01 * run["trial"]["seed"]
        run["train_ce"] = [loss + late for loss in run["train_ce"]]
    head = make_design(seeds=list(range(8)))
    assert verdict(read_study([head, *runs])).form == "mixed"
    runs = make_pairs(GAINS)
    runs[1] |= {"diverged": 3, "train_ce": [1.0, 0.9]}
    found = verdict(read_study([make_design(seeds=list(range(8))), *runs]))
    assert (found.form, found.diverged) == ("not shown", 1)


def test_the_verdict_of_all_studies_needs_all_of_them() -> None:
    def of(*forms: str) -> str:
        return overall([Verdict(form) for form in forms])

    assert of("pending", "helps", "repairs") == of() == "pending"
    assert of("not shown", "repairs", "helps") == "helps"
    assert of("no difference", "repairs") == "repairs"
    assert of("helps", "harms") == of("mixed", "not shown") == "mixed"
    assert of("harms", "no difference") == "harms"
    assert of("no difference", "no difference") == "no difference"
    assert of("no difference", "not shown") == "not shown"


def test_what_is_said_of_the_first_study_is_in_its_raw_results() -> None:
    said = first_study(FIRST)
    assert (said["rate"], said["own_rate"]) == ("0.03", "0.0345")
    # The frozen tables have these two differences to cross-entropy at its own rate.
    tables = (FIRST / "ablation.md").read_text(encoding="utf-8")
    for value in (said["rate_alone"], said["published"]):
        assert f"| {value.split()[0]} | {value.split('(')[1].rstrip(')')} |" in tables
    # Accuracies by seed: tsloss 0.71 0.62 0.69 0.67 0.6, redundancy 0.735 0.615 0.67 0.69 0.54.
    assert said["matched_accuracy"] == "+0.008 (−0.035 to +0.051)"
    assert "28 of 28 chosen weights (only two were tried) and 9 of 36 chosen" in said["edges"]
    assert "in 8 of 8 cells" in said["cells"]
    assert said["power"].splitlines()[2] == "| 5 | 10.4 points | 5.8 points |"
