"""Files with points in them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("pyarrow", reason='pip install "tsloss-fast[analysis]"')
pytest.importorskip("safetensors")

from safetensors.torch import save_file

from tsloss_fast.analysis.record.writer import RecordWriter


def points(n: int = 5, d: int = 3, seed: int = 0) -> torch.Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed))


def write_record(path: Path, clouds: list[torch.Tensor], keep_every: int = 1) -> Path:
    """Two clouds a step, `a` and its double `b`; the points at every `keep_every`-th step."""
    writer = RecordWriter(path, {"clouds": ["a", "b"], "metric": "euclidean"})
    for step, cloud in enumerate(clouds):
        kept = step % keep_every == 0
        rows = []
        for index, x in enumerate((cloud, 2 * cloud)):
            row = {"step": 10 * step, "cloud": index, "n_points": len(x), "n_features": x.shape[1]}
            flat = x.double().flatten().tolist() if kept else None
            rows.append(row | {"dimension": 0, "points": flat, "mean_lifetime": float(x.norm())})
        writer.write(rows)
    writer.close()
    return path


def write(path: Path, tensor: torch.Tensor) -> None:
    if path.suffix == ".safetensors":
        save_file({"prompt": tensor.contiguous()}, path)
    elif path.suffix in (".pt", ".pth", ".bin", ".ckpt"):
        torch.save(tensor, path)
    elif path.suffix == ".npz":
        np.savez(path, prompt=tensor.numpy())
    else:
        np.save(path, tensor.numpy())
