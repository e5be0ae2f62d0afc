"""Tensors and fields of GGUF files (llama.cpp), of either byte order."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tsloss_fast.analysis.analyze.stored import DamagedSource, StoredTensor, check_claim, need

__all__ = ["EMBEDDINGS", "gguf_tensors", "open_gguf"]

# The name of the tokens' embeddings in every model.
EMBEDDINGS = "token_embd.weight"
# Types of whole numbers, which cannot be coordinates of points.
_WHOLE = ("I8", "I16", "I32", "I64")
_PLAIN = ("F16", "F32", "F64")
# Numbers of the format's types of fields, and how few bytes a part of the header may have.
_STRING, _ARRAY = 8, 9
_LEAST_STRING, _LEAST_FIELD, _LEAST_TENSOR = 8, 13, 24


def open_gguf(path: Path) -> Any:
    """The package's reader of a file whose header claims nothing that is not there.

    Raises:
        DamagedSource, ValueError, LookupError, OSError: the file is damaged, or of another format.
        MissingReaderError: gguf is not installed.
    """
    base: Any = need("gguf", path).GGUFReader

    class Reader(base):  # type: ignore[misc]
        """Without these checks, an array of 2**40 numbers in a small file is a loop of 2**40 turns,
        in each of which nothing is read."""

        def _get(self, offset: int, dtype: Any, count: int = 1, *rest: Any, **named: Any) -> Any:
            self._need(offset, int(count) * np.dtype(dtype).itemsize)
            return super()._get(offset, dtype, count, *rest, **named)

        def _get_field_parts(self, offset: int, kind: int) -> Any:
            if kind == _ARRAY:
                kind_of_items, count = self._get(offset, np.uint32), self._get(offset + 4, "u8")
                least = _LEAST_STRING if kind_of_items[0] == _STRING else 1
                self._need(offset + 12, int(count[0]) * least)
            return super()._get_field_parts(offset, kind)

        def _build_fields(self, offset: int, count: int) -> Any:
            self._need(offset, int(count) * _LEAST_FIELD)
            return super()._build_fields(offset, count)

        def _build_tensor_info(self, offset: int, count: int) -> Any:
            self._need(offset, int(count) * _LEAST_TENSOR)
            return super()._build_tensor_info(offset, count)

        def _need(self, offset: int, size: int) -> None:
            if (end := int(offset) + size) > len(self.data):
                raise DamagedSource(
                    f"{path} cannot be read as a GGUF file: its header claims {end} bytes or more, "
                    f"and it has {len(self.data)}; it is cut off or damaged, fetch it again"
                )

    with np.errstate(over="ignore"):  # in the sum of a place, which is looked at below
        reader = Reader(path)
    for tensor in reader.tensors:
        shape = tuple(int(size) for size in tensor.shape)
        check_claim(path, shape)
        # The reader counts in 64 bits, from which large numbers come back as small ones.
        if math.prod(shape) != tensor.n_elements or tensor.data_offset < reader.data_offset:
            raise DamagedSource(
                f"{path} cannot be read as a GGUF file: the shape {shape} or the place of the "
                f"tensor {tensor.name!r} is beyond all bounds; it is damaged, fetch it again"
            )
    return reader


def gguf_tensors(path: Path, reader: Any = None) -> list[StoredTensor]:
    """The tensors of a file, of which rows are read and dequantised when they are asked for."""
    gguf = need("gguf", path)
    reader = open_gguf(path) if reader is None else reader
    swapped = reader.byte_order == "S"
    return [_tensor(path, tensor, swapped, gguf.quants) for tensor in reader.tensors]


def _tensor(path: Path, tensor: Any, swapped: bool, quants: Any) -> StoredTensor:
    kind = tensor.tensor_type.name
    # GGUF names the fastest dimension first.
    shape = tuple(int(size) for size in reversed(tensor.shape))
    missing = None
    if swapped and kind not in (*_PLAIN, "BF16"):
        missing = (
            f"is stored as {kind} in the byte order of another machine, and of such files only "
            f"{', '.join(_PLAIN)} and BF16 are read; convert a copy of the file with "
            "gguf-convert-endian COPY.gguf native, which comes with the package gguf"
        )

    def read(rows: slice | None) -> Tensor:
        data = tensor.data if rows is None else tensor.data[rows]
        if kind in _PLAIN:
            # A copy in the byte order of this machine: the reader maps the file.
            return torch.from_numpy(np.array(data, np.float64 if kind == "F64" else np.float32))
        if swapped:
            data = data.view(np.uint16).byteswap().view(np.uint8)
        numbers = quants.dequantize(data, tensor.tensor_type)
        return torch.from_numpy(np.array(numbers, np.float32).reshape(-1, *shape[1:]))

    problem = f"has the type {kind}" if kind in _WHOLE else None
    return StoredTensor(path, tensor.name, shape, kind, read, problem, missing)
