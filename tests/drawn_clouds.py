"""Clouds that hypothesis draws, and the settings of the property tests."""

from __future__ import annotations

import numpy as np
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from oracles import METRICS, Array

EXAMPLES = settings(
    deadline=None,
    derandomize=True,
    max_examples=100,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
metrics = st.sampled_from(METRICS)
dtypes = st.sampled_from([np.float32, np.float64])
COORDINATES = {
    32: st.floats(-100, 100, width=32, allow_subnormal=False),
    64: st.floats(-100, 100, width=64, allow_subnormal=False),
}


@st.composite
def clouds(draw: st.DrawFn, low: int = 2, high: int = 12, nonzero: bool = False) -> Array:
    """Clouds with repeated coordinates, coincident points and zero vectors among them."""
    dtype = draw(dtypes)
    shape = (draw(st.integers(low, high)), draw(st.integers(1, 6)))
    elements = COORDINATES[np.dtype(dtype).itemsize * 8]
    if draw(st.booleans()):
        elements = st.integers(-3, 3).map(float)
    points = draw(hnp.arrays(dtype, shape, elements=elements))
    if nonzero:
        points[np.abs(points).max(1) < 1e-3, 0] = 1
    return points
