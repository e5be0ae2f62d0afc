"""Whether a walk ends where it began, in the style of the BIG-Bench Hard task."""

from __future__ import annotations

import math
from functools import cache

from tsloss_fast.tuning.numbering import check_index, take_digits

__all__ = ["INSTRUCTIONS", "count_navigations", "navigate_item"]

# A walk, a turn and a walk back at least.
INSTRUCTIONS = range(3, 9)
NUMBERS = ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
# All by quarter turns to the left; turns begin at one, and sides are as the walker sees them.
TURNS = ("Turn left.", "Turn around.", "Turn right.")
SIDES = ("", " left", " back", " right")
DIRECTIONS = ((0, 1), (-1, 0), (0, -1), (1, 0))
# Every walk: its direction, its steps, and where it leads.
LEGS = tuple(
    (direction, steps, steps * dx, steps * dy)
    for direction, (dx, dy) in enumerate(DIRECTIONS)
    for steps in range(1, len(NUMBERS) + 1)
)
# What is added to the last number of steps, so that the walk misses the start.
MISSES = (1, -1, 2, -2)


def count_navigations(instructions: int) -> int:
    """How many distinct questions of 3 … 8 instructions exist: half of them return.

    The first and the last instruction are walks of 1 … 9 steps, and t ≥ 1 of the k−2 between them
    are turns by one, two or three quarters. A turn only renames the directions of later walks, so
    Σ_t (k−2 choose t) · 3ᵗ · R(k−t) of them return, R(w) being the closed walks of w legs in the
    plane. For each of these there is one that misses (see `navigate_item`).
    """
    return 2 * sum(
        math.comb(instructions - 2, turns) * _returning(instructions, turns)
        for turns in range(1, instructions - 1)
    )


def navigate_item(index: int, instructions: int) -> tuple[str, str]:
    """The question number `index` and its answer; different numbers give different questions.

    Even numbers are the walks that return. The odd number after one has the same walk with one or
    two last steps more or fewer (after nine comes one), so that the two are alike but for where
    they end. Only one number of last steps leads back, so the walk that returns can be recovered
    from the one that misses, and no two of these are the same.

    Raises:
        ValueError: `index` is not in 0 … `count_navigations(instructions)` − 1.
    """
    check_index(index, count_navigations(instructions))
    number, missing = divmod(index, 2)
    miss = MISSES[number % len(MISSES)] if missing else 0
    # The bits of `places` say which instructions between the first and the last are turns.
    places = 1
    while number >= (ways := _returning(instructions, places.bit_count())):
        number -= ways
        places += 1
    number, turns = take_digits(number, len(TURNS), places.bit_count())
    walks = _closed_walk(number, instructions - len(turns))
    direction, steps = walks.pop()
    walks.append((direction, (steps - 1 + miss) % len(NUMBERS) + 1))
    facing = 0
    said = []
    # Reversed, so that pop() takes the first walk first.
    walks.reverse()
    for place in range(-1, instructions - 1):
        if place >= 0 and places >> place & 1:
            quarters = turns.pop() + 1
            facing += quarters
            said.append(TURNS[quarters - 1])
        else:
            direction, steps = walks.pop()
            plural = "s" if steps > 1 else ""
            side = SIDES[(direction - facing) % len(SIDES)]
            said.append(f"Take {NUMBERS[steps - 1]} step{plural}{side}.")
    question = f"{' '.join(said)} Do you return to the start? Answer:"
    return question, " No" if missing else " Yes"


def _returning(instructions: int, turns: int) -> int:
    """Instructions that return, with turns at given places."""
    return int(len(TURNS) ** turns * _ways_back(0, 0, instructions - turns))


def _ways_back(x: int, y: int, walks: int) -> int:
    """In how many ways `walks` walks of 1 … 9 steps lead from (x, y) to the origin."""
    # The number is the same for all eight images of a point, so one of them is enough.
    return _ways_back_from(*sorted((abs(x), abs(y))), walks)


@cache
def _ways_back_from(x: int, y: int, walks: int) -> int:
    if x + y > len(NUMBERS) * walks:
        return 0
    if walks == 0:
        return 1
    return sum(_ways_back(x + dx, y + dy, walks - 1) for _, _, dx, dy in LEGS)


def _closed_walk(number: int, walks: int) -> list[tuple[int, int]]:
    """Direction and steps of each leg of the closed walk of that number."""
    x = y = 0
    legs = []
    for left in reversed(range(walks)):
        for direction, steps, dx, dy in LEGS:
            ways = _ways_back(x + dx, y + dy, left)
            if number < ways:
                x, y = x + dx, y + dy
                legs.append((direction, steps))
                break
            number -= ways
    return legs
