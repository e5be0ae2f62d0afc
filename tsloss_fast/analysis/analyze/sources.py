"""Clouds of points out of the files of a prompt tuning: one iterator for every format.

==================================  ======================================================
what                                clouds
==================================  ======================================================
`topology.arrows` of a tracked run  at each step at which the points were kept, all clouds
a run's folder                      its record; without one, its `prompts/`; then `control/`
a folder saved by peft              its virtual tokens, those of `tuning.prompt_clouds`;
                                    of LoRA and others only tensors chosen with `key`
`.safetensors`, `.npz`, `.gguf`     the one tensor that can be a cloud, or those of `key`
`.pt`, `.pth`, `.bin`, `.ckpt`      the same, of tensors in dicts and lists at any depth,
                                    named as `state_dict.prompt`; never pickled code
`….safetensors.index.json`          the same, of the tensors in all its shards
`.npy`                              its array
any other folder                    all of these in it, at any depth, in natural order
==================================  ======================================================

A tensor (N, D) is one cloud, (B, N, D) are B of them. Of LoRA's matrices, which `key` chooses, the
clouds are the rows of A (r, in) and the columns of B (out, r): an update is a sum of r products of
a column and a row, so these are the vectors that can come close to each other.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tsloss_fast.analysis.analyze.tensor_files import (
    TENSOR_FILES,
    DamagedSource,
    NoCloudError,
    StoredTensor,
    kind_of,
    open_tensors,
    reading,
    select,
    shards_of,
)
from tsloss_fast.analysis.record import CONTROL, RECORD, RecordError

__all__ = ["PREFIXED", "PREPENDED", "Cloud", "find_sources", "read_clouds", "read_source"]

# Methods of peft whose virtual tokens stand before the text.
PREPENDED = frozenset({"PROMPT_TUNING", "P_TUNING", "MULTITASK_PROMPT_TUNING", "CPT"})
# Methods of peft that put keys and values in front of every layer.
PREFIXED = frozenset({"PREFIX_TUNING", "CARTRIDGE"})
_CONFIG = "adapter_config.json"
# Old versions of peft pickled the weights.
_WEIGHTS = ("adapter_model.safetensors", "adapter_model.bin")
_PROMPTS = "prompts"
_STEP = re.compile(r"(?:epoch|step|checkpoint)[-_]?(\d+)", re.IGNORECASE)

# A label, the points (N, D) or (B, N, D), and the type that they have in the file.
_Named = tuple[str, Tensor, str]


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
    """Return the files and adapter folders that `read_clouds` would read, in its order.

    Every file is a source of its own. In a folder, files of other types and names that
    begin with a dot are passed over, and folders behind symbolic links are not entered.

    Raises FileNotFoundError, and NoCloudError for a folder in which there is nothing to read.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"there is no file or folder {path}")
    found = [path] if path.is_file() else list(_of_folder(path))
    if not found:
        raise NoCloudError(
            f"{path} holds nothing to analyze: expected {RECORD}, folders saved by peft, or files "
            f"whose names end in {', '.join(TENSOR_FILES)}"
        )
    return found


def read_clouds(path: str | os.PathLike[str], key: str | None = None) -> Iterator[Cloud]:
    """Read the clouds of a file or a folder, one after the other; the tables above say which.

    Args:
        path: a file, an adapter's folder, a run's folder, or a folder of these.
        key: the name of a tensor, or a pattern as of a shell (`*lora_A*`), in files that name their
            tensors. Adapters with virtual tokens need none; with one, their tensors are given as
            they are stored.

    Raises:
        FileNotFoundError: the path does not exist.
        SourceError: a file gives no cloud, and is named: `DamagedSource` if it is cut off or of
            another format than its name says, `NoCloudError` if it is whole, but holds no cloud or
            several and no key. Clouds before it have been given by then.

    NaN and infinity are not looked for. Memory: of `.npz` and of files that old versions of torch
    wrote all tensors, otherwise one.
    """
    for source in find_sources(path):
        yield from read_source(source, key)


