"""Tables in files for `tsloss barcode`, and whether what it wrote is their barcode."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from clouds import gaussian

from tsloss_fast import barcode, h0_persistence

safetensors_torch = pytest.importorskip("safetensors.torch", reason="needs safetensors")

ROWS, DIM = 500, 48


def table(dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.from_numpy(gaussian(ROWS, DIM)).to(dtype)


def save(path: Path, **tensors: torch.Tensor) -> Path:
    safetensors_torch.save_file({k: t.clone() for k, t in tensors.items()}, path)
    return path


def assert_barcode_of(points: torch.Tensor, out: Path, metric: str = "euclidean") -> None:
    h0 = h0_persistence(points, metric)
    with np.load(out, allow_pickle=False) as found:
        assert sorted(found.files) == ["deaths", "edges", "linkage"]
        np.testing.assert_array_equal(found["deaths"], h0.deaths)
        np.testing.assert_array_equal(found["edges"], h0.edges)
        np.testing.assert_array_equal(found["linkage"], barcode.single_linkage(h0))


def left_behind(out: Path) -> list[Path]:
    return [p for p in out.parent.iterdir() if p.name.startswith(".")]
