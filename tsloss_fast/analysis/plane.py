"""The plane in which points spread most."""

from __future__ import annotations

import numpy as np

__all__ = ["principal_plane"]


def principal_plane(points: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The centre (D,) of points (N, D), their two principal directions (D, 2), orthonormal, and the
    directions' shares (2,) of the variance.

    Each is turned so that its largest loading is positive: the same points have the same plane. A
    direction that a cloud does not have (D < 2, points that coincide) is 0.
    """
    size = float(np.abs(points).max(initial=0)) or 1.0
    scaled = points / size
    centre = scaled.mean(0)
    centred = scaled - centre
    count, dimension = centred.shape
    if count > dimension:
        squares, vectors = np.linalg.eigh(centred.T @ centred)
        squares, loadings = squares[::-1].clip(0), vectors[:, ::-1][:, :2]
    else:
        _, singular, vectors = np.linalg.svd(centred, full_matrices=False)
        squares, loadings = singular**2, vectors[:2].T
    total = float(squares.sum())
    axes, shares = np.zeros((dimension, 2)), np.zeros(2)
    # Below rounding the directions are those of noise.
    if total > (1e-14 * count) ** 2:
        strongest = np.abs(loadings).argmax(0)
        found = loadings.shape[1]
        axes[:, :found] = loadings * np.sign(loadings[strongest, np.arange(found)])
        shares[:found] = squares[:2] / total
    return size * centre, axes, shares
