"""The tables of a comparison: every number in its place, and no word that they do not carry."""

from __future__ import annotations

import re

import pytest

pytest.importorskip("scipy")
pytest.importorskip("pyarrow")

from made_records import PLAN, make_design, make_experiment, make_pairs, make_run
from made_tables import NOTHING, row, tables

from tsloss_fast.compare.summary import story_table, story_tables, summarize


def test_a_group_shows_its_methods_beside_the_rates_without_training() -> None:
    runs = [
        make_run("ce", 0, accuracy=0.6, end={"accuracy": 0.62, "ce": 0.61}),
        make_run("ce", 1, accuracy=0.64, end={"accuracy": 0.656, "ce": 0.59}),
        make_run("tsloss", 0, accuracy=[0.6] * 3 + [0.8] * 4, ce=0.4),
        make_run("tsloss", 1, accuracy=[0.6] * 6 + [0.7], ce=0.4),
    ]
    for run in (runs[1], runs[3]):
        run["reference"]["majority_rate"] = 0.57
    runs[3]["diverged"] = 41
    page = summarize([make_design(seeds=(0, 1)), *runs])
    assert (
        "## boolean, smollm2, 10 virtual tokens from vocabulary, 128 training items, 60 steps, "
        "2 seeds" in page
    )
    assert (
        "majority answer 0.560 (0.550–0.570); zero-shot 0.100; zero-shot, given the answers' form "
        "0.500; zero-shot CE 2.000." in page
    )
    methods = tables(page)[0]
    ce, tsloss = row(methods, method="ce"), row(methods, method="tsloss")
    assert ce["seeds"] == "2"
    assert tsloss["seeds"] == "2, 1 diverged"
    assert (ce["lr"], ce["weight"], tsloss["weight"]) == ("0.03", "0", "10")
    assert ce["final accuracy"] == "0.638 (0.620–0.656)"
    assert ce["restricted accuracy"] == "0.620 (0.600–0.640)"
    assert ce["area under accuracy"] == "0.620 (0.600–0.640)"
    assert ce["end CE"] == "0.600 (0.590–0.610)"
    assert ce["steps to accuracy"] == "≥ 60, 2 of 2 never"
    assert tsloss["steps to accuracy"] == "≥ 45 (30–60), 1 of 2 never"
    assert tsloss["steps to CE"] == "0"
    assert tsloss["coefficient of variation"] == "0.010"
    assert (ce["ms a step"], ce["of it in the loss"]) == ("400", "0%")
    assert (tsloss["ms a step"], tsloss["of it in the loss"]) == ("400", "2.5%")


def test_a_term_whose_time_is_unknown_has_no_share() -> None:
    runs = make_pairs([0.1] * 2)
    for run in runs[1::2]:
        run["seconds"] = {"step": 0.4, "term": None}
    assert row(tables(summarize(runs))[0], method="tsloss")["of it in the loss"] == "–"


def test_differences_have_their_interval_sign_seeds_and_adjusted_p() -> None:
    page = summarize([make_design(), *make_pairs([0.1, 0.05, 0.05, 0.1, 0.15])])
    differences = tables(page)[1]
    assert [r["outcome"] for r in differences] == [
        "final accuracy",
        "area under accuracy",
        "steps to accuracy",
        "steps to CE",
        "end CE",
    ]
    found = row(differences, outcome="final accuracy")
    assert found["difference"] == "+0.090"
    assert re.fullmatch(r"\+0\.0[56]\d to \+0\.1[12]\d", found["bootstrap 95%"])
    assert re.fullmatch(r"\+0\.03\d to \+0\.14\d", found["Student 95%"])
    assert found["excludes 0"] == "**better**"
    assert found["seeds better / worse / equal"] == "5 / 0 / 0"
    assert (found["p (sign flips)"], found["p (Holm)"]) == ("0.0625", "0.188")
    # What nobody reached is no difference of 0, and no part of the correction.
    nothing = row(differences, outcome="steps to CE")
    assert nothing["pairs"] == "5"
    assert (nothing["difference"], nothing["bootstrap 95%"]) == ("never reached", "–")
    assert nothing["p (Holm)"] == "–"
    assert row(differences, outcome="end CE")["p (Holm)"] == "–"


def test_worse_is_said_as_plainly_as_better() -> None:
    page = summarize([make_design(), *make_pairs([-0.1] * 5)])
    assert row(tables(page)[1], outcome="final accuracy")["excludes 0"] == "**worse**"
    assert "excludes zero for tsloss: worse in final accuracy −0.100 (−0.100 to −0.100)" in page
    assert NOTHING not in page
    assert "0 for the better, 2 for the worse" in page


def test_nothing_shown_is_said_in_these_words() -> None:
    page = summarize([make_design(), *make_pairs([0.1, -0.1, 0.05, -0.05, 0.0])])
    assert f"- Conclusion: {NOTHING}\n" in page
    assert "excludes zero for" not in page
    assert (
        "Of 3 intervals 0 exclude zero: 0 for the better, 0 for the worse; that is no more than "
        "chance alone gives. If no method made a difference, about 0.15 would exclude zero if they "
        "covered what they promise, and about 0.46 because bootstrap intervals of 5 seeds" in page
    )


