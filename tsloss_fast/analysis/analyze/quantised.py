"""Numbers that mean something only together with others: the blocks of GGUF files, and float8.

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
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tsloss_fast.analysis.analyze.stored import (
    FLOAT8,
    DamagedSource,
    Rows,
    StoredTensor,
    reading,
)

__all__ = ["EMBEDDINGS", "gguf_tensors", "open_gguf", "with_scales"]

# The name of the tokens' embeddings in every GGUF file.
EMBEDDINGS = "token_embd.weight"
_WHOLE = ("I8", "I16", "I32", "I64")  # coordinates of points are not stored in these
_PLAIN = ("F16", "F32", "F64")
# A type of powers of two, which can only be scales.
_POWERS = "float8_e8m0fnu"
# Types of the integers into which quantised weights are packed.
_PACKED = ("int8", "uint8", "int32")
# Names that nothing but scales has. Other names are those of scales beside quantised weights only.
_SCALE = re.compile(
    r"(^|[._])((weight|input|output|[qkv])_(global_)?scales?(_inv|_2)?|scale_(inv|weight|input))$"
)
_ENDS = ("_scale", "_scale_inv", ".scale", "._scale_inv", "_scales", "_scale_2", "_global_scale")


def open_gguf(path: Path) -> Any:
    """Return the reader of the package gguf, for a file whose header claims nothing that is absent.

    Raises:
        DamagedSource, ValueError, LookupError, OSError: the file is damaged, or of another format.
        MissingReaderError: gguf is not installed.
    """
    with reading(path, "GGUF file"):
        from gguf import GGUFReader

    class Reader(GGUFReader):
        def _get(self, offset: int, dtype: Any, count: int = 1, *rest: Any, **named: Any) -> Any:
            # The package reads nothing beyond the end and does not notice: an array of 2**40
            # numbers in a small file would be a loop of 2**40 turns.
            end = int(offset) + int(count) * np.dtype(dtype).itemsize
            if end > len(self.data):
                raise DamagedSource(
                    f"{path} cannot be read as a GGUF file: its header claims {end} bytes or more, "
                    f"and it has {len(self.data)}; it is cut off or damaged, fetch it again"
                )
            return super()._get(offset, dtype, count, *rest, **named)

    with np.errstate(over="ignore"):  # in the sum of a place, which is looked at below
        reader = Reader(path)
    for tensor in reader.tensors:
        # The reader counts in 64 bits, from which large numbers come back as small ones.
        size = math.prod(map(int, tensor.shape))
        if size != tensor.n_elements or tensor.data_offset < reader.data_offset:
            raise DamagedSource(
                f"{path} cannot be read as a GGUF file: the shape or the place of the tensor "
                f"{tensor.name!r} is beyond all bounds; it is damaged, fetch it again"
            )
    return reader


def gguf_tensors(path: Path, reader: Any = None) -> list[StoredTensor]:
    """Return the tensors of a file; rows are read and dequantised when they are asked for."""
    reader = open_gguf(path) if reader is None else reader
    return [_gguf_tensor(path, tensor, reader.byte_order == "S") for tensor in reader.tensors]


def _gguf_tensor(path: Path, tensor: Any, swapped: bool) -> StoredTensor:
    from gguf.quants import dequantize

    kind = tensor.tensor_type.name
    # GGUF names the fastest dimension first.
    shape = tuple(int(size) for size in reversed(tensor.shape))
    missing = (
        f"is stored as {kind} in the byte order of another machine, and of such files only "
        f"{', '.join(_PLAIN)} and BF16 are read; convert a copy of the file with "
        "gguf-convert-endian COPY.gguf native, which comes with the package gguf"
    )

    def read(rows: Rows) -> Tensor:
        data = tensor.data[rows]
        if kind in _PLAIN:
            # A copy in the byte order of this machine: the reader maps the file.
            return torch.from_numpy(np.array(data, np.float64 if kind == "F64" else np.float32))
        if swapped:
            data = data.view(np.uint16).byteswap().view(np.uint8)
        numbers = dequantize(data, tensor.tensor_type)
        return torch.from_numpy(np.array(numbers, np.float32).reshape(-1, *shape[1:]))

    problem = f"has the type {kind}" if kind in _WHOLE else None
    unreadable = swapped and kind not in (*_PLAIN, "BF16")
    return StoredTensor(
        path, tensor.name, shape, kind, read, problem, missing if unreadable else None
    )


def with_scales(tensors: Sequence[StoredTensor]) -> list[StoredTensor]:
    """Return the tensors of a checkpoint: float8 ones are multiplied by their scales when they are
    read, and those that hold scales have a problem, so that they are never taken for points."""
    known = {tensor.name: tensor for tensor in tensors}
    quantised = [tensor for tensor in tensors if tensor.stored in (*FLOAT8, *_PACKED)]
    scales = {name for tensor in quantised for name in _names_of_scales(tensor.name)}
    found = []
    for tensor in tensors:
        if tensor.name in scales or _SCALE.search(tensor.name):
            problem = tensor.problem or "holds the scales of quantised weights"
            tensor = replace(tensor, problem=problem)
        elif tensor.stored in FLOAT8:
            tensor = _scaled(tensor, known)
        found.append(tensor)
    return found


def _names_of_scales(name: str) -> list[str]:
    stem, dot, last = name.rpartition(".")
    more = ("scale", "scales", "scale_weight") if last in ("weight", "qweight") else ()
    return [f"{name}{end}" for end in _ENDS] + [f"{stem}{dot}{end}" for end in more]


def _scaled(tensor: StoredTensor, known: dict[str, StoredTensor]) -> StoredTensor:
    names = _names_of_scales(tensor.name)
    found = [known[name] for name in names if name in known]
    steps = _steps(tensor.shape, found[0].shape) if found else None
    if not found:
        looked = f"looked for {names[0]}, {names[1]} and the like"
        looked = looked if tensor.name else "a file of one tensor cannot hold it"
        problem = f"the scale to multiply it by is missing ({looked})"
    elif len(found) > 1:
        problem = f"it has more than one scale ({', '.join(t.name for t in found)})"
    elif found[0].problem is not None and found[0].stored != _POWERS:
        problem = f"its scales cannot be read: {found[0].name} {found[0].problem}"
    elif steps is None:
        problem = f"its shape {tensor.shape} does not fit that of {found[0].name}, {found[0].shape}"
    else:
        files = (*tensor.files, found[0].path, *found[0].files)
        return replace(tensor, read=_product(tensor, found[0], steps), files=files)
    missing = (
        f"is stored as {tensor.stored}, and {problem}; expected one floating number for the "
        "tensor, for each row, or for each block whose sides are powers of two from 16 on: give "
        "the whole checkpoint (of a sharded one its .index.json), or save the tensor as float16"
    )
    return replace(tensor, missing=missing)


def _steps(shape: Sequence[int], scales: Sequence[int]) -> list[int] | None:
    """Return how many numbers along each axis have one scale; None if the shapes do not fit."""
    if math.prod(scales) == 1:
        return [max(size, 1) for size in shape]
    if len(scales) > len(shape) or (len(scales) < len(shape) and scales != shape[: len(scales)]):
        return None
    # A scale for each row is one for all of its columns.
    scales = [*scales, *[1] * (len(shape) - len(scales))]
    steps = [_step(size, count) for size, count in zip(shape, scales, strict=True)]
    return None if 0 in steps else steps


def _step(size: int, count: int) -> int:
    """Return how many of `size` numbers share one of `count` scales; 0 if none fits. The last block
    may be cut, so only a power of two can be told from its count, and at most one has that count.
    """
    if count in (1, size):
        return 1 if count == size else size
    blocks = (2**k for k in range(4, size.bit_length()))
    return next((step for step in blocks if -(-size // step) == count), 0)


def _product(
    tensor: StoredTensor, scale: StoredTensor, steps: Sequence[int]
) -> Callable[[Rows], Tensor]:
    @functools.cache
    def scales() -> Tensor:
        numbers = scale.numbers().to(torch.float32)
        shape = [] if numbers.numel() == 1 else [*numbers.shape]
        return numbers.reshape([*shape, *[1] * (len(steps) - len(shape))])

    def read(rows: Rows) -> Tensor:
        numbers = tensor.read(rows).to(torch.float32)
        factors = scales()
        for axis, step in enumerate(steps):
            if factors.shape[axis] > 1:
                first = rows.start if isinstance(rows, slice) and axis == 0 else 0
                places = torch.arange(first, first + numbers.shape[axis]) // step
                factors = factors.index_select(axis, places)
        return numbers * factors

    return read
