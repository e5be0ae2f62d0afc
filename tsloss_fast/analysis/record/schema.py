"""The record of a tracked run: an Arrow IPC stream, one row per step, cloud and dimension.

The file only ever grows, by one write a record, so a process killed at any moment leaves at most
one half batch at the end, which readers here leave out. Anything that reads Arrow opens it:

    pyarrow.ipc.open_stream("runs/boolean/topology.arrows").read_pandas()

`SCHEMA` has the columns. A row of dimension 0 is written when the step is recorded, its row
of dimension 1 when the background thread has it, some rows later.
"""

from __future__ import annotations

import pyarrow as pa

__all__ = ["METADATA_KEY", "SCHEMA"]

METADATA_KEY = b"tsloss_fast"
_numbers = pa.list_(pa.float64())
_pairs = pa.list_(pa.list_(pa.int32(), 2))

SCHEMA = pa.schema(
    [
        # The step, cloud and dimension that the row describes. `time` counts seconds since 1970.
        ("step", pa.int64()),
        ("cloud", pa.int32()),
        ("dimension", pa.int8()),
        ("time", pa.float64()),
        ("n_points", pa.int32()),
        ("n_features", pa.int32()),
        # The finite bars, by death; in dimension 0 all births are 0 and there is one infinite bar
        # more. `edges[k]` is the critical edge of bar k, smaller point first (dimension 0 only).
        ("births", _numbers),
        ("deaths", _numbers),
        ("edges", _pairs),
        # Functionals of the lifetimes (death - birth): `tsloss_fast.barcode` has the definitions.
        ("bars", pa.int32()),
        ("total_persistence", pa.float64()),
        ("mean_lifetime", pa.float64()),
        ("max_lifetime", pa.float64()),
        ("coefficient_of_variation", pa.float64()),
        ("persistent_entropy", pa.float64()),
        ("entropy_gap", pa.float64()),  # ln(bars) - persistent_entropy
        ("redundancy", pa.float64()),  # dimension 0 only
        # Connected components at each scale, in the units of the points (dimension 0 only).
        ("scales", _numbers),
        ("components", pa.list_(pa.int32())),
        # Distances to the same cloud's diagram in the record before and in the first one; W is
        # 1-Wasserstein, both with the ground metric of GUDHI (L∞).
        ("bottleneck_previous", pa.float64()),
        ("bottleneck_first", pa.float64()),
        ("wasserstein_previous", pa.float64()),
        ("wasserstein_first", pa.float64()),
        # Mean Euclidean distance that a point has moved, since the record before and the first.
        ("displacement_previous", pa.float64()),
        ("displacement_first", pa.float64()),
        # Critical edges that the record before did not have, and those that are gone.
        ("edges_added", _pairs),
        ("edges_removed", _pairs),
        # The points row by row (n_points × n_features), at the steps at which they were kept.
        ("points", _numbers),
    ]
)
