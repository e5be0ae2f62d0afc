"""Clouds of points out of whatever a prompt tuning leaves: one iterator for every format.

==================================  ======================================================
what                                clouds
==================================  ======================================================
`topology.arrows` of a tracked run  at each step at which the points were kept, all clouds
a run's folder                      its record; without one, its `prompts/`; then `control/`
a folder saved by peft              its prompts; `adapters.py` says which they are
`.safetensors`, `.npz`, `.gguf`     the one tensor that can be a cloud, or those of `key`
`.pt`, `.pth`, `.bin`, `.ckpt`      the same, of tensors in dicts and lists at any depth,
                                    named as `state_dict.prompt`; never pickled code
`….safetensors.index.json`          the same, of the tensors in all its shards
`.npy`                              its array
any other folder                    all of these in it, at any depth, in natural order
==================================  ======================================================

A tensor (N, D) is one cloud, (B, N, D) are B of them. A float8 tensor is multiplied by the scales
that lie beside it.
"""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from tsloss_fast.analysis.analyze import adapters
from tsloss_fast.analysis.analyze.stored import (
    DamagedSource,
    NoCloudError,
    SourceError,
    reading,
    select,
)
from tsloss_fast.analysis.analyze.tensor_files import (
    INDEX,
    TENSOR_FILES,
    TORCH_FILES,
    kind_of,
    open_tensors,
    shards_of,
)
from tsloss_fast.analysis.record import RECORD, RecordError
from tsloss_fast.analysis.record.reader import CloudColumns, read_record
from tsloss_fast.analysis.runs import CONTROL

__all__ = [
    "Cloud",
    "DamagedSource",
    "NoCloudError",
    "SourceError",
    "find_sources",
    "read_clouds",
    "read_source",
]

PROMPTS = "prompts"
# Other programs give their files these names, too; those of torch are archives or pickles.
_OF_MANY = (".bin", ".ckpt")
_BEGIN_OF_TORCH = (b"PK\x03\x04", b"\x80")
_STEP = re.compile(r"(?:epoch|step|checkpoint)[-_]?(\d+)", re.IGNORECASE)


@dataclass(frozen=True)
class Cloud:
    """One cloud of points and where it comes from.

    Attributes:
        source: the file or the adapter's folder.
        label: which of the source's clouds: a tensor's name, a layer, a cloud of a record; empty
            where there is but one without a name.
        step: of a record; otherwise the number after `epoch`, `step` or `checkpoint` in the file's
            name, or in its folder's. None if there is no such number.
        points: (N, D) on the CPU, float64 if it was stored so, otherwise float32: half types are
            converted, which loses nothing.
        stored: the type it was stored in, for example `bfloat16`.
    """

    source: Path
    label: str
    step: int | None
    points: Tensor
    stored: str = ""


