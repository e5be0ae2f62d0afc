"""Cohorts: each run is the run it would be alone, whatever stops or harms the others."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_llama import NEEDS

pytest.importorskip("transformers", reason=NEEDS)
pytest.importorskip("peft", reason=NEEDS)

from tiny_cohorts import timeless, train, trials

from tsloss_fast.compare import cohort_items
from tsloss_fast.compare.cohort import Cohort, CohortInterrupted
from tsloss_fast.compare.trial import trial_key
from tsloss_fast.tuning import load_task


def test_a_run_is_the_same_alone_and_among_others(tiny: Any, tmp_path: Path) -> None:
    wanted = trials(["ce", "l2", "pairwise", "hofer", "surrogate", "tsloss"])
    together = train(wanted, tiny, tmp_path)
    assert [record["trial"]["method"] for record in together] == [t["method"] for t in wanted]
    for record, trial in zip(together, wanted, strict=True):
        (alone,) = train([trial], tiny, tmp_path)
        assert record["cohort"] == 6
        assert alone["cohort"] == 1
        changed = {"cohort": 1}
        assert timeless([record | changed]) == timeless([alone])


def test_all_begin_alike_and_then_differ(tiny: Any, tmp_path: Path) -> None:
    records = train(
        trials(["ce", "l2", "pairwise", "hofer", "surrogate", "tsloss"]), tiny, tmp_path
    )
    assert len({record["train_ce"][0] for record in records}) == 1
    assert len({str(record["curve"][0]) for record in records}) == 1
    assert len({record["train_ce"][-1] for record in records}) == 6
    assert len({record["task_digest"] for record in records}) == 1


def test_curves_stand_at_the_start_at_intervals_and_at_the_end(tiny: Any, tmp_path: Path) -> None:
    (record,) = train(trials(["ce"], task={"steps": 7}), tiny, tmp_path)
    assert [point["step"] for point in record["curve"]] == [0, 3, 6, 7]
    assert len(record["train_ce"]) == 7
    assert record["end"]["items"] == 16
    assert (record["curve"][-1]["accuracy"] * 10) % 1 == pytest.approx(0, abs=1e-9)
    assert record["split"] == "test"
    assert record["forward"] == "packed"


def test_a_search_never_looks_at_a_test_item(
    tiny: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = trials(["ce", "tsloss"], stage="search")
    expected = train(wanted, tiny, tmp_path)
    assert {record["split"] for record in expected} == {"validation"}
    assert [point["step"] for point in expected[0]["curve"]] == list(range(7))
    assert expected[0]["end"]["items"] == 12

    def other_test(*args: Any, **kwargs: Any) -> Any:
        task = load_task(*args, **kwargs)
        return dataclasses.replace(task, test=tuple(reversed(task.train[:16])))

    monkeypatch.setattr(cohort_items, "load_task", other_test)
    found = train(wanted, tiny, tmp_path)
    for record in (*found, *expected):
        del record["task_digest"]
    assert timeless(found) == timeless(expected)


@pytest.mark.parametrize("stop", [1, 3, 5])
def test_a_stopped_cohort_ends_as_one_that_was_not(stop: int, tiny: Any, tmp_path: Path) -> None:
    wanted = trials(["ce", "tsloss", "tsloss-compact"])
    expected = train(wanted, tiny, tmp_path)
    steps: list[int] = []

    def interrupted() -> bool:
        return len(steps) >= stop

    one = Cohort(wanted, tiny, tmp_path / "state.pt", interrupted=interrupted)
    advance = one._advance
    one._advance = lambda: (steps.append(1), advance())[1]  # type: ignore[method-assign, func-returns-value]
    with pytest.raises(CohortInterrupted):
        one.finish()
    assert (tmp_path / "state.pt").exists()
    two = Cohort(wanted, tiny, tmp_path / "state.pt")
    assert timeless(two.finish()) == timeless(expected)
    assert two.model_seconds > 0


def test_a_cohort_asked_to_stop_when_only_its_end_is_left_ends(tiny: Any, tmp_path: Path) -> None:
    """Or the question would be answered to nobody, and whoever asked would wait for ever."""
    asked: list[int] = []
    one = Cohort(
        trials(["ce"], task={"steps": 4}),
        tiny,
        tmp_path / "state.pt",
        interrupted=lambda: bool(asked.append(one.step)),
    )
    (record,) = one.finish()
    assert asked == [1, 2, 3]
    assert record["curve"][-1]["step"] == 4


def test_a_state_of_other_runs_or_a_damaged_one_is_refused(tiny: Any, tmp_path: Path) -> None:
    def stop_now() -> bool:
        return True

    with pytest.raises(CohortInterrupted):
        train(trials(["ce"]), tiny, tmp_path, interrupted=stop_now)
    with pytest.raises(RuntimeError, match=r"state\.pt cannot be read .*other runs.*: delete it"):
        train(trials(["l2"]), tiny, tmp_path)
    (tmp_path / "state.pt").write_bytes(b"PK")
    with pytest.raises(RuntimeError, match=r"state\.pt cannot be read"):
        train(trials(["ce"]), tiny, tmp_path)


def test_a_run_that_diverges_stays_where_it_was_and_harms_no_other(
    tiny: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = trials(["ce", "tsloss"], task={"steps": 6, "eval_every": 2})
    (expected,) = train(wanted[:1], tiny, tmp_path)
    original, calls = tiny.answers, []

    def answers(prompts: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        found = original(prompts, *args, **kwargs)
        if torch.is_grad_enabled():
            calls.append(1)
            if len(calls) == 4:
                # The second run alone has an infinite loss, once.
                factor = torch.ones(len(prompts), 1, 1)
                factor[1] = math.inf
                return dataclasses.replace(found, logits=found.logits * factor)
        return found

    monkeypatch.setattr(tiny, "answers", answers)
    good, bad = train(wanted, tiny, tmp_path)
    assert timeless([good | {"cohort": 1}]) == timeless([expected])
    assert good["diverged"] is None
    assert bad["diverged"] == 4
    assert len(bad["train_ce"]) == 3
    by_step = {point["step"]: point for point in bad["curve"]}
    # At step 3 it was last moved: nothing changes after that.
    assert by_step[4] | {"step": 6} == by_step[6]
    assert by_step[4] != by_step[2] | {"step": 4}
    assert all(math.isfinite(point["ce"]) for point in bad["curve"])


def test_the_time_of_a_term_is_counted_where_it_can_be(tiny: Any, tmp_path: Path) -> None:
    control, tuned, hidden = train(trials(["ce", "tsloss", "tsloss-hidden"]), tiny, tmp_path)
    assert control["seconds"]["term"] == 0
    assert 0 < tuned["seconds"]["term"] < tuned["seconds"]["step"]
    assert hidden["seconds"]["term"] is None


def test_trials_that_do_not_belong_together_are_refused(tiny: Any, tmp_path: Path) -> None:
    one, two = trials(["ce", "tsloss"])
    two["seed"] = 1
    with pytest.raises(ValueError, match="may differ in method, lr and weight only"):
        Cohort([one, two], tiny, tmp_path / "state.pt")
    assert trial_key(one) != trial_key(two)
