"""Tasks: splits that never meet, and expressions with Python's meaning."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny_llama import NEEDS

pytest.importorskip("transformers", reason=NEEDS)
pytest.importorskip("peft", reason=NEEDS)

from task_items import line, questions, write

from tsloss_fast.tuning.config import TuneConfig
from tsloss_fast.tuning.tasks import Item, Task, boolean_item, count_boolean_items, load_task


@given(st.data(), st.integers(1, 8))
def test_expressions_have_the_value_that_python_gives_them(
    data: st.DataObject, operands: int
) -> None:
    index = data.draw(st.integers(0, count_boolean_items(operands) - 1))
    question, answer = boolean_item(index, operands)
    assert answer == f" {eval(question.removesuffix(' is'))}"


def test_every_number_is_another_expression_and_the_count_says_how_many() -> None:
    count = count_boolean_items(3)
    assert len({boolean_item(index, 3)[0] for index in range(count)}) == count == 2048
    with pytest.raises(ValueError, match="0 … 2047"):
        boolean_item(2048, 3)


def test_asking_for_more_expressions_than_exist_says_how_many_exist() -> None:
    sizes = {"test_size": 30, "validation_size": 18, "seed": 0, "difficulty": 2}
    everything = load_task("boolean", train_size=80, **sizes)
    assert len(questions(everything.train + everything.test + everything.validation)) == 128
    with pytest.raises(ValueError, match="only 128 exist with 2 operands"):
        load_task("boolean", train_size=81, **sizes)
    with pytest.raises(ValueError, match="1 to 8 operands"):
        load_task("boolean", train_size=1, test_size=1, seed=0, difficulty=9)


def test_boolean_items_read_like_the_benchmark_and_are_balanced() -> None:
    task = load_task("boolean", train_size=400, test_size=100, seed=1)
    assert all(item.question.endswith(" is") for item in task.train)
    assert task.answers == (" False", " True")
    counts = Counter(item.answer for item in task.train)
    assert 0.4 < counts[" True"] / 400 < 0.6


@pytest.fixture
def source(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "boolean":
        return "boolean"
    return str(write(tmp_path / "task.jsonl", *[line(f"question {i} ?") for i in range(30)]))


@pytest.mark.parametrize("source", ["boolean", "file"], indirect=True)
def test_splits_are_disjoint_and_depend_on_the_seed_alone(source: str) -> None:
    sizes = {"train_size": 12, "test_size": 10, "validation_size": 8}
    task = load_task(source, **sizes, seed=5)
    splits = (task.train, task.test, task.validation)
    assert [len(split) for split in splits] == [12, 10, 8]
    assert len(questions(task.train) | questions(task.test) | questions(task.validation)) == 30
    assert load_task(source, **sizes, seed=5) == task
    other = load_task(source, **sizes, seed=6)
    assert other.train != task.train
    assert (other.digest == task.digest) is False


def test_growing_the_validation_split_does_not_move_the_test_split() -> None:
    plain = load_task("boolean", train_size=20, test_size=10, seed=2)
    more = load_task("boolean", train_size=20, test_size=10, validation_size=5, seed=2)
    assert (more.train, more.test) == (plain.train, plain.test)
    assert more.digest != plain.digest


def test_a_run_with_a_tasks_own_difficulty_is_the_run_that_names_it() -> None:
    assert TuneConfig("x").identity() == TuneConfig("y", difficulty=3).identity()
    assert TuneConfig("x", task="a.jsonl").identity()["difficulty"] is None


# A run that was stopped goes on only with the same items.
def test_the_items_of_a_seed_are_the_same_for_ever() -> None:
    digest = "4eae050019bfd8e9039e659cebba82141f3a9d1f13e18730818ace83f1b7d964"
    assert load_task("boolean", train_size=128, test_size=60, seed=0).digest == digest


def test_majority_rate_is_that_of_the_test_split() -> None:
    test = tuple(Item(f"q{i}", answer) for i, answer in enumerate("aaab"))
    train = tuple(Item(f"t{i}", "b") for i in range(9))
    assert Task("x", train, test).majority_rate == 0.75
