"""Barcodes in the conventions of GUDHI, ripser, persim and scikit-learn.

A *list of diagrams* is what ripser.py returns and persim takes: for each dimension an (n, 2) array
of births and deaths, an infinite death being `inf`. A *persistence* is what GUDHI's `SimplexTree.
persistence()` returns: pairs (dimension, (birth, death)).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from torch import Tensor

from tsloss_fast import h0_persistence
from tsloss_fast._batch import as_tensor

try:
    from sklearn import get_config
    from sklearn.base import BaseEstimator, TransformerMixin
except ImportError as error:
    raise ModuleNotFoundError(
        "tsloss_fast.analysis.diagrams needs scikit-learn, not installed here: "
        'pip install "tsloss-fast[analysis]"',
        name="sklearn",
    ) from error

__all__ = ["RipsH0", "from_gudhi", "h0_diagram", "to_gudhi"]


def h0_diagram(
    deaths: Tensor | np.ndarray, *, infinite: bool = True, zero_length: bool = True
) -> np.ndarray:
    """The 0-dimensional diagram of one cloud, (n, 2) in the type of the deaths. O(N).

    Args:
        deaths: (N-1,) as `h0_persistence` gives them for N >= 1 points.
        infinite: whether the bar that never dies is added, as GUDHI and ripser have it.
        zero_length: whether bars of length 0 (coincident points) are kept, as ripser and GUDHI's
            `min_persistence=-1` do; GUDHI's default leaves them out.

    Raises:
        ValueError: another shape.

    Example:
        >>> h0_diagram(np.array([0.0, 1.5]))
        array([[0. , 0. ],
               [0. , 1.5],
               [0. , inf]])
    """
    found = deaths.detach().cpu().numpy() if isinstance(deaths, Tensor) else np.asarray(deaths)
    if found.ndim != 1:
        raise ValueError(
            f"deaths: expected shape (N-1,), the bars of one cloud, got {found.shape}; take one "
            "cloud of the batch"
        )
    if not zero_length:
        found = found[found > 0]
    if infinite:
        found = np.append(found, found.dtype.type(np.inf))
    return np.stack([np.zeros_like(found), found], axis=-1)


def to_gudhi(diagrams: Sequence[np.ndarray]) -> list[tuple[int, tuple[float, float]]]:
    """A list of diagrams as GUDHI's persistence: what `gudhi.plot_persistence_barcode` takes.

    Ordered as GUDHI orders it: higher dimensions first, within one the longest bar first.
    O(n log n).

    Raises:
        ValueError: a diagram of another shape than (n, 2).

    Example:
        >>> to_gudhi([np.array([[0.0, 1.0], [0.0, np.inf]])])
        [(0, (0.0, inf)), (0, (0.0, 1.0))]
    """
    found = [
        (dimension, (float(birth), float(death)))
        for dimension, diagram in enumerate(diagrams)
        for birth, death in _checked(diagram)
    ]
    return sorted(found, key=lambda bar: (-bar[0], -(bar[1][1] - bar[1][0]), bar[1][0]))


def from_gudhi(
    persistence: Iterable[tuple[int, tuple[float, float]]],
    dimensions: int | None = None,
) -> list[np.ndarray]:
    """GUDHI's persistence as a list of diagrams, (n, 2) float64 each, bars by death and birth.
    O(n log n).

    Args:
        persistence: pairs (dimension, (birth, death)), in any order.
        dimensions: how many diagrams to return; by default as many as there are dimensions.

    Raises:
        ValueError: something that is no such pair, or a dimension that has no place.

    Example:
        >>> from_gudhi([(0, (0.0, np.inf)), (0, (0.0, 1.0))])
        [array([[ 0.,  1.],
               [ 0., inf]])]
    """
    bars: dict[int, list[tuple[float, float]]] = {}
    for entry in persistence:
        try:
            dimension, (birth, death) = entry
        except (TypeError, ValueError):
            raise ValueError(
                f"persistence: expected pairs (dimension, (birth, death)), got {entry!r}"
            ) from None
        bars.setdefault(int(dimension), []).append((float(birth), float(death)))
    highest = max(bars, default=-1) + 1
    if min(bars, default=0) < 0 or (dimensions is not None and highest > dimensions):
        raise ValueError(
            f"persistence: dimensions {sorted(bars)} do not fit in {dimensions} diagrams"
        )
    return [
        np.array(sorted(bars.get(d, []), key=lambda bar: (bar[1], bar[0]))).reshape(-1, 2)
        for d in range(highest if dimensions is None else dimensions)
    ]


class RipsH0(TransformerMixin, BaseEstimator):  # type: ignore[misc]
    """The exact 0-dimensional Rips diagrams of clouds, as a scikit-learn transformer.

    It stands where `gudhi.sklearn.rips_persistence.RipsPersistence(homology_dimensions=0)` would,
    in a pipeline with `gudhi.representations` for example. Nothing is fitted. After
    `set_output(transform="pandas")` the diagrams are the column "H0" of a table, as GUDHI has them
    for `homology_dimensions=[0]`.

    Args:
        metric: as in `h0_persistence`.
        infinite: whether the bar that never dies is in the diagrams.
        zero_length: whether bars of length 0 are.

    Example:
        >>> from sklearn.pipeline import make_pipeline
        >>> from sklearn.preprocessing import FunctionTransformer
        >>> longest = FunctionTransformer(lambda found: np.array([d[-1, 1] for d in found]))
        >>> clouds = [np.array([[0.0], [1.0], [3.0]]), np.array([[0.0, 0.0], [3.0, 4.0]])]
        >>> make_pipeline(RipsH0(), longest).fit_transform(clouds)
        array([2., 5.])
    """

    def __init__(
        self, metric: str = "euclidean", infinite: bool = False, zero_length: bool = True
    ) -> None:
        self.metric = metric
        self.infinite = infinite
        self.zero_length = zero_length

    def fit(self, X: Any, y: Any = None) -> RipsH0:
        return self

    def transform(self, X: Sequence[Any]) -> Any:
        """The list of diagrams (n, 2) of clouds (N, D), each an array or tensor of any size; or of
        (B, N, D).

        Raises:
            TypeError, ValueError: as `h0_persistence`, for the first bad cloud.
        """
        clouds = [as_tensor(cloud, "X") for cloud in X]
        for k, cloud in enumerate(clouds):
            if not cloud.isfinite().all():
                raise ValueError(f"X: cloud {k} contains NaN or infinity; remove such points")
        diagrams = [
            # No points, no bars: not even the infinite one.
            h0_diagram(
                h0_persistence(cloud.detach(), self.metric).deaths,
                infinite=self.infinite and cloud.shape[0] > 0,
                zero_length=self.zero_length,
            )
            for cloud in clouds
        ]
        # scikit-learn makes its table of what is returned here, in which a diagram is one entry.
        own: dict[str, str] = getattr(self, "_sklearn_output_config", {})
        container = own.get("transform", get_config()["transform_output"])
        if container == "default":
            return diagrams
        column = np.empty((len(diagrams), 1), dtype=object)
        for k, diagram in enumerate(diagrams):
            column[k, 0] = diagram
        return column

    def get_feature_names_out(self, input_features: Any = None) -> np.ndarray:
        """The name of the one column of the table that `set_output` asks for."""
        return np.array(["H0"], dtype=object)

    def __sklearn_is_fitted__(self) -> bool:
        return True

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.requires_fit = False
        tags.no_validation = True  # clouds of different sizes make no array
        tags.input_tags.two_d_array = False
        tags.input_tags.three_d_array = True
        return tags


def _checked(diagram: Any) -> np.ndarray:
    found = np.asarray(diagram, dtype=np.float64)
    if found.size == 0:
        return found.reshape(0, 2)
    if found.ndim != 2 or found.shape[1] != 2:
        raise ValueError(f"diagrams: expected arrays of shape (n, 2), got {found.shape}")
    return found
