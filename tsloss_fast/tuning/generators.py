"""The tasks whose items are generated, in the style of BIG-Bench Hard."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tsloss_fast.tuning import boolean, navigate, object_counting, web_of_lies

__all__ = ["GENERATORS", "Generator"]


@dataclass(frozen=True)
class Generator:
    """A task whose items are made from their numbers, so that no list of them has to be held.

    Attributes:
        unit: what `difficulty` counts, in the plural.
        default: the difficulty where none is asked for.
        difficulties: all that there are.
        count: of a difficulty, how many items there are.
        item: of a number below that count and a difficulty, the question and the answer. Different
            numbers give different questions.
    """

    unit: str
    default: int
    difficulties: range
    count: Callable[[int], int]
    item: Callable[[int, int], tuple[str, str]]


GENERATORS = {
    "boolean": Generator(
        "operands",
        3,
        range(1, boolean.MAX_OPERANDS + 1),
        boolean.count_boolean_expressions,
        boolean.boolean_item,
    ),
    "navigate": Generator(
        "instructions",
        4,
        navigate.INSTRUCTIONS,
        navigate.count_navigations,
        navigate.navigate_item,
    ),
    "object_counting": Generator(
        "kinds",
        3,
        object_counting.KINDS,
        object_counting.count_object_counting,
        object_counting.object_counting_item,
    ),
    "web_of_lies": Generator(
        "people",
        3,
        web_of_lies.PEOPLE,
        web_of_lies.count_webs_of_lies,
        web_of_lies.web_of_lies_item,
    ),
}
