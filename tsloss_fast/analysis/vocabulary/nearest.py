"""Names for points of an embedding space: the tokens of the vocabulary nearest to them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from tsloss_fast._batch import as_tensor, shape_error

__all__ = ["Neighbours", "Vocabulary"]

# Numbers in float64 that a block of the search holds: 32 MB.
_BLOCK = 2**22
# Squares of larger numbers leave float64.
_LARGEST = 1e150


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
        embeddings: (V, D) floating tensor or array; kept as it is, half types too, on the CPU.
        tokens: the names of rows 0, 1, …; None or "" for a row that is never a neighbour (special
            tokens, rows without a token). Rows beyond the end of `tokens` have no token either.

    Raises:
        ValueError: another shape, more names than rows, no name at all, or a row with a name that
            holds NaN, infinity or numbers beyond 1e150.
        TypeError: `embeddings` is no dense floating tensor.

    Example:
        >>> vocabulary = Vocabulary(torch.eye(3), ["red", "green", "blue"])
        >>> found = vocabulary.nearest(torch.tensor([[0.9, 0.1, 0.0]]), k=2)
        >>> found.tokens
        [['red', 'green']]
    """

    def __init__(self, embeddings: Tensor | npt.NDArray[Any], tokens: Sequence[str | None]) -> None:
        table = as_tensor(embeddings, "embeddings")
        if table.ndim != 2:
            raise shape_error("embeddings", table.shape, "(V, D)")
        if len(tokens) > len(table):
            raise ValueError(
                f"{len(tokens)} tokens for {len(table)} rows of embeddings: expected a row for "
                "each token"
            )
        self.embeddings = table.detach().cpu()
        self.tokens = [*tokens, *[None] * (len(table) - len(tokens))]
        self._named = np.array([bool(token) for token in self.tokens])
        if not self._named.any():
            raise ValueError("no row of the vocabulary has a name: nothing can be a neighbour")
        for _, rows in self._blocks(1):
            _check_numbers(rows, "embeddings")

    def __len__(self) -> int:
        """V, the number of rows."""
        return len(self.tokens)

    def nearest(self, points: Tensor | npt.NDArray[Any], k: int = 8) -> Neighbours:
        """The k tokens nearest to each of the points, or all that have a name if they are fewer.

        A matrix product finds the few rows that can be among the k nearest: ‖p‖² + ‖e‖² - 2p·e is
        used with a bound of its rounding, never as a distance. Those few are measured by direct
        differences in float64, which decide the order. O(N·V·D) time. Memory is bounded but for
        the table itself: 32 MB a block of V.

        Args:
            points: (N, D) floating tensor or array.
            k: at least 1.

        Raises:
            ValueError: another shape, k < 1, or points that are not finite.
            TypeError: `points` is no dense floating tensor.
        """
        tensor = as_tensor(points, "points")
        dim = self.embeddings.shape[1]
        if tensor.ndim != 2 or tensor.shape[1] != dim:
            raise shape_error("points", tensor.shape, f"(N, {dim})")
        if k < 1:
            raise ValueError(f"k must be at least 1, got {k}")
        numbers: Any = tensor.detach().cpu().double().numpy()
        _check_numbers(numbers, "points")
        k = min(k, int(self._named.sum()))
        best = np.full((len(numbers), k), np.inf)  # squared distances
        chosen = np.full((len(numbers), k), len(self))
        # Norms are what rounding is relative to: small around the points' own centre. This rounds
        # too, relative to the difference, which the bound below has room for.
        centre = numbers.sum(0) / max(len(numbers), 1)
        near = numbers - centre
        near_norm = np.sqrt(np.square(near).sum(1))
        for start, rows in self._blocks(len(numbers)):
            far = rows - centre
            far_norm = np.sqrt(np.square(far).sum(1))
            # Of D products and sums, twice, and of the direct differences: each at most
            # (D + 4)·2^-53·(|p| + |e|)² (Higham 2002, section 3.1), and as much again to spare.
            error = 8 * (dim + 4) * 2.0**-53 * np.square(near_norm[:, None] + far_norm)
            error += dim * np.finfo(float).tiny  # products may underflow
            square = np.square(near_norm)[:, None] + np.square(far_norm) - 2 * (near @ far.T)
            square[:, ~self._named[start : start + len(rows)]] = np.inf
            # The k-th smallest upper bound: whatever is certainly above it is not among the k.
            upper = np.concatenate([best, square + error], 1)
            limit = np.partition(upper, k - 1, axis=1)[:, k - 1 : k]
            possible = square - error <= np.minimum(limit, np.finfo(float).max)
            for i in possible.any(1).nonzero()[0]:
                found = possible[i].nonzero()[0]
                exact = np.square(numbers[i] - rows[found]).sum(1)
                squares = np.concatenate([best[i], exact])
                # Rows found before have smaller indices, so a stable order breaks ties by index.
                order = np.argsort(squares, kind="stable")[:k]
                best[i] = squares[order]
                chosen[i] = np.concatenate([chosen[i], found + start])[order]
        names = [[self.tokens[i] or "" for i in row] for row in chosen.tolist()]
        return Neighbours(names, torch.from_numpy(np.sqrt(best)), torch.from_numpy(chosen))

    def rows(self, indices: Tensor | npt.NDArray[Any] | Sequence[int]) -> Tensor:
        """The embeddings (M, D) of rows (M,), on the CPU, float32 (float64 if the table is)."""
        found = self.embeddings[torch.as_tensor(indices, dtype=torch.int64, device="cpu")]
        return found if found.dtype == torch.float64 else found.float()

    def _blocks(self, points: int) -> Iterator[tuple[int, Any]]:
        """The table as float64, a few rows at a time: (first row, rows (B, D)). Rows without a name
        are zeros: padding may hold anything."""
        size = max(1, _BLOCK // (self.embeddings.shape[1] + 4 * points))
        for start in range(0, len(self), size):
            part = self.embeddings[start : start + size].to(torch.float64, copy=True)
            rows: Any = part.numpy()
            rows[~self._named[start : start + size]] = 0.0
            yield start, rows


def _check_numbers(numbers: Any, name: str) -> None:
    if not (np.abs(numbers) <= _LARGEST).all():
        raise ValueError(f"{name} holds NaN, infinity, or numbers beyond {_LARGEST:g}")
