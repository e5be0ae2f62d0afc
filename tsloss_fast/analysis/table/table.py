"""Tables (N, D) in files, of which rows are read when they are asked for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tsloss_fast.analysis.saved.tensor_files import DamagedSource, NoCloudError, need

__all__ = ["Table", "open_table"]

_SHOWN = 12
_GGUF_TABLE = "token_embd.weight"
_WIDE = (torch.float32, torch.float64)
_SAFETENSORS = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
}


@dataclass
class Table:
    """``read(a, b)``: the rows from a to b (b - a, D) as ``dtype``, float32 or float64."""

    path: Path
    key: str
    rows: int
    dim: int
    dtype: torch.dtype
    stored: str
    read: Callable[[int, int], Tensor]


def open_table(path: Path, key: str | None) -> Table:
    """The table called `key` in a .safetensors, .gguf or .npy file, or the only one that it holds
    (of a GGUF file, the embeddings of the tokens). Nothing but its header is read.

    Raises:
        FileNotFoundError, DamagedSource, NoCloudError: there is no such file; it cannot be read; it
            has no such table, or several and no key. ModuleNotFoundError: of an optional package.
    """
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}")
    openers = {".safetensors": _safetensors, ".gguf": _gguf, ".npy": _npy}
    opener = openers.get(path.suffix)
    if opener is None:
        raise DamagedSource(
            f"{path}: expected a file whose name ends in {', '.join(openers)}; got {path.suffix!r}"
        )
    try:
        return opener(path, key)
    except NoCloudError:
        raise
    except Exception as error:
        if isinstance(error, (ModuleNotFoundError, MemoryError)):
            raise
        raise DamagedSource(
            f"{path} cannot be read as a {path.suffix} file: {type(error).__name__}: {error}"
        ) from error


def _choose(path: Path, names: dict[str, bool], key: str | None, usual: str | None = None) -> str:
    """The name of a table; `names` says of each whether it can be one."""
    fit = [name for name, table in names.items() if table]
    if key is None and usual in fit:
        return str(usual)
    if key is None and len(fit) == 1:
        return fit[0]
    if key in fit:
        return str(key)
    listed = ", ".join(fit[:_SHOWN]) + (
        f", and {len(fit) - _SHOWN} more" if len(fit) > _SHOWN else ""
    )
    if key is not None and key in names:
        raise NoCloudError(
            f"{path}: {key!r} is no table (N, D) of float16, bfloat16, float32, "
            f"float64 or quantised numbers; it holds {listed or 'none'}"
        )
    if key is not None:
        raise NoCloudError(f"{path}: there is no table {key!r}; it holds {listed or 'none'}")
    if not fit:
        raise NoCloudError(f"{path} holds no table (N, D) of floating numbers")
    raise NoCloudError(f"{path} holds {len(fit)} tables: choose with --key one of {listed}")


def _safetensors(path: Path, key: str | None) -> Table:
    safetensors = need("safetensors")
    file: Any = safetensors.safe_open(path, framework="pt", device="cpu")
    headers = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118 - no mapping
    fit = {
        name: len(h.get_shape()) == 2 and h.get_dtype() in _SAFETENSORS
        for name, h in headers.items()
    }
    name = _choose(path, fit, key)
    header = headers[name]
    (rows, dim), stored = header.get_shape(), header.get_dtype()
    dtype = _widened(_SAFETENSORS[stored])

    def read(a: int, b: int) -> Tensor:
        return header[a:b].to(dtype)  # type: ignore[no-any-return]

    return Table(path, name, rows, dim, dtype, stored, read)


def _gguf(path: Path, key: str | None) -> Table:
    gguf = need("gguf")
    reader = gguf.GGUFReader(path)
    tensors = {t.name: t for t in reader.tensors}
    kind = gguf.GGMLQuantizationType
    whole = (kind.I8, kind.I16, kind.I32, kind.I64)
    fit = {
        name: len(t.shape) == 2 and t.tensor_type not in whole and t.data.ndim == 2
        for name, t in tensors.items()
    }
    name = _choose(path, fit, key, usual=_GGUF_TABLE)
    tensor = tensors[name]
    dim, rows = (int(n) for n in tensor.shape)  # GGUF names the fastest dimension first
    dtype = torch.float64 if tensor.tensor_type == kind.F64 else torch.float32

    def read(a: int, b: int) -> Tensor:
        if dtype is torch.float64:
            return torch.from_numpy(np.array(tensor.data[a:b]))
        # A copy: plain types would stay views of the map.
        part = gguf.quants.dequantize(tensor.data[a:b], tensor.tensor_type)
        return torch.from_numpy(np.array(part, np.float32).reshape(b - a, dim))

    return Table(path, name, rows, dim, dtype, tensor.tensor_type.name, read)


def _npy(path: Path, key: str | None) -> Table:
    if key is not None:
        raise NoCloudError(f"{path}: a .npy file holds one array and no names; leave out --key")
    array = np.load(path, mmap_mode="r", allow_pickle=False)
    if array.ndim != 2 or array.dtype.kind != "f" or array.dtype.itemsize > 8:
        raise NoCloudError(
            f"{path}: expected float16, float32 or float64 of shape (N, D), got {array.dtype} of "
            f"shape {array.shape}"
        )
    dtype = torch.float64 if array.dtype.itemsize == 8 else torch.float32
    wide = np.float64 if array.dtype.itemsize == 8 else np.float32

    def read(a: int, b: int) -> Tensor:
        return torch.from_numpy(np.array(array[a:b], wide))

    points, dim = array.shape
    return Table(path, "", points, dim, dtype, array.dtype.name, read)


def _widened(dtype: torch.dtype) -> torch.dtype:
    return dtype if dtype in _WIDE else torch.float32
