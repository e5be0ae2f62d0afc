"""Tables (N, D) in files, of which rows are read when they are asked for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from tsloss_fast.analysis.analyze.quantised import EMBEDDINGS
from tsloss_fast.analysis.analyze.stored import NoCloudError, reading, select
from tsloss_fast.analysis.analyze.tensor_files import open_tensors

__all__ = ["Table", "open_table"]


@dataclass
class Table:
    """A table of `rows` points with `dim` coordinates.

    Attributes:
        path: the file that holds it.
        files: all files that its numbers depend on, `path` among them.
        key: its name in the file; empty if it has none.
        stored: the type of its numbers in the file.
        read: gives the rows from a to b, (b - a, D), as `dtype`, which is float32 or float64.
    """

    path: Path
    files: tuple[Path, ...]
    key: str
    rows: int
    dim: int
    dtype: torch.dtype
    stored: str
    read: Callable[[int, int], Tensor]


def open_table(path: Path, key: str | None) -> Table:
    """Find the table called `key` in a file that `open_tensors` reads, or the only one that the
    file holds (in a GGUF file, the embeddings of the tokens). Float8 tables are multiplied by their
    scales.

    Raises:
        FileNotFoundError: the path does not exist.
        DamagedSource: the file cannot be read.
        NoCloudError: the file has no such table, or several and `key` is None.
        MissingReaderError: safetensors or gguf is needed and not installed.
    """
    tensors = open_tensors(path)
    if key is not None and len(tensors) == 1 and not tensors[0].name:
        raise NoCloudError(f"{path} holds one array and no names; leave out --key")
    if key is None and path.suffix == ".gguf" and any(t.name == EMBEDDINGS for t in tensors):
        key = EMBEDDINGS
    chosen, *others = select(path, tensors, key, table=True)
    if others:
        names = ", ".join(tensor.name for tensor in (chosen, *others))
        raise NoCloudError(
            f"{path}: {key!r} matches several tables: choose with --key one of {names}"
        )
    rows, dim = chosen.shape
    # "F64" is the name in a GGUF file.
    dtype = torch.float64 if chosen.stored in ("float64", "F64") else torch.float32

    def read(a: int, b: int) -> Tensor:
        with reading(chosen.path, f"{chosen.path.suffix} file"):
            return chosen.numbers(slice(a, b)).to(dtype)

    # A table whose numbers cannot be read is refused here, before anything is written.
    read(0, min(rows, 1))
    files = tuple(dict.fromkeys((chosen.path, *chosen.files)))
    return Table(chosen.path, files, chosen.name, rows, dim, dtype, chosen.stored, read)
