"""Tensors in `.npy`, `.npz`, `.pt`, `.safetensors` and `.gguf` files and in sharded checkpoints,
before their numbers are read, with no code executed; and the errors of files that give no cloud."""

from __future__ import annotations

import contextlib
import fnmatch
import json
import math
import pickle
import re
import warnings
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import EllipsisType
from typing import Any

import numpy as np
import torch
from torch import Tensor

__all__ = ["DamagedSource", "NoCloudError", "SourceError", "StoredTensor", "open_tensors", "select"]

# The name of the tokens' embeddings in every GGUF file.
EMBEDDINGS = "token_embd.weight"
# Rows along the first axis, or `...` for the whole tensor, which may have no axis at all.
Rows = slice | EllipsisType
_FLOATS = ("float16", "bfloat16", "float32", "float64")
_SAFETENSORS = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}
# Types of numbers in GGUF files that are whole, or that the package gguf does not dequantise.
_NO_POINTS = ("I8", "I16", "I32", "I64", "F64")
# Names of tensors that hold the scales of quantised weights, and are never taken for clouds.
_SCALES = re.compile(r"scales?(_inv|_2|_weight|_input)?$")
_SHOWN = 8  # names in a message
_DEPTH = 16  # of dicts and lists in a file
_HARMLESS = 2**20  # points or columns without numbers, which cost a reader a few megabytes


class SourceError(RuntimeError):
    """A file or folder gives no cloud of points; the message names it and says why."""


class DamagedSource(SourceError):
    """The file cannot be read: it is cut off, or of another format than its name says."""


class NoCloudError(SourceError):
    """The file is whole, but holds no cloud that can be read, or several and none was chosen."""


@dataclass(frozen=True)
class StoredTensor:
    """A tensor of a file, of which only the header has been read where the format allows.

    Attributes:
        path: the file that holds it.
        name: empty where the file holds one tensor without a name.
        shape: its sizes along each axis; empty where they cannot be known.
        stored: the type of its numbers, for example `bfloat16`, or `Q8_0` in a GGUF file.
        numbers: returns some rows, or all, as a copy on the CPU.
        problem: why its numbers cannot be points, as the end of a sentence; None if they can. A
            tensor with a problem is never chosen.
    """

    path: Path
    name: str
    shape: tuple[int, ...]
    stored: str
    numbers: Callable[[Rows], Tensor]
    problem: str | None = None

    def unfit(self, dims: Sequence[int] = (2, 3)) -> str | None:
        """Return why the tensor cannot be a cloud (N, D) or a batch (B, N, D), as a sentence's end;
        None if it can."""
        if self.problem is not None or len(self.shape) not in dims:
            return self.problem or f"has the shape {self.shape}"
        if _SCALES.search(self.name):
            return "holds the scales of quantised weights"
        is_empty = len(self.shape) == 3 and self.shape[0] == 0
        return f"has the shape {self.shape}, which is a batch of no clouds" if is_empty else None


def open_tensors(path: Path) -> list[StoredTensor]:
    """Return all tensors of a file or, of an index, of the shards that lie beside it. `.npz` and
    older files of torch are read as a whole, of the others the headers.

    Raises FileNotFoundError, or a SourceError that `read_clouds` describes.
    """
    if path.is_dir():
        raise NoCloudError(f"{path} is a folder; expected a file in it, such as model.safetensors")
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}")
    kind = kind_of(path)
    if kind not in TENSOR_FILES:
        raise NoCloudError(
            f"{path}: expected a file whose name ends in {', '.join(TENSOR_FILES)}; got {kind!r}"
        )
    with reading(path, f"{kind} file"):
        tensors = TENSOR_FILES[kind](path)
        for tensor in tensors:
            # Numbers have to be in the file, but a shape with a 0 in it has none: a file of 100
            # bytes can claim 2**40 points of 0 coordinates.
            if 0 in tensor.shape and max(tensor.shape) > _HARMLESS:
                raise DamagedSource(
                    f"{tensor.path} claims a tensor of shape {tensor.shape}, which has no "
                    "numbers: it is damaged, fetch or save it again"
                )
        return tensors


def kind_of(path: Path) -> str:
    """Return which of `TENSOR_FILES` the file is by its name; if none, the name's suffix."""
    return next((kind for kind in TENSOR_FILES if path.name.endswith(kind)), path.suffix)