def find_sources(path: str | os.PathLike[str]) -> list[Path]:
    """The files and adapter folders that `read_clouds` would read, in its order.

    A file is its own source, whatever it holds. In a folder, files of other types and names that
    begin with a dot are passed over, and folders behind symbolic links are not entered.

    Raises:
        FileNotFoundError: there is no such path.
        NoCloudError: a folder in which there is nothing to read.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist")
    found = [path] if path.is_file() else list(_of_folder(path))
    if not found:
        kinds = [kind for kind in TENSOR_FILES if kind != INDEX]
        raise NoCloudError(
            f"{path} holds nothing to analyze: expected {RECORD}, folders saved by peft, or files "
            f"whose names end in {', '.join([*kinds, f'.safetensors{INDEX}'])}"
        )
    return found


def read_clouds(path: str | os.PathLike[str], key: str | None = None) -> Iterator[Cloud]:
    """Read the clouds of a file or a folder, one after the other; the table above says which.

    Args:
        path: a file, an adapter's folder, a run's folder, or a folder of these.
        key: the name of a tensor, or a pattern as of a shell (`*lora_A*`), in files that name their
            tensors. Of LoRA's matrices the clouds are the rows of A and the columns of B.

    Raises:
        FileNotFoundError: there is no such path.
        DamagedSource: a file is cut off, or of another format than its name says. Clouds before it
            have been given by then.
        NoCloudError: a whole file without a cloud, or with several and no key; a file of Python
            objects, which are never loaded; a float8 tensor without its scale.
        MissingReaderError: safetensors or gguf is needed and not installed.
        SourceError: a file does not fit into memory.

    All but the first are SourceErrors, and name the file. NaN and
    infinity are not looked for. Memory: of `.npz` and of files that old versions of torch wrote all
    tensors, otherwise one tensor.
    """
    for source in find_sources(path):
        yield from read_source(source, key)


def read_source(source: Path, key: str | None = None) -> Iterator[Cloud]:
    """Read the clouds of one of the sources that `find_sources` gives, and of no other: of a folder
    saved by peft those of its own adapter. Arguments and errors are those of `read_clouds`."""
    is_weights = source.name in adapters.WEIGHTS and (source.parent / adapters.CONFIG).exists()
    with reading(source, f"{source.suffix} file" if source.is_file() else "folder saved by peft"):
        if source.is_dir() or is_weights:
            yield from _clouds(source, adapters.adapter_clouds(source, key))
        elif source.suffix == ".arrows":
            yield from _of_record(source)
        elif kind_of(source) in TENSOR_FILES:
            tensors = open_tensors(source)
            # A file of one array has no names, so that a key can only be meant for other files.
            unnamed = len(tensors) == 1 and not tensors[0].name
            chosen = select(source, tensors, None if unnamed else key)
            yield from _clouds(source, (adapters.lora_vectors(tensor) for tensor in chosen))
        else:
            raise NoCloudError(
                f"{source}: clouds are read from {', '.join(['.arrows', *TENSOR_FILES])}, not from "
                f"{source.suffix or 'files without a suffix'}"
            )


def _clouds(source: Path, named: Iterator[tuple[str, Tensor, str]]) -> Iterator[Cloud]:
    for name, tensor, stored in named:
        batch = tensor if tensor.dim() == 3 else tensor.unsqueeze(0)
        for index, points in enumerate(batch):
            label = name if len(batch) == 1 else f"{name}[{index}]"
            yield _cloud(source, label, _step(source), points, stored)


def _cloud(source: Path, label: str, step: int | None, points: Tensor, stored: str) -> Cloud:
    kept = points if points.dtype == torch.float64 else points.to(torch.float32)
    return Cloud(source, label, step, kept.contiguous(), stored)


def _step(source: Path) -> int | None:
    # checkpoint-200/adapter/default is step 200; what is farther up is another folder's business.
    for name in (source.name, source.parent.name):
        if found := _STEP.findall(name):
            return int(found[-1])
    return None


def _of_record(path: Path) -> Iterator[Cloud]:
    try:
        record = read_record(path)
    except RecordError as error:
        raise DamagedSource(str(error)) from error
    if record.damage is not None:
        warnings.warn(f"{path} {record.damage}", stacklevel=2)
    metric = record.metadata.get("metric", "euclidean")
    if metric != "euclidean":
        warnings.warn(
            f"{path} was recorded under the metric {metric}; here its points are measured by "
            "Euclidean distances",
            stacklevel=2,
        )
    kept = 0
    for cloud in record.clouds:
        columns = CloudColumns(record, cloud)
        sizes = [columns.numbers(name) for name in ("n_points", "n_features")]
        where = np.flatnonzero(columns.present("points")).tolist()
        kept += len(where)
        # Views into the file, which is in memory as a whole.
        for at, flat in zip(where, columns.lists("points", where), strict=True):
            points = torch.tensor(flat).reshape([int(size[at]) for size in sizes])
            stored = str(points.dtype).removeprefix("torch.")
            yield _cloud(path, record.cloud_name(cloud), int(columns.steps[at]), points, stored)
    if not kept:
        raise NoCloudError(
            f"{path} keeps no points, only barcodes: give a folder of prompts or checkpoints of "
            "the run instead, or record with points_every=..."
        )


def _of_folder(folder: Path) -> Iterator[Path]:
    """Sources in a folder; a run or an adapter is taken as one thing."""
    # Names that begin with a dot are those of files being written, and of other programs.
    entries = [entry for entry in folder.iterdir() if not entry.name.startswith(".")]
    entries.sort(key=lambda entry: natural_key(entry.name))
    names = {entry.name for entry in entries}
    if adapters.CONFIG in names:
        yield folder
        # Further adapters of one model lie in folders within the first one's.
        yield from _within(e for e in entries if (e / adapters.CONFIG).is_file())
    elif RECORD in names:
        yield folder / RECORD
        yield from _within(e for e in entries if e.name == CONTROL)
    elif PROMPTS in names and "config.json" in names:
        # Checkpoints and the adapter repeat what lies in prompts/.
        yield from _within(e for e in entries if e.name in (PROMPTS, CONTROL))
    else:
        indexes = (e for e in entries if kind_of(e) == INDEX and _can_hold_tensors(e))
        sharded = {name for index in indexes for name in shards_of(index)}
        yield from _within(e for e in entries if e.name not in sharded)


def _within(entries: Iterator[Path]) -> Iterator[Path]:
    for entry in entries:
        if entry.is_dir():
            if not entry.is_symlink():
                yield from _of_folder(entry)
        elif entry.name == RECORD or _can_hold_tensors(entry):
            yield entry


def _can_hold_tensors(file: Path) -> bool:
    kind = kind_of(file)
    if kind == INDEX:
        # The name is a common one; an index that names no shards is another program's.
        return file.name.removesuffix(INDEX).endswith((".safetensors", *TORCH_FILES))
    if kind not in _OF_MANY:
        return kind in TENSOR_FILES
    try:
        with file.open("rb") as opened:
            return opened.read(4).startswith(_BEGIN_OF_TORCH)
    except OSError:
        return False


def natural_key(name: str) -> list[tuple[int, int, str]]:
    """Sorts numbers in names by their value: epoch_2 before epoch_10."""
    parts = re.split(r"(\d+)", name)
    return [(0, int(p), p) if p.isdecimal() else (1, 0, p) for p in parts if p]
