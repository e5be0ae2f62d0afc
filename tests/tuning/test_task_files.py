"""Tasks from files are read line by line, and each fault is named with its line."""

from __future__ import annotations

from pathlib import Path

import pytest
from tiny_llama import NEEDS

pytest.importorskip("transformers", reason=NEEDS)
pytest.importorskip("peft", reason=NEEDS)

from task_items import line, write

from tsloss_fast.tuning.tasks import load_task


def test_a_task_without_a_difficulty_refuses_one(tmp_path: Path) -> None:
    path = write(tmp_path / "t.jsonl", line("a ?"), line("b ?"))
    with pytest.raises(ValueError, match="has no difficulty, got 3"):
        load_task(path, train_size=1, test_size=1, difficulty=3)
    for bad in (0, 9, True, 2.0, "3"):
        with pytest.raises(ValueError, match=f"1 to 8 operands, got {bad!r}"):
            load_task("boolean", train_size=1, test_size=1, difficulty=bad)  # type: ignore[arg-type]


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


@pytest.mark.parametrize(
    ("first", "second", "repeated"),
    [
        (("q is", "yes"), ("q is ", "yes"), "the question"),
        (("q is", "yes"), ("q  is", "no"), "the question"),
        (("q\nis", "yes"), (" q is\t", "yes"), "the question"),
        (("q is", "not yes"), ("q is not", "yes"), "the text"),
    ],
)
def test_white_space_and_the_cut_tell_no_two_items_apart(
    first: tuple[str, str], second: tuple[str, str], repeated: str, tmp_path: Path
) -> None:
    path = write(tmp_path / "t.jsonl", line(*first), line("other ?"), line(*second))
    with pytest.raises(ValueError, match=rf"line 3: {repeated}.* of line 1 stands here again"):
        load_task(path, train_size=1, test_size=1)


def test_too_few_items_a_missing_file_and_silly_sizes_are_said(tmp_path: Path) -> None:
    path = write(tmp_path / "t.jsonl", line("a ?"), line("b ?"))
    with pytest.raises(ValueError, match=r"3 items were asked for.*only 2 distinct"):
        load_task(path, train_size=2, test_size=1, seed=0)
    with pytest.raises(FileNotFoundError, match="neither a file nor 'boolean'"):
        load_task(tmp_path / "none.jsonl", train_size=1, test_size=1, seed=0)
    with pytest.raises(ValueError, match="holds no item"):
        load_task(write(tmp_path / "empty.jsonl", "", " "), train_size=1, test_size=1, seed=0)
    for sizes in ({"train_size": 0}, {"test_size": 0}, {"validation_size": -1}):
        with pytest.raises(ValueError, match=f"{next(iter(sizes))} must be at least"):
            load_task("boolean", **({"train_size": 1, "test_size": 1, "seed": 0} | sizes))
