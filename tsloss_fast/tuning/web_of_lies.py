"""Who tells the truth, where each speaks of the one before: in the style of BIG-Bench Hard."""

from __future__ import annotations

import math

from tsloss_fast.tuning.numbering import check_index, take_digits, take_ordered

__all__ = ["PEOPLE", "count_webs_of_lies", "web_of_lies_item"]

PEOPLE = range(2, 9)
# Each is one token of SmolLM2, at the beginning of a text and after a space.
NAMES = (
    *("Alice", "Anna", "Ben", "Carl", "Dan", "Fred", "Henry", "Jack"),
    *("Jane", "Kim", "Maria", "Max", "Paul", "Rose", "Sarah", "Tom"),
)
CLAIMS = ("tells the truth", "lies")


def count_webs_of_lies(people: int) -> int:
    """How many distinct questions of `people` people exist, 2 ≤ people ≤ 8: P(16, k)·2ᵏ.

    Exactly half of them are answered by Yes.
    """
    return int(math.perm(len(NAMES), people) * len(CLAIMS) ** people)


def web_of_lies_item(index: int, people: int) -> tuple[str, str]:
    """The question number `index` and its answer; different numbers give different questions.

    Of the first we are told whether they tell the truth or lie, and each of the others says that
    of the one before. Whoever calls a liar a liar tells the truth, so the last one does if and
    only if the number of "lies" is even.

    Raises:
        ValueError: `index` is not in 0 … `count_webs_of_lies(people)` − 1.
    """
    check_index(index, count_webs_of_lies(people))
    index, lies = take_digits(index, len(CLAIMS), people)
    _, names = take_ordered(index, NAMES, people)
    said = [f"{names[0]} {CLAIMS[lies[0]]}."]
    for speaker, person, lie in zip(names[1:], names[:-1], lies[1:], strict=True):
        said.append(f"{speaker} says {person} {CLAIMS[lie]}.")
    question = f"{' '.join(said)} Does {names[-1]} tell the truth? Answer:"
    return question, " No" if sum(lies) % 2 else " Yes"
