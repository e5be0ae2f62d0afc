"""Splits that no choice of seeds can mix: an item's question alone says where it belongs."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator

__all__ = ["TEST_SHARE", "TRAIN_SHARE", "VALIDATION_SHARE", "shuffled", "split_of"]

# Shares of all items of a task, in percent. A test set needs the most items for its size to be a
# small error of an accuracy, and training the most to be worth anything.
TRAIN_SHARE = 50
VALIDATION_SHARE = 20
TEST_SHARE = 30


def split_of(question: str) -> str:
    """ "train", "validation" or "test": a function of the question's text (its SHA-256) alone.

    White space around the question does not count: it may as well stand before the answer.
    """
    digest = hashlib.sha256(question.strip().encode()).digest()
    # Of 64 bits the remainder is uniform up to 100 / 2^64.
    percentile = int.from_bytes(digest[:8], "big") % 100
    if percentile < TRAIN_SHARE:
        return "train"
    return "validation" if percentile < TRAIN_SHARE + VALIDATION_SHARE else "test"


def shuffled(count: int, seed: int) -> Iterator[int]:
    """The numbers 0 … count − 1, each once, in a random order that depends on the seed alone.

    A Fisher-Yates shuffle that holds only the numbers that were moved: O(1) time and memory a
    number that is taken, however large `count` is.
    """
    generator = random.Random(seed)
    moved: dict[int, int] = {}
    for position in range(count):
        chosen = generator.randrange(position, count)
        yield moved.get(chosen, chosen)
        # The number that stood here takes the place of the one that was taken.
        moved[chosen] = moved.pop(position, position)
