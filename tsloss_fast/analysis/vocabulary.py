"""Names for points of an embedding space: the tokens of the vocabulary nearest to them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy.typing as npt
from torch import Tensor

__all__ = ["Neighbours", "Vocabulary", "load_vocabulary"]


@dataclass(frozen=True)
class Neighbours:
    """The tokens nearest to N points, nearest first; equal distances by smaller index.

    Attributes:
        tokens: N lists of k names.
        distances: (N, k) float64 on the CPU, Euclidean.
        indices: (N, k) int64 on the CPU, rows of the embedding table (ids of the tokens).
    """

    tokens: list[list[str]]
    distances: Tensor
    indices: Tensor


class Vocabulary:
    """A table of token embeddings and the names of its rows.

    Args:
        embeddings: (V, D) floating tensor; kept as it is, half types too.
        tokens: the names of rows 0, 1, …; None or "" for a row that is never a neighbour (special
            tokens, rows without a token). Rows beyond the end of `tokens` have no token either.
    """

    def __init__(self, embeddings: Tensor, tokens: Sequence[str | None]) -> None:
        raise NotImplementedError

    def __len__(self) -> int:
        """V, the number of rows."""
        raise NotImplementedError

    def nearest(self, points: Tensor | npt.NDArray[Any], k: int = 8) -> Neighbours:
        """The k tokens nearest to each of the points (N, D), or all if there are fewer than k."""
        raise NotImplementedError

    def rows(self, indices: Tensor | npt.NDArray[Any] | Sequence[int]) -> Tensor:
        """The embeddings (M, D) of rows (M,), on the CPU, float32 (float64 if the table is)."""
        raise NotImplementedError


def load_vocabulary(name: str) -> Vocabulary:
    """The vocabulary of a model, without loading the model and without any network.

    Args:
        name: as in `tsloss_fast.tuning.load_model`: a folder, a `.gguf` file, `"smollm2"`, or the
            Hub name of a model that is in the local cache.

    Raises:
        tsloss_fast.tuning.ModelNotAvailableError: it is not on this machine.
    """
    raise NotImplementedError