def test_what_chance_alone_would_give_is_called_that() -> None:
    words = "1 for the better, 0 for the worse; that is no more than chance alone gives."
    runs = make_pairs([0.1, -0.1, 0.05, -0.05, 0.0])
    for run in runs[1::2]:
        run["end"]["accuracy"] = 0.8
    alone = summarize([make_design(), *runs])
    assert "Of 3 intervals 1 excludes zero: 1 for the better, 0 for the worse. If no" in alone
    for name in ("l2", "hofer"):
        runs += make_pairs([0.1, -0.1, 0.05, -0.05, 0.0], name)[1::2]
    page = summarize([make_design(("ce", "tsloss", "l2", "hofer")), *runs])
    assert f"Of 9 intervals 1 excludes zero: {words}" in page
    assert "wider where seeds are few, 1 excludes zero (1 of tsloss)." in page


def test_many_outcomes_of_one_method_are_not_called_chance() -> None:
    others = ("l2", "hofer", "pairwise", "surrogate")
    runs = make_pairs([-0.1, -0.11, -0.12, -0.11, -0.1])
    for name in others:
        runs += make_pairs([0.1, -0.1, 0.05, -0.05, 0.0], name)[1::2]
    page = summarize([make_design(("ce", "tsloss", *others)), *runs])
    assert "0 for the better, 2 for the worse. If no method" in page
    assert "wider where seeds are few, 2 exclude zero (2 of tsloss)." in page


def test_fewer_than_five_seeds_show_nothing_whatever_their_interval() -> None:
    page = summarize([make_design(seeds=range(4)), *make_pairs([0.1, 0.1, 0.1, 0.2])])
    assert NOTHING in page
    assert "4 comparisons of 4 pairs of runs are too few to say anything about other seeds" in page
    assert row(tables(page)[1], outcome="final accuracy")["excludes 0"] == "better"


def test_the_least_p_that_so_few_seeds_allow_is_said() -> None:
    page = summarize([make_design(), *make_pairs([0.1] * 5)])
    assert (
        "After Holm's correction for 2 primary comparisons no p of the sign-flip test is below "
        "0.05; of so few seeds none can be: the least is 0.125." in page
    )
    page = summarize([make_design(seeds=range(8)), *make_pairs([0.1] * 8)])
    assert (
        "After Holm's correction for 3 primary comparisons the sign-flip test leaves tsloss in "
        "final accuracy (p = 0.0234)." in page
    )
    page = summarize([make_design(seeds=range(8)), *make_pairs([0.1, -0.1] * 4)])
    assert "no p of the sign-flip test is below 0.05.\n" in page


def test_methods_that_learn_nothing_are_called_that() -> None:
    words = "No method's mean accuracy is above the majority rate (0.550)"
    low = [make_run(m, s, accuracy=0.5) for m in ("ce", "tsloss") for s in range(5)]
    assert words in summarize([make_design(), *low])
    assert words not in summarize([make_design(), *make_pairs([0.1] * 5)])


def test_all_groups_together_count_all_intervals() -> None:
    page = summarize(make_experiment(["ce", "l2", "tsloss"], ["boolean", "reviews"]))
    (total,) = re.findall(
        r"## All groups together\n\nOf (\d+) intervals (\d+) excludes? zero", page
    )
    parts = re.findall(r"^- Of (\d+) intervals (\d+) excludes? zero", page, re.MULTILINE)
    assert len(parts) == 2
    assert [sum(int(part[i]) for part in parts) for i in (0, 1)] == [int(n) for n in total]
    assert int(total[0]) == 2 * 2 * 5
    marked = [r for t in tables(page) for r in t if r.get("excludes 0")]
    assert len(marked) == int(total[1])


def test_the_compact_table_is_method_by_group_and_bold_where_zero_is_excluded() -> None:
    plans = [PLAN, {**PLAN, "task": "reviews"}]
    runs = [
        *make_pairs([0.1] * 5, plan=plans[0]),
        *make_pairs([0.1, -0.1, 0.0, 0.05, -0.05], plan=plans[1]),
        *make_pairs([0.1] * 4, "l2", plan=plans[1])[1::2],
    ]
    records = [make_design(("ce", "tsloss", "l2"), plans), *runs]
    (table,) = tables(story_table(records, "final_accuracy") + "\n")
    assert [r["method"] for r in table] == ["tsloss", "l2"]
    assert table[0]["boolean"] == "**+0.100 (+0.100 to +0.100)**"
    assert re.fullmatch(r"0\.000 \(−0\.0\d\d to \+0\.0\d\d\)", table[0]["reviews"])
    assert table[1] == {"method": "l2", "boolean": "–", "reviews": "+0.100 (+0.100 to +0.100)"}
    both = story_tables(records)
    assert len(tables(both)) == 2
    assert "Difference to cross-entropy alone in final accuracy, with percentile bootstrap" in both
    assert "Of 6 intervals" in both


def test_groups_of_a_task_are_told_apart_by_what_differs() -> None:
    runs = [*make_pairs([0.1] * 2), *make_pairs([0.1] * 2, start="repeated")]
    for run in runs:
        run["key"] += run["trial"]["start"]
    (table,) = tables(story_table(runs) + "\n")
    assert list(table[0]) == ["method", "boolean, from vocabulary", "boolean, from repeated"]
