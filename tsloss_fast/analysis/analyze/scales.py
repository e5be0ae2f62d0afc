"""The scales of float8 tensors: what they are called, which numbers each belongs to, and the
product.

A number of a float8 tensor means little without its scale, which lies in the same checkpoint under
a name that depends on the program that wrote it:

| program                                    | scale of `X.weight`      | its shape               |
|--------------------------------------------|--------------------------|-------------------------|
| compressed-tensors, vLLM, FBGEMM, ModelOpt | `X.weight_scale`         | (), (1,), (N,) or (N, 1) |
| DeepSeek, fine-grained FP8 of transformers | `X.weight_scale_inv`     | a number for each block |
| DeepSeek, converted                        | `X.scale`                | a number for each block |
| Transformer Engine                         | `X.weight._scale_inv`    | (1,)                    |
| ComfyUI                                    | `X.scale_weight`         | () or (1,)              |

Under all of these names, the number that was meant is the stored one times the scale.
"""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from tsloss_fast.analysis.analyze.stored import FLOAT8, StoredTensor

__all__ = ["with_scales"]

# A type of powers of two, which can only be scales.
_POWERS = "float8_e8m0fnu"
# Types of the integers into which quantised weights are packed.
_PACKED = ("int8", "uint8", "int32")
# Names that nothing but scales has. Other names are those of scales beside quantised weights only.
_SCALE = re.compile(
    r"(^|[._])((weight|input|output|[qkv])_(global_)?scales?(_inv|_2)?|scale_(inv|weight|input))$"
)
_SMALLEST_BLOCK = 16


def with_scales(tensors: Sequence[StoredTensor]) -> list[StoredTensor]:
    """The tensors of a checkpoint, float8 ones multiplied by their scales when they are read, and
    none that holds scales taken for points."""
    known = {tensor.name: tensor for tensor in tensors}
    quantised = [t for t in tensors if t.stored in (*FLOAT8, *_PACKED)]
    scales = {name for tensor in quantised for name in _names_of_scales(tensor.name)}
    return [
        replace(tensor, problem=tensor.problem or "holds the scales of quantised weights")
        if tensor.name in scales or _SCALE.search(tensor.name)
        else _scaled(tensor, known)
        if tensor.stored in FLOAT8
        else tensor
        for tensor in tensors
    ]


def _names_of_scales(name: str) -> list[str]:
    names = [f"{name}{end}" for end in ("_scale", "_scale_inv", ".scale", "._scale_inv", "_scales")]
    names += [f"{name}_scale_2", f"{name}_global_scale"]
    stem, dot, last = name.rpartition(".")
    if last in ("weight", "qweight"):
        names += [f"{stem}{dot}{end}" for end in ("scale", "scales", "scale_weight")]
    return names


def _scaled(tensor: StoredTensor, known: dict[str, StoredTensor]) -> StoredTensor:
    names = _names_of_scales(tensor.name)
    found = [known[name] for name in names if name in known]
    if not found:
        looked = "a file of one tensor cannot hold it"
        if tensor.name:
            looked = f"looked for {names[0]}, {names[1]} and the like"
        return replace(
            tensor,
            missing=f"is stored as {tensor.stored}, and the scale to multiply it by is missing "
            f"({looked}); give the whole checkpoint (of a "
            "sharded one its .index.json), or, if it was cast to float8 "
            "without a scale, save it as tensor.to(torch.float16)",
        )
    scale = found[0]
    steps = _steps(tensor.shape, scale.shape)
    if len(found) > 1:
        problem = f"has more than one scale ({', '.join(t.name for t in found)})"
    elif scale.problem is not None and scale.stored != _POWERS:
        problem = f"has scales that cannot be read: {scale.name} {scale.problem}"
    elif steps is None:
        problem = f"of shape {tensor.shape} has scales of shape {scale.shape} ({scale.name})"
    else:
        files = (*tensor.files, scale.path, *scale.files)
        return replace(tensor, read=_product(tensor, scale, steps), files=files)
    return replace(
        tensor,
        missing=f"{problem}; expected one floating number for the tensor, for each row, or for "
        f"each block whose sides are powers of two from {_SMALLEST_BLOCK} on: save the tensor as "
        "float16",
    )


def _steps(shape: Sequence[int], scales: Sequence[int]) -> list[int] | None:
    """How many numbers along each axis have one scale; None if the shapes do not fit."""
    if math.prod(scales) == 1:
        return [max(size, 1) for size in shape]
    rest = len(shape) - len(scales)
    if rest < 0 or (rest > 0 and tuple(scales) != tuple(shape[: len(scales)])):
        return None
    steps = [_step(size, count) for size, count in zip(shape, scales, strict=False)]
    steps += list(shape[len(scales) :])
    return None if 0 in steps else steps


def _step(size: int, count: int) -> int:
    """How many of `size` numbers share one of `count` scales; 0 if none fits. The last block may be
    cut, so only a power of two can be told from its count, and at most one has that count."""
    if count in (1, size):
        return 1 if count == size else size
    blocks = (2**k for k in range(4, size.bit_length()))
    return next((step for step in blocks if -(-size // step) == count), 0)


def _product(
    tensor: StoredTensor, scale: StoredTensor, steps: Sequence[int]
) -> Callable[[slice | None], Tensor]:
    @functools.cache
    def scales() -> Tensor:
        numbers = scale.numbers().to(torch.float32)
        if numbers.numel() == 1:
            return numbers.reshape([1] * len(steps))
        return numbers.reshape([*numbers.shape, *[1] * (len(steps) - numbers.dim())])

    def read(rows: slice | None) -> Tensor:
        numbers = tensor.read(rows).to(torch.float32)
        factors = scales()
        for axis, step in enumerate(steps):
            if factors.shape[axis] > 1:
                first = rows.start if rows is not None and axis == 0 else 0
                places = torch.arange(first, first + numbers.shape[axis]) // step
                factors = factors.index_select(axis, places)
        return numbers * factors

    return read