def read_source(source: Path, key: str | None = None) -> Iterator[Cloud]:
    """Read the clouds of one of the sources that `find_sources` gives, and of no other: of a folder
    saved by peft those of its own adapter. Arguments and errors are those of `read_clouds`."""
    is_weights = source.name in _WEIGHTS and (source.parent / _CONFIG).exists()
    with reading(source, f"{source.suffix} file" if source.is_file() else "folder saved by peft"):
        if source.suffix == ".arrows":
            yield from _record_clouds(source)
            return
        if source.is_dir() or is_weights:
            named = _adapter_clouds(source, key)
        else:
            tensors = open_tensors(source)
            # A file of one array has no names, so that a key can only be meant for other files.
            unnamed = len(tensors) == 1 and not tensors[0].name
            named = map(_named, select(source, tensors, None if unnamed else key))
        # checkpoint-200/adapter is step 200; what is farther up is another folder's business.
        steps = _STEP.findall(source.name) or _STEP.findall(source.parent.name)
        for name, tensor, stored in named:
            batch = tensor if tensor.dim() == 3 else tensor.unsqueeze(0)
            for index, points in enumerate(batch):
                label = name if len(batch) == 1 else f"{name}[{index}]"
                yield _cloud(source, label, int(steps[-1]) if steps else None, points, stored)


def _cloud(source: Path, label: str, step: int | None, points: Tensor, stored: str) -> Cloud:
    kept = points if points.dtype == torch.float64 else points.to(torch.float32)
    return Cloud(source, label, step, kept.contiguous(), stored)


def _record_clouds(path: Path) -> Iterator[Cloud]:
    from tsloss_fast.analysis.record.reader import CloudColumns, read_record

    try:
        record = read_record(path)
    except RecordError as error:
        raise DamagedSource(str(error)) from error
    if record.damage is not None:
        warnings.warn(f"{path} {record.damage}", stacklevel=2)
    if (metric := record.metadata.get("metric", "euclidean")) != "euclidean":
        said = f"{path} was recorded under the metric {metric}; here its points are measured by"
        warnings.warn(f"{said} Euclidean distances", stacklevel=2)
    kept = 0
    for cloud in record.clouds:
        columns = CloudColumns(record, cloud)
        sizes = [columns.numbers(name) for name in ("n_points", "n_features")]
        where = columns.present("points").nonzero()[0].tolist()
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


def _named(tensor: StoredTensor) -> _Named:
    name, numbers = tensor.name, tensor.numbers(...)
    matrix = re.search("lora_(?:embedding_)?([AB])", name)
    if numbers.dim() == 2 and matrix:
        is_a = matrix[1] == "A"
        name, numbers = (f"{name} rows", numbers) if is_a else (f"{name} columns", numbers.T)
    return name, numbers, tensor.stored


def _adapter_clouds(source: Path, key: str | None) -> Iterator[_Named]:
    """Yield the clouds of a folder that peft saved, or of one of the files of weights in it."""
    folder, files = source.parent, [source]
    if source.is_dir():
        folder, files = source, [source / name for name in _WEIGHTS]
    with reading(folder / _CONFIG, "JSON object"):
        config = {**json.loads((folder / _CONFIG).read_text("utf-8"))}
    weights = next((file for file in files if file.exists()), None)
    if weights is None:
        raise DamagedSource(f"{folder} has {_CONFIG} but no {' or '.join(_WEIGHTS)}: save it again")
    tensors = open_tensors(weights)
    method = str(config.get("peft_type"))
    if key is not None or method == "ADAPTION_PROMPT":
        yield from map(_named, select(weights, tensors, key or "*adaption_prompt"))
    elif method not in PREPENDED | PREFIXED:
        raise NoCloudError(
            f"{folder} is an adapter of the method {method}, which has no virtual tokens: choose "
            "tensors with --key, for LoRA '*lora_A*' (rows) or '*lora_B*' (columns)"
        )
    else:
        [saved] = select(weights, tensors, "prompt_embeddings", table=True)
        by_name = {tensor.name: tensor.numbers(...) for tensor in tensors if not tensor.unfit()}
        with reading(weights, f"file of weights that fits its {_CONFIG}"):
            for name, cloud in _virtual_tokens(method, config, by_name):
                yield name, cloud, saved.stored


