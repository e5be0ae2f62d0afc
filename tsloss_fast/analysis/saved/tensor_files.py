"""Named tensors out of `.npy`, `.npz`, `.pt` and `.safetensors` files, with no code executed."""

from __future__ import annotations

import fnmatch
import importlib
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

__all__ = ["TENSOR_FILES", "DamagedSource", "NoCloudError", "SourceError", "is_cloud", "need"]

# A name, its tensor when asked for, and whether the tensor can be a cloud.
Entry = tuple[str, Callable[[], Tensor], bool]
_SHOWN = 8


class SourceError(RuntimeError):
    """A file or folder gives no cloud of points; the message names it and says why."""


class DamagedSource(SourceError):
    """The file cannot be read: cut off, of another format than its name says, or pickled code."""


class NoCloudError(SourceError):
    """The file is whole, but holds no cloud, or several of which none was chosen."""


def need(module: str) -> Any:
    """Import a module of an optional dependency.

    Raises:
        ModuleNotFoundError: it is not installed; the message says how to install it.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"this file needs {module.split('.')[0]}, which is not installed here: "
            'pip install "tsloss-fast[analysis]"'
        ) from error


def is_cloud(tensor: Tensor) -> bool:
    """Whether it is one cloud (N, D) or a batch of them (B, N, D), in floating numbers."""
    whole = tensor.layout == torch.strided and tensor.device.type == "cpu"
    return whole and tensor.is_floating_point() and tensor.dim() in (2, 3)


def select(path: Path, entries: Iterable[Entry], key: str | None) -> Iterator[tuple[str, Tensor]]:
    """The entries that `key` names or matches, or the only one that can be a cloud.

    Raises:
        NoCloudError: none can be a cloud, or several can and there is no key.
    """
    known = list(entries)
    fit = [entry for entry in known if entry[2]]
    if key is not None:
        # A name may itself hold the characters of a pattern.
        fit = [e for e in fit if e[0] == key or fnmatch.fnmatchcase(e[0], key)]
        if not fit:
            raise NoCloudError(
                f"{path}: no tensor of shape (N, D) or (B, N, D) in floating numbers is called "
                f"{key!r}; it holds {_names(known)}"
            )
    elif not fit:
        raise NoCloudError(
            f"{path} holds no tensor of shape (N, D) or (B, N, D) in floating numbers: "
            f"{_names(known)}"
        )
    elif len(fit) > 1:
        raise NoCloudError(
            f"{path} holds {len(fit)} tensors that can be clouds ({_names(fit)}): choose with "
            "--key NAME or a pattern, --key '*' for all"
        )
    for name, read, _ in fit:
        yield name, read()


def _names(entries: Sequence[Entry]) -> str:
    names = [name or "one without a name" for name, _, _ in entries]
    more = f", and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return (", ".join(names[:_SHOWN]) or "nothing") + more


def numpy_tensors(path: Path, key: str | None) -> Iterator[tuple[str, Tensor]]:
    """The array of a `.npy` file, or arrays of a `.npz` archive. Pickled objects are refused."""
    # allow_pickle=False: an object array is an error, and its pickle is never looked at.
    loaded = np.load(path, allow_pickle=False)
    if isinstance(loaded, np.ndarray):
        if not _fits(loaded):
            raise NoCloudError(_unfit(path, loaded.dtype, loaded.shape))
        yield "", _as_tensor(loaded)
        return
    with loaded as archive:
        # An archive tells no shapes before it is read, so every array is read once.
        arrays = {name: archive[name] for name in archive.files}
    entries = [(name, partial(_as_tensor, a), _fits(a)) for name, a in arrays.items()]
    yield from select(path, entries, key)


def _fits(array: np.ndarray) -> bool:
    # torch has nothing wider than float64.
    return array.dtype.kind == "f" and array.dtype.itemsize <= 8 and array.ndim in (2, 3)


def _as_tensor(array: np.ndarray) -> Tensor:
    # Nor does it know foreign byte orders.
    return torch.from_numpy(np.ascontiguousarray(array, array.dtype.newbyteorder("=")))


def torch_tensors(path: Path, key: str | None) -> Iterator[tuple[str, Tensor]]:
    """A tensor, or tensors of a dict, that `torch.save` wrote.

    `weights_only=True` rebuilds tensors and plain containers and calls nothing else, so a file
    made to run code is an error, as any other that holds no tensor.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of pickle's protocols; what matters is an error
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    if isinstance(loaded, Tensor):
        if not is_cloud(loaded):
            raise NoCloudError(_unfit(path, loaded.dtype, loaded.shape))
        yield "", loaded.detach()
        return
    if not isinstance(loaded, Mapping):
        raise NoCloudError(
            f"{path} holds a {type(loaded).__name__}; expected a tensor, or a dict with one tensor"
        )
    tensors = {str(k): v for k, v in loaded.items() if isinstance(v, Tensor)}
    yield from select(path, [(n, t.detach, is_cloud(t)) for n, t in tensors.items()], key)


def _unfit(path: Path, dtype: object, shape: Sequence[int]) -> str:
    return (
        f"{path} holds {dtype} of shape {tuple(shape)}; expected float16, bfloat16, float32 or "
        "float64 of shape (N, D) or (B, N, D)"
    )


def safetensors_tensors(path: Path, key: str | None) -> Iterator[tuple[str, Tensor]]:
    """Tensors of a `.safetensors` file; only those that are chosen are read."""
    safetensors = need("safetensors")
    with safetensors.safe_open(path, framework="pt", device="cpu") as file:
        entries: list[Entry] = []
        for name in file.keys():  # noqa: SIM118 - no mapping
            header = file.get_slice(name)
            fit = len(header.get_shape()) in (2, 3) and "F" in header.get_dtype()
            entries.append((name, partial(file.get_tensor, name), fit))
        yield from select(path, entries, key)


TENSOR_FILES: Mapping[str, Callable[[Path, str | None], Iterator[tuple[str, Tensor]]]] = {
    ".npy": numpy_tensors,
    ".npz": numpy_tensors,
    ".pt": torch_tensors,
    ".pth": torch_tensors,
    ".safetensors": safetensors_tensors,
}
