"""The page of one experiment: its tables, and the sentences that the numbers allow."""

from __future__ import annotations

from made_records import START, TASK, flat, make_design, make_pairs, make_run
from tsloss_fast.benchmarks.study.outcomes import OUTCOMES
from tsloss_fast.benchmarks.study.tables import shown, summarize

GAINS = [0.1, 0.11, 0.1, 0.12, 0.1]


def rows(page: str, table: int) -> list[dict[str, str]]:
    """The rows of the page's n-th table by the names of its columns."""
    blocks = [block.splitlines() for block in page.split("\n\n") if block.startswith("| ")]
    cells = [[cell.strip() for cell in line[1:-1].split("|")] for line in blocks[table]]
    return [dict(zip(cells[0], row, strict=True)) for row in cells[2:]]


def test_the_tables_have_levels_and_paired_differences() -> None:
    page = summarize([make_design(), *make_pairs(GAINS)])
    ce, tsloss = rows(page, 0)
    assert (ce["method"], ce["seeds"], ce["diverged"], ce["lr"]) == ("ce", "5", "0", "0.03")
    assert ce["final accuracy"] == "0.620 ± 0.016"
    assert ce["steps to accuracy"] == "≥ 8.0 ± 0.0, 5 of 5 never"
    assert (ce["ms a step"], ce["of it in the loss"]) == ("400", "1 %")
    assert tsloss["weight"] == "3"
    _, accuracy, nats = rows(page, 1)
    assert nats["seeds better / worse / equal"] == "5 / 0 / 0"
    assert (nats["difference"], nats["excludes 0"]) == ("−0.106", "**better**")
    assert accuracy["difference"] == "+0.106"
    assert accuracy["Student"] == "+0.095 to +0.117"
    assert (accuracy["p"], accuracy["p (Holm)"]) == ("0.0625", "0.125")
    assert "2 of 3 intervals exclude zero: tsloss better in final accuracy; tsloss" in page
    assert "after Holm's correction: nothing. Its least p with 5 pairs is 0.0625" in page
    assert "0.550 with the most frequent answer, 0.100 without a prompt, 0.500" in page
    assert "The steps to accuracy are those to 0.75." in page


def test_a_method_that_gains_nothing_is_equivalent_if_the_design_has_a_margin() -> None:
    records = make_pairs([0.001, -0.001, 0.002, 0.0, -0.002])
    said = "tsloss makes no difference of 0.03 in final accuracy."
    assert said in summarize([make_design(margins={"final_accuracy": 0.03}), *records])
    assert "makes no difference" not in summarize([make_design(), *records])
    strict = make_design(margins={"final_accuracy": 0.001})
    assert "makes no difference" not in summarize([strict, *records])
    assert said not in summarize([make_design(margins={"final_accuracy": 0.03}), *records[:8]])


def test_what_is_missing_is_said() -> None:
    other = {**START, "name": "y", "init_text": "y"}
    page = summarize(
        [make_design(["ce", "l2", "tsloss"], starts=[START, other]), *make_pairs([0.1])]
    )
    assert "- l2 is not finished: seed 0, 1, 2, 3, 4." in page
    assert "- ce is not finished: seed 1, 2, 3, 4." in page
    assert "Fewer than 5 pairs say nothing of other seeds." in page
    assert "## No run finished yet\n\n- boolean, smollm2, N = 10, from y, 128" in page
    assert "no pair of finished runs" in summarize([make_design(), make_run("tsloss", 0)])


def test_runs_that_diverged_are_counted_and_in_no_pair_and_changed_items_are_said() -> None:
    records = make_pairs(GAINS)
    records[1] = make_run("tsloss", 0, accuracy=(0.5, None), losses=(1.0,), diverged=1)
    page = summarize([make_design(), *records])
    assert rows(page, 0)[1]["diverged"] == "1"
    assert rows(page, 1)[1]["pairs"] == "4"
    records[0]["task_digest"] = "changed"
    assert "The task changed between runs of seed 0" in summarize([make_design(), *records])
    assert "- tsloss: seeds that diverged have no mean training CE, final accuracy," in page


def test_a_study_of_training_alone_has_no_outcomes_of_test_items() -> None:
    task = {**TASK, "test_size": 1}
    design = make_design(tasks=[task], primary=["train_ce"], seeds=list(range(9)))
    page = summarize([design, *make_pairs(GAINS, task=task)])
    assert not {"final accuracy", "end CE"} & rows(page, 0)[0].keys()
    assert [row["outcome"] for row in rows(page, 1)] == ["mean training CE"]
    assert "Accuracy without training" not in page
    assert "- ce is not finished: seed 5, 6, 7, 8." in page
    many = [design, *make_pairs([0.1 + 0.001 * k for k in range(20)], task=task)]
    # All signs of 20 pairs are too many to try, so that p is not below that of the draws.
    assert "Its least p with 20 pairs is 0.000122 before" in summarize(many)
    long = make_design(tasks=[task], primary=["train_ce"], seeds=list(range(20)))
    page = summarize([long, *make_pairs(GAINS, task=task)])
    assert "- ce is not finished: seed 5, 6, 7, 8, 9 and 10 more." in page


def test_zero_alone_has_no_sign() -> None:
    texts = [shown(v, OUTCOMES["final_accuracy"], "+") for v in (0.0, -0.0001, 0.0004, None)]
    assert texts == ["0.000", "−0.000", "+0.000", "–"]


def test_a_level_averages_over_the_grid() -> None:
    runs = [make_run("ce", 0, lr=lr, accuracy=flat(r)) for lr, r in ((0.01, 0.5), (0.02, 0.8))]
    page = summarize([make_design(["ce"], lr=[0.01, 0.02]), *runs])
    assert rows(page, 0)[0]["lr"] == "0.01, 0.02"
    assert rows(page, 0)[0]["final accuracy"] == "0.650"
    assert rows(page, 0)[0]["steps to accuracy"] == "≥ 4.0, 1 of 2 never"
