"""Counting the things of one sort among others, in the style of the BIG-Bench Hard task."""

from __future__ import annotations

import math

from tsloss_fast.tuning.numbering import check_index, take_digits, take_ordered

__all__ = ["KINDS", "count_object_counting", "object_counting_item"]

# Two kinds at least: one that is asked for and one that is not.
KINDS = range(2, 7)
# Every word, in the plural too, and every number is one token of SmolLM2 after a space.
SORTS = {
    "fruits": "apple pear peach banana orange lemon",
    "vegetables": "potato carrot onion cucumber pepper beet",
    "animals": "cat dog cow pig goat duck",
    "clothes": "shirt hat coat sock glove jacket",
    "vehicles": "car bus bike truck train boat",
}
NOUNS = {sort: tuple(nouns.split()) for sort, nouns in SORTS.items()}
NOUNS_OF_A_SORT = 6
# Of each kind there are one, two or three.
AMOUNTS = 3
NUMBERS = (
    *("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"),
    *("eleven", "twelve", "thirteen", "fourteen", "fifteen"),
)
PAIRS = tuple((asked, other) for asked in NOUNS for other in NOUNS if asked != other)


def count_object_counting(kinds: int) -> int:
    """How many distinct questions with `kinds` kinds of things exist, 2 ≤ kinds ≤ 6.

    Of the n = 5 sorts one is asked for and another one stands beside it. The kinds of the first
    stand at m ≥ 1 of the places, those of the second at the others: with 6 nouns of a sort and
    amounts of 1 … 3 that is n·(n−1) · 3ᵏ · Σ_m (k choose m) · P(6, m) · P(6, k−m).
    """
    ways = sum(math.comb(kinds, asked) * _namings(asked, kinds) for asked in range(1, kinds))
    return int(len(PAIRS) * AMOUNTS**kinds * ways)


def object_counting_item(index: int, kinds: int) -> tuple[str, str]:
    """The question number `index` and its answer, a number word; other numbers, other questions.

    Raises:
        ValueError: `index` is not in 0 … `count_object_counting(kinds)` − 1.
    """
    check_index(index, count_object_counting(kinds))
    index, pair = divmod(index, len(PAIRS))
    index, amounts = take_digits(index, AMOUNTS, kinds)
    # The bits of `places` say where a kind is of the sort that is asked for: some, but not all.
    places = 1
    while index >= (ways := _namings(places.bit_count(), kinds)):
        index -= ways
        places += 1
    asked, other = PAIRS[pair]
    index, wanted = take_ordered(index, NOUNS[asked], places.bit_count())
    index, beside = take_ordered(index, NOUNS[other], kinds - places.bit_count())
    total = 0
    things = []
    for place, digit in enumerate(amounts):
        amount = digit + 1
        if places >> place & 1:
            total += amount
            things.append(_thing(wanted.pop(), amount))
        else:
            things.append(_thing(beside.pop(), amount))
    listed = f"{', '.join(things[:-1])} and {things[-1]}"
    return f"I have {listed}. How many {asked} do I have? Answer:", f" {NUMBERS[total]}"


def _namings(asked: int, kinds: int) -> int:
    return math.perm(NOUNS_OF_A_SORT, asked) * math.perm(NOUNS_OF_A_SORT, kinds - asked)


def _thing(noun: str, amount: int) -> str:
    if amount == 1:
        return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"
    ending = "es" if noun in ("peach", "potato", "bus") else "s"
    return f"{NUMBERS[amount]} {noun}{ending}"
