"""Float8 tensors are multiplied by the scales beside them, under the names that different programs
give the scales; tensors of scales are never taken for points."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from clouds import gaussian

pytest.importorskip("pyarrow", reason='pip install "tsloss-fast[analysis]"')
pytest.importorskip("safetensors")

from safetensors.torch import save_file

from tsloss_fast.analysis.analyze.sources import read_clouds
from tsloss_fast.analysis.analyze.stored import NoCloudError
from tsloss_fast.analysis.table.table import open_table

ROWS, DIM = 200, 96
POINTS = torch.from_numpy(gaussian(ROWS, DIM))
NAME = "embed.weight"


def quantised(blocks: tuple[int, int], dtype: torch.dtype = torch.float8_e4m3fn) -> tuple:
    """The points in float8, a scale for each block, and the products of the two."""
    largest = torch.finfo(dtype).max
    parts = [-(-size // step) for size, step in zip(POINTS.shape, blocks, strict=True)]
    scales = torch.empty(parts)
    for i in range(parts[0]):
        for j in range(parts[1]):
            rows, columns = (slice(k * b, (k + 1) * b) for k, b in zip((i, j), blocks, strict=True))
            scales[i, j] = POINTS[rows, columns].abs().amax() / largest
    wide = scales.repeat_interleave(blocks[0], 0).repeat_interleave(blocks[1], 1)[:ROWS, :DIM]
    stored = (POINTS / wide).to(dtype)
    return stored, scales, stored.float() * wide


WHOLE, EACH_ROW = (ROWS, DIM), (1, DIM)


@pytest.mark.parametrize(
    ("blocks", "name", "shape"),
    [
        (WHOLE, "embed.weight_scale", ()),
        (WHOLE, "embed.weight_scale", (1,)),
        (WHOLE, "embed.scale_weight", ()),
        (WHOLE, "embed.weight._scale_inv", (1,)),
        (EACH_ROW, "embed.weight_scale", (ROWS, 1)),
        (EACH_ROW, "embed.weight_scale", (ROWS,)),
        (EACH_ROW, "embed.weight_scale_inv", (ROWS, 1)),
        ((128, 128), "embed.weight_scale_inv", (2, 1)),
        ((64, 32), "embed.scale", (4, 3)),
        ((1, 32), "embed.weight_scale", (ROWS, 3)),
    ],
    ids=str,
)
def test_a_float8_table_is_the_stored_numbers_times_their_scales(
    blocks: tuple[int, int], name: str, shape: tuple[int, ...], tmp_path: Path
) -> None:
    stored, scales, meant = quantised(blocks)
    assert scales.numel() == torch.Size(shape).numel()
    path = tmp_path / "x.safetensors"
    save_file({NAME: stored, name: scales.reshape(shape)}, path)
    [cloud] = read_clouds(path)
    assert (cloud.label, cloud.stored) == (NAME, "float8_e4m3fn")
    assert torch.equal(cloud.points, meant)
    table = open_table(path, None)
    assert (table.key, table.stored, table.dtype) == (NAME, "float8_e4m3fn", torch.float32)
    parts = [table.read(a, min(a + 37, ROWS)) for a in range(0, ROWS, 37)]
    assert torch.equal(torch.cat(parts), meant)


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2], ids=str)
@pytest.mark.parametrize("of_scales", [torch.float16, torch.bfloat16, torch.float64], ids=str)
def test_types_of_numbers_and_scales(
    dtype: torch.dtype, of_scales: torch.dtype, tmp_path: Path
) -> None:
    stored, scales, _ = quantised(WHOLE, dtype)
    scales = scales.to(of_scales)
    torch.save({"model": {NAME: stored, f"{NAME}_scale": scales}}, tmp_path / "x.pt")
    [cloud] = read_clouds(tmp_path / "x.pt")
    assert torch.equal(cloud.points, stored.float() * scales.float())


@pytest.mark.skipif(not hasattr(torch, "float8_e8m0fnu"), reason="torch without powers of two")
def test_scales_may_be_powers_of_two(tmp_path: Path) -> None:
    stored = POINTS.to(torch.float8_e4m3fn)
    scales = (2.0 ** (torch.arange(6).reshape(2, 3) - 2)).to(torch.float8_e8m0fnu)
    save_file({NAME: stored, "embed.weight_scale_inv": scales}, tmp_path / "x.safetensors")
    [cloud] = read_clouds(tmp_path / "x.safetensors")
    wide = scales.float().repeat_interleave(128, 0).repeat_interleave(32, 1)[:ROWS]
    assert torch.equal(cloud.points, stored.float() * wide)


def test_scales_of_a_batch_of_tables(tmp_path: Path) -> None:
    stored = POINTS.reshape(2, 100, DIM).to(torch.float8_e4m3fn)
    for shape in ((2,), (2, 100), (2, 1, 1), (2, 100, 1)):
        scales = torch.rand(shape) + 1
        save_file({"w": stored, "w_scale": scales}, tmp_path / "x.safetensors")
        clouds = list(read_clouds(tmp_path / "x.safetensors"))
        wide = scales.reshape(*shape, *[1] * (3 - len(shape)))
        assert torch.equal(torch.stack([c.points for c in clouds]), stored.float() * wide)


def test_a_scale_in_another_shard_is_found(tmp_path: Path) -> None:
    stored, scales, meant = quantised(EACH_ROW)
    save_file({NAME: stored}, tmp_path / "1.safetensors")
    save_file({f"{NAME}_scale": scales}, tmp_path / "2.safetensors")
    places = {NAME: "1.safetensors", f"{NAME}_scale": "2.safetensors"}
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": places}))
    [cloud] = read_clouds(tmp_path)
    assert torch.equal(cloud.points, meant)
    (tmp_path / "2.safetensors").unlink()
    with pytest.raises(NoCloudError, match=r"_scale is in 2\.safetensors, which is not here"):
        open_table(index, None)
    torch.save(stored, tmp_path / "x.pt")
    with pytest.raises(
        NoCloudError, match=r"missing \(a file of one tensor cannot hold it\);.* give"
    ):
        list(read_clouds(tmp_path / "x.pt"))
    # Alone, neither shard has what it takes.
    with pytest.raises(NoCloudError, match=r"scale to multiply it by is missing .*index\.json"):
        list(read_clouds(tmp_path / "1.safetensors"))


@pytest.mark.parametrize(
    ("beside", "said"),
    [
        (
            {},
            r"'embed\.weight' is stored as float8_e4m3fn, and the scale .* missing .*weight_scale",
        ),
        (
            {"": torch.ones(DIM)},
            r"its shape \(200, 96\) does not fit that of embed\.weight_scale, \(96,",
        ),
        ({"": torch.ones(ROWS // 2, 1)}, r"embed\.weight_scale, \(100, 1\)"),
        ({"": torch.ones(1, dtype=torch.uint8)}, "has the type uint8"),
        ({"": torch.ones(1), "_2": torch.ones(1)}, "more than one scale"),
    ],
)
def test_without_scales_that_fit_float8_is_refused(
    beside: dict[str, torch.Tensor], said: str, tmp_path: Path
) -> None:
    path = tmp_path / "x.safetensors"
    scales = {f"{NAME}_scale{end}": scale for end, scale in beside.items()}
    save_file({NAME: POINTS.to(torch.float8_e4m3fn), **scales}, path)
    for read in (lambda: list(read_clouds(path)), lambda: open_table(path, None)):
        with pytest.raises(NoCloudError, match=said):
            read()


@pytest.mark.parametrize(
    ("weights", "scales"),
    [
        ({"x.weight_packed": torch.int32}, "x.weight_scale"),
        ({"x.qweight": torch.int32}, "x.scales"),
        ({"x.weight": torch.int8}, "x.weight_scale"),
        ({"x.weight": torch.uint8}, "x.scale"),
        ({}, "x.weight_scale"),
        ({}, "x.input_scale"),
        ({}, "weight_scale_inv"),
    ],
)
def test_scales_are_never_points(
    weights: dict[str, torch.dtype], scales: str, tmp_path: Path
) -> None:
    tensors = {name: torch.ones(4, 8, dtype=dtype) for name, dtype in weights.items()}
    path = tmp_path / "x.safetensors"
    save_file({**tensors, scales: torch.ones(4, 2), "norm.scale": torch.ones(4, 8)}, path)
    for key in (None, "*"):
        [cloud] = read_clouds(path, key)
        assert cloud.label == "norm.scale"
    assert open_table(path, None).key == "norm.scale"
    for read in (lambda: list(read_clouds(path, scales)), lambda: open_table(path, scales)):
        with pytest.raises(NoCloudError, match="holds the scales of quantised weights"):
            read()
