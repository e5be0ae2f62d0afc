"""Numbers read as choices: what a generator needs to make its item number `index`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

__all__ = ["check_index", "take_digits", "take_ordered"]

T = TypeVar("T")


def check_index(index: int, count: int) -> None:
    """Raise ValueError unless 0 ≤ index < count: beyond it, items would come a second time."""
    if not 0 <= index < count:
        raise ValueError(f"index must be in 0 … {count - 1}, got {index}")


def take_digits(index: int, base: int, length: int) -> tuple[int, list[int]]:
    """`length` digits of a number, the lowest first, and the number that stands before them."""
    digits = []
    for _ in range(length):
        index, digit = divmod(index, base)
        digits.append(digit)
    return index, digits


def take_ordered(index: int, options: Sequence[T], length: int) -> tuple[int, list[T]]:
    """`length` different options in an order, and what is left of the number.

    The remainder of `index` by `math.perm(len(options), length)` says which; each of these
    remainders is another choice or another order.
    """
    left = list(options)
    chosen = []
    for _ in range(length):
        index, place = divmod(index, len(left))
        chosen.append(left.pop(place))
    return index, chosen