def select(
    path: Path, tensors: Sequence[StoredTensor], key: str | None, *, table: bool = False
) -> list[StoredTensor]:
    """Return the tensors that `key` names or matches, or the only one that can be a cloud; of
    tables only tensors (N, D) count.

    Raises NoCloudError if no tensor fits, or several do and `key` is None.
    """
    what, shapes = ("table", "(N, D)") if table else ("cloud", "(N, D) or (B, N, D)")
    dims, named, called = (2,) if table else (2, 3), tensors, ""
    if key is not None:
        # A name may itself hold the characters of a pattern.
        named = [tensor for tensor in tensors if tensor.name == key]
        named = named or [tensor for tensor in tensors if fnmatch.fnmatchcase(tensor.name, key)]
        called = f" called {key!r}"
        if not named:
            held = _listed([tensor.name for tensor in tensors])
            raise NoCloudError(f"{path}: no tensor is{called}; it holds {held}")
    reasons = {tensor: reason for tensor in named if (reason := tensor.unfit(dims))}
    fit = [tensor for tensor in named if tensor not in reasons]
    if not fit:
        labels = {tensor: repr(tensor.name) if tensor.name else "its tensor" for tensor in named}
        said = _listed([f"{labels[tensor]} {reason}" for tensor, reason in reasons.items()])
        raise NoCloudError(
            f"{path} holds no {what}{called}: {said}; expected {', '.join(_FLOATS)} of shape "
            f"{shapes}"
        )
    if key is None and len(fit) > 1:
        choice = "NAME" if table else "NAME or a pattern, --key '*' for all"
        names = _listed([tensor.name or "one without a name" for tensor in fit])
        raise NoCloudError(
            f"{path} holds {len(fit)} tensors that can be {what}s ({names}): choose with "
            f"--key {choice}"
        )
    return fit


def _listed(words: Sequence[str]) -> str:
    more = f", and {len(words) - _SHOWN} more" if len(words) > _SHOWN else ""
    return (", ".join(words[:_SHOWN]) or "no tensor") + more


@contextlib.contextmanager
def reading(path: Path, kind: str) -> Iterator[None]:
    """Turn the errors of libraries that read `path` into SourceErrors that name it."""
    try:
        yield
    except (SourceError, FileNotFoundError, PermissionError):
        raise
    except ImportError as error:
        extra = "tuning" if error.name == "gguf" else "analysis"
        raise SourceError(
            f"{path} is read by the package {error.name}, which is not installed here: install it "
            f'with pip install "tsloss-fast[{extra}]"'
        ) from error
    except MemoryError as error:
        raise SourceError(
            f"{path} does not fit into memory, or claims to hold more than it does ({error})"
        ) from error
    except Exception as error:
        # A cut or foreign file shows itself in a dozen types of error, depending on where. The
        # rest of torch's messages recommends loading the file with weights_only=False.
        reason = str(error).split("\n")[0].split(". ")[0][:160]
        raise DamagedSource(
            f"{path} is damaged, or no {kind} ({type(error).__name__}: {reason})"
        ) from error


def _type_problem(stored: str) -> str | None:
    if stored.lower().startswith(("float8", "f8")):
        return (
            f"is stored as {stored}, and float8 numbers have to be multiplied by scales, which is "
            "not done here: convert the model to bfloat16 with transformers first"
        )
    return None if stored in _FLOATS else f"has the type {stored}"


def _nothing(rows: Rows) -> Tensor:
    raise AssertionError("a tensor with a problem has no numbers to read")


def _numpy_tensors(path: Path) -> list[StoredTensor]:
    loaded = np.load(path, mmap_mode="r", allow_pickle=False)
    if isinstance(loaded, np.ndarray):
        return [_array(path, "", loaded)]
    # An archive tells no shapes before it is read, so every array is read once.
    with loaded:
        return [_array(path, name, loaded[name]) for name in loaded.files]


def _array(path: Path, name: str, array: Any) -> StoredTensor:
    def numbers(rows: Rows) -> Tensor:
        # A copy: torch knows no foreign byte orders, and the file may change.
        return torch.from_numpy(np.array(array[rows], array.dtype.newbyteorder("="), order="C"))

    stored = str(array.dtype.newbyteorder("="))
    return StoredTensor(path, name, array.shape, stored, numbers, _type_problem(stored))


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
        elif isinstance(thing, (list, tuple, Mapping)) and id(thing) not in seen:
            seen.add(id(thing))
            parts = dict(enumerate(thing)) if isinstance(thing, (list, tuple)) else thing
            if len(names) < _DEPTH and not {"state", "param_groups"} <= parts.keys():
                stack += [((*names, str(key)), part) for key, part in reversed([*parts.items()])]