def _virtual_tokens(
    method: str, config: Mapping[str, Any], tensors: Mapping[str, Tensor]
) -> Iterator[tuple[str, Tensor]]:
    prompt = tensors["prompt_embeddings"]
    tokens = int(config.get("num_virtual_tokens") or len(prompt))
    if method in PREFIXED:
        layers = config["num_layers"]
        clouds = prompt.reshape(tokens, 2 * layers, config["token_dim"]).transpose(0, 1)
        for index, cloud in enumerate(clouds):
            # The order of peft's past_key_values: keys and values of a layer after each other.
            yield f"layer {index // 2} {('keys', 'values')[index % 2]}", cloud
    elif method == "MULTITASK_PROMPT_TUNING":
        # Each task's prompt is the shared one times a product of low rank, entry by entry, in at
        # least float32, as everything that is computed.
        columns, rows, shared = (
            t.to(torch.promote_types(t.dtype, torch.float32))
            for t in (tensors["prefix_task_cols"], tensors["prefix_task_rows"], prompt)
        )
        for task, both in enumerate(shared * (columns @ rows)):
            for part, cloud in enumerate(both.split(tokens)):
                yield f"task {task}" if len(both) == tokens else f"task {task} part {part}", cloud
    else:
        # An encoder-decoder keeps a second prompt, which peft uses in multitask tuning alone.
        yield "prompt_embeddings", prompt.narrow(0, 0, tokens)


def _of_folder(folder: Path) -> Iterator[Path]:
    """Yield the sources in a folder; a run or an adapter is taken as one thing."""
    # Names that begin with a dot are those of files being written, and of other programs.
    entries = [entry for entry in folder.iterdir() if not entry.name.startswith(".")]
    entries.sort(key=lambda entry: _natural_key(entry.name))
    names = {entry.name for entry in entries}
    if _CONFIG in names:
        yield folder
        # Further adapters of one model lie in folders within the first one's.
        within = [entry for entry in entries if (entry / _CONFIG).is_file()]
    elif RECORD in names:
        yield folder / RECORD
        within = [entry for entry in entries if entry.name == CONTROL]
    elif _PROMPTS in names and "config.json" in names:
        # Checkpoints and the adapter repeat what lies in prompts/.
        within = [entry for entry in entries if entry.name in (_PROMPTS, CONTROL)]
    else:
        indexes = (entry for entry in entries if entry.suffix == ".json" and _holds_tensors(entry))
        sharded = {name for index in indexes for name in shards_of(index)}
        within = [entry for entry in entries if entry.name not in sharded]
    for entry in within:
        if entry.is_dir():
            if not entry.is_symlink():
                yield from _of_folder(entry)
        elif _holds_tensors(entry):
            yield entry


def _holds_tensors(file: Path) -> bool:
    if file.suffix not in (".bin", ".ckpt"):
        return kind_of(file) in TENSOR_FILES
    # Other programs give their files these names, too; those of torch are archives or pickles.
    with contextlib.suppress(OSError), file.open("rb") as opened:
        return opened.read(4).startswith((b"PK\x03\x04", b"\x80"))
    return False


def _natural_key(name: str) -> list[tuple[int, int, str]]:
    """Return a key that sorts numbers in names by their value: epoch_2 before epoch_10."""
    parts = re.split(r"(\d+)", name)
    return [(0, int(p), p) if p.isdecimal() else (1, 0, p) for p in parts if p]
