"""The refusal of a float8 tensor names the remedy, and scales of weights are never points."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

pytest.importorskip("safetensors")

from safetensors.torch import save_file

from tsloss_fast.analysis.analyze.sources import read_clouds
from tsloss_fast.analysis.analyze.tensor_files import NoCloudError
from tsloss_fast.analysis.table.table import open_table

REMEDY = "float8 numbers have to be multiplied by scales.* convert the model to bfloat16"


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2], ids=str)
@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
def test_a_float8_table_is_refused_even_beside_its_scales(
    suffix: str, dtype: torch.dtype, tmp_path: Path
) -> None:
    tensors = {"w.weight": torch.ones(4, 8).to(dtype), "w.weight_scale": torch.ones(4, 1)}
    path = tmp_path / f"x{suffix}"
    (save_file if suffix == ".safetensors" else torch.save)(tensors, path)
    for key in (None, "w.weight"):
        for read in (lambda key: list(read_clouds(path, key)), lambda key: open_table(path, key)):
            with pytest.raises(NoCloudError, match=f"'w.weight' is stored as .*{REMEDY}"):
                read(key)


@pytest.mark.parametrize(
    ("weights", "scales"),
    [("x.qweight", "x.scales"), ("x.weight", "x.weight_scale_inv"), ("x.w", "x.scale_weight")],
)
def test_scales_are_never_points(weights: str, scales: str, tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    packed = torch.ones(4, 8, dtype=torch.int32)
    save_file({weights: packed, scales: torch.ones(4, 2), "norm": torch.ones(4, 8)}, path)
    for key in (None, "*"):
        [cloud] = read_clouds(path, key)
        assert cloud.label == "norm"
    with pytest.raises(NoCloudError, match="holds the scales of quantised weights"):
        list(read_clouds(path, scales))