def _torch_tensor(path: Path, name: str, tensor: Tensor) -> StoredTensor:
    stored = str(tensor.dtype).removeprefix("torch.")
    shape = () if tensor.is_nested else tuple(tensor.shape)
    problem = _type_problem(stored)
    # The numbers of an expanded tensor share their memory, but those that are read have their own.
    is_expanded = math.prod(shape) > 16 * path.stat().st_size
    if tensor.is_nested or tensor.layout != torch.strided or tensor.is_meta or is_expanded:
        problem = "is nested, sparse, expanded or on the device meta: save a dense copy of it"
    # A copy: the tensor is a map of the file, which may change.
    return StoredTensor(
        path, name, shape, stored, lambda rows: tensor.detach()[rows].clone(), problem
    )


def _safetensors_tensors(path: Path) -> list[StoredTensor]:
    from safetensors import safe_open

    file: Any = safe_open(path, framework="pt", device="cpu")
    tensors = []
    for name in file.keys():  # noqa: SIM118 - no mapping
        part = file.get_slice(name)
        stored = _SAFETENSORS.get(part.get_dtype(), part.get_dtype())
        shape, problem = tuple(part.get_shape()), _type_problem(stored)
        tensors.append(StoredTensor(path, name, shape, stored, part.__getitem__, problem))
    return tensors


def open_gguf(path: Path) -> Any:
    """Return the reader of the package gguf, or raise SourceError."""
    with reading(path, "GGUF file"):
        from gguf import GGUFReader

        class Reader(GGUFReader):
            def _get(self, offset: int, dtype: Any, count: int = 1, *a: Any, **k: Any) -> Any:
                # The package does not notice the end: an array of 2**40 numbers in a small file
                # would be a loop of 2**40 turns.
                end = int(offset) + int(count) * np.dtype(dtype).itemsize
                if end > len(self.data):
                    raise EOFError(f"it claims {end} bytes, but has {len(self.data)}")
                return super()._get(offset, dtype, count, *a, **k)

        reader = Reader(path)
    if reader.byte_order == "S":
        raise NoCloudError(
            f"{path} has the byte order of another machine: convert a copy of it with "
            "gguf-convert-endian COPY.gguf native, which comes with the package gguf"
        )
    return reader


def gguf_tensors(path: Path, reader: Any = None) -> list[StoredTensor]:
    """Return the tensors of a file; rows are read and dequantised when they are asked for."""
    tensors = []
    for tensor in (reader or open_gguf(path)).tensors:
        kind = tensor.tensor_type.name
        # GGUF names the fastest dimension first.
        shape = tuple(int(size) for size in reversed(tensor.shape))
        problem = f"has the type {kind}" if kind in _NO_POINTS else None
        numbers = partial(_dequantised, tensor)
        tensors.append(StoredTensor(path, tensor.name, shape, kind, numbers, problem))
    return tensors


def _dequantised(tensor: Any, rows: Rows) -> Tensor:
    from gguf import dequantize

    # A copy: the reader maps the file.
    numbers = np.array(dequantize(tensor.data[rows], tensor.tensor_type), np.float32)
    return torch.from_numpy(numbers)


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
    lost = "is not in {}, or that file is not here"
    return [
        found.get(name) or StoredTensor(path, name, (), "unknown", _nothing, lost.format(file))
        for name, file in places.items()
    ]


def _weight_map(path: Path) -> dict[str, str]:
    with reading(path, "index of a sharded checkpoint"):
        places: dict[str, str] = {**json.loads(path.read_text("utf-8"))["weight_map"]}
    for file in places.values():
        # A name with a folder in it would read what lies elsewhere.
        is_name = isinstance(file, str) and Path(file).name == file
        if not is_name or not file.endswith((".safetensors", ".bin")):
            raise DamagedSource(
                f"{path} is damaged: it names the file {file!r}; expected names of .safetensors or "
                ".bin files beside it"
            )
    return places


def shards_of(path: Path) -> set[str]:
    """Return the names of the files that an index speaks of; none if it cannot be read."""
    try:
        return set(_weight_map(path).values())
    except (OSError, SourceError):
        return set()


TENSOR_FILES: Mapping[str, Callable[[Path], list[StoredTensor]]] = {
    ".npy": _numpy_tensors,
    ".npz": _numpy_tensors,
    **dict.fromkeys((".pt", ".pth", ".bin", ".ckpt"), _torch_tensors),
    ".safetensors": _safetensors_tensors,
    ".gguf": gguf_tensors,
    # These files say which shard of a checkpoint holds which tensor.
    **dict.fromkeys((".safetensors.index.json", ".bin.index.json"), _sharded_tensors),
}
