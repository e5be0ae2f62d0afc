"""The tensors of `.npy`, `.npz`, `.pt`, `.safetensors` and `.gguf` files and of sharded
checkpoints, with no code executed."""

from __future__ import annotations

import json
import math
import pickle
import re
import warnings
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tsloss_fast.analysis.analyze.quantised import gguf_tensors, with_scales
from tsloss_fast.analysis.analyze.stored import (
    DamagedSource,
    NoCloudError,
    Rows,
    StoredTensor,
    reading,
    type_problem,
)

__all__ = ["INDEX", "TENSOR_FILES", "TORCH_FILES", "kind_of", "open_tensors", "shards_of"]

# The end of the name of a file that says which shard of a checkpoint holds which tensor.
INDEX = ".index.json"
TORCH_FILES = (".pt", ".pth", ".bin", ".ckpt")
_NUMPY, _ZIP = b"\x93NUMPY", b"PK\x03\x04"
# How deep tensors may lie in the dicts and lists of a file.
_DEPTH = 16
# So many points or columns without numbers cost a reader no more than a few megabytes.
_HARMLESS = 2**20
_SAFETENSORS = {
    **{"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"},
    **{"F8_E4M3": "float8_e4m3fn", "F8_E4M3FNUZ": "float8_e4m3fnuz", "F8_E8M0": "float8_e8m0fnu"},
    **{"F8_E5M2": "float8_e5m2", "F8_E5M2FNUZ": "float8_e5m2fnuz"},
    **{"I8": "int8", "U8": "uint8", "I32": "int32"},
}


def open_tensors(path: Path) -> list[StoredTensor]:
    """Return all tensors of a file or, of an index, of the shards that lie beside it.

    Opening reads the headers of `.npy`, `.safetensors` and `.gguf` files and of files that a recent
    `torch.save` wrote, and the whole of `.npz` and of older files of torch.

    Raises FileNotFoundError, or a SourceError that `read_clouds` describes.
    """
    if path.is_dir():
        raise NoCloudError(f"{path} is a folder; expected a file in it, such as model.safetensors")
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}")
    kind = kind_of(path)
    if kind not in TENSOR_FILES:
        raise NoCloudError(
            f"{path}: expected a file whose name ends in {', '.join(TENSOR_FILES)}; got "
            f"{path.suffix!r}"
        )
    with reading(path, f"{kind} file"):
        tensors = TENSOR_FILES[kind](path)
        for tensor in tensors:
            # Numbers have to be in the file, but a shape with a 0 in it has none: a file of 100
            # bytes can claim 2**40 points of 0 coordinates.
            size = tensor.path.stat().st_size
            if 0 in tensor.shape and max(tensor.shape) > max(size, _HARMLESS):
                raise DamagedSource(
                    f"{tensor.path} claims a tensor of shape {tensor.shape}, which has no "
                    f"numbers, in {size} bytes: it is damaged, fetch or save it again"
                )
        return with_scales(tensors)


def kind_of(path: Path) -> str:
    return INDEX if path.name.endswith(INDEX) else path.suffix


def _numpy_tensors(path: Path) -> list[StoredTensor]:
    with path.open("rb") as file:
        start = file.read(len(_NUMPY))
    if start.startswith(_ZIP):
        # An archive tells no shapes before it is read, so every array is read once.
        with np.load(path, allow_pickle=False) as archive:
            return [
                _array(path, name, partial(archive.__getitem__, name)) for name in archive.files
            ]
    if start != _NUMPY:
        is_text = re.match(rb"[-+.\d#]", start) is not None
        text = " A file of text becomes one with numpy.save(NAME, numpy.loadtxt(FILE))."
        raise DamagedSource(
            f"{path} is damaged, or no {path.suffix} file: expected it to begin with {_NUMPY!r}, "
            f"got {start!r}." + text * is_text
        )
    return [_array(path, "", partial(np.load, path, mmap_mode="r", allow_pickle=False))]


def _array(path: Path, name: str, load: Callable[[], Any]) -> StoredTensor:
    try:
        array = load()
    except ValueError as error:
        if not re.search("Python objects|Object arrays", str(error)):
            raise
        problem = "holds Python objects, which are never loaded"
        return StoredTensor(path, name, (), "object", _nothing, problem)

    def read(rows: Rows) -> Tensor:
        # A copy: torch knows no foreign byte orders, and the file may change.
        return torch.from_numpy(np.array(array[rows], array.dtype.newbyteorder("="), order="C"))

    stored = str(array.dtype.newbyteorder("="))
    return StoredTensor(path, name, array.shape, stored, read, type_problem(stored))


def _torch_tensors(path: Path) -> list[StoredTensor]:
    """Return the tensors that `torch.save` wrote, in dicts and lists at any depth.

    `weights_only=True` rebuilds tensors and plain containers and calls nothing else, so a file
    made to run code is an error, as any other that holds no tensor.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of pickle's protocols; what matters is an error
            loaded = torch.load(
                path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path)
            )
    except pickle.UnpicklingError as error:
        found = re.search(r"GLOBAL (\S+)", str(error))
        if found is None:
            raise
        raise NoCloudError(
            f"{path} holds Python objects ({found[1]}), which are never loaded, as they can run "
            "code; save its tensors alone, for example torch.save(model.state_dict(), NAME)"
        ) from error
    tensors = [_torch_tensor(path, name, tensor) for name, tensor in _flattened(loaded)]
    if not tensors:
        raise NoCloudError(
            f"{path} holds a {type(loaded).__name__} without a tensor of weights or points; "
            "expected a tensor, or a dict with one"
        )
    return tensors


def _flattened(loaded: object) -> Iterator[tuple[str, Tensor]]:
    """Yield names such as `state_dict.prompt` and tensors. Each container is entered once, however
    often the file refers to it, and the states of optimizers are left out: they are as large as the
    weights, and no points."""
    seen: set[int] = set()
    stack: list[tuple[tuple[str, ...], object]] = [((), loaded)]
    while stack:
        names, thing = stack.pop()
        if isinstance(thing, Tensor):
            yield ".".join(names), thing
        elif id(thing) not in seen and len(names) < _DEPTH:
            seen.add(id(thing))
            parts: Iterable[tuple[object, object]] = ()
            if isinstance(thing, (list, tuple)):
                parts = enumerate(thing)
            elif isinstance(thing, Mapping) and not {"state", "param_groups"} <= thing.keys():
                parts = thing.items()
            inner = [pair for pair in parts if isinstance(pair[1], (Tensor, Mapping, list, tuple))]
            stack += [((*names, str(key)), part) for key, part in reversed(inner)]


def _torch_tensor(path: Path, name: str, tensor: Tensor) -> StoredTensor:
    stored = str(tensor.dtype).removeprefix("torch.")
    shape = () if tensor.is_nested else tuple(tensor.shape)
    # The numbers of an expanded tensor share their memory, but those that are read have their own.
    is_expanded = math.prod(shape) > 16 * path.stat().st_size
    unread = {
        "is nested, which is not read; save torch.nested.to_padded_tensor of it": tensor.is_nested,
        f"is sparse ({tensor.layout}), which is not read; save tensor.to_dense()": (
            tensor.layout != torch.strided
        ),
        "is on the device meta, without numbers; save it when its numbers are loaded": (
            tensor.device.type == "meta"
        ),
        f"has the shape {shape}, more than its file can hold": is_expanded,
    }
    problem = next((said for said, applies in unread.items() if applies), type_problem(stored))
    # A copy: the tensor is a map of the file, which may change.
    return StoredTensor(
        path, name, shape, stored, lambda rows: tensor.detach()[rows].clone(), problem
    )


def _safetensors_tensors(path: Path) -> list[StoredTensor]:
    from safetensors import safe_open

    try:
        file: Any = safe_open(path, framework="pt", device="cpu")
    except Exception as error:
        found = re.search(r"unknown variant `(\w+)`", str(error))
        if found is None:
            raise
        raise NoCloudError(
            f"{path} holds a tensor of the type {found[1]}, which the installed safetensors does "
            "not know; expected floating numbers: upgrade safetensors, or save the file again"
        ) from error
    tensors = []
    for name in file.keys():  # noqa: SIM118 - no mapping
        part = file.get_slice(name)
        stored = _SAFETENSORS.get(part.get_dtype(), part.get_dtype())
        shape, problem = tuple(part.get_shape()), type_problem(stored)
        tensors.append(StoredTensor(path, name, shape, stored, part.__getitem__, problem))
    return tensors


def _sharded_tensors(path: Path) -> list[StoredTensor]:
    """Return the tensors of a checkpoint in several files; those in a shard that is absent cannot
    be chosen, but do not keep the others from being read."""
    places = _weight_map(path)
    found: dict[str, StoredTensor] = {}
    for file in dict.fromkeys(places.values()):
        shard = path.parent / file
        if shard.is_file():
            with reading(shard, f"{shard.suffix} file"):
                found |= {tensor.name: tensor for tensor in TENSOR_FILES[shard.suffix](shard)}
    tensors = []
    for name, file in places.items():
        there = (path.parent / file).is_file()
        problem = f"is not in {file}" if there else f"is in {file}, which is not here"
        lost = StoredTensor(path, name, (), "unknown", _nothing, problem)
        tensors.append(replace(found[name], files=(path,)) if name in found else lost)
    return tensors


def _weight_map(path: Path) -> dict[str, str]:
    index = json.loads(path.read_text("utf-8"))
    places = index.get("weight_map") if isinstance(index, dict) else None
    if not isinstance(places, dict):
        raise DamagedSource(
            f"{path} is damaged, or no index of a sharded checkpoint: expected an object "
            "`weight_map` of the names of tensors and files"
        )
    kinds = (".safetensors", *TORCH_FILES)
    for file in places.values():
        # A name with a folder in it would read what lies elsewhere.
        is_name = isinstance(file, str) and Path(file).name == file
        if not is_name or Path(file).suffix not in kinds:
            raise DamagedSource(
                f"{path} is damaged: it names the file {file!r}; expected names of files beside "
                f"it that end in {', '.join(kinds)}"
            )
    return places


def shards_of(path: Path) -> set[str]:
    """Return the names of the files that an index speaks of; none if it cannot be read."""
    try:
        return set(_weight_map(path).values())
    except (OSError, ValueError, DamagedSource):
        return set()


def _nothing(rows: Rows) -> Tensor:
    raise AssertionError("a tensor with a problem has no numbers to read")


TENSOR_FILES: Mapping[str, Callable[[Path], list[StoredTensor]]] = {
    ".npy": _numpy_tensors,
    ".npz": _numpy_tensors,
    **dict.fromkeys(TORCH_FILES, _torch_tensors),
    ".safetensors": _safetensors_tensors,
    ".gguf": gguf_tensors,
    INDEX: _sharded_tensors,
}
