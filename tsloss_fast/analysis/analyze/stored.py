"""A tensor in a file before its numbers are read, and the errors of files that give no cloud."""

from __future__ import annotations

import contextlib
import fnmatch
import importlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

__all__ = [
    "FLOAT8",
    "FLOATS",
    "DamagedSource",
    "MissingReaderError",
    "NoCloudError",
    "SourceError",
    "StoredTensor",
    "check_claim",
    "need",
    "reading",
    "select",
    "type_problem",
]

FLOATS = ("float16", "bfloat16", "float32", "float64")
FLOAT8 = ("float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "float8_e5m2fnuz")
_SHOWN = 8
# So many points or columns cost a reader no more than a few megabytes.
_HARMLESS = 2**20


class SourceError(RuntimeError):
    """A file or folder gives no cloud of points; the message names it and says why."""


class DamagedSource(SourceError):
    """The file cannot be read: it is cut off, or of another format than its name says."""


class NoCloudError(SourceError):
    """The file is whole, but holds no cloud that can be read, or several and none was chosen."""


class MissingReaderError(SourceError, ModuleNotFoundError):
    """The package that reads files of this type is not installed."""


@dataclass(frozen=True)
class StoredTensor:
    """A tensor of a file, of which no more than the header has been read where the format allows.

    Attributes:
        path: the file that holds it.
        name: empty where the file holds one tensor without a name.
        stored: the type of its numbers, for example `bfloat16`, or `Q8_0` in a GGUF file.
        read: gives the rows of a slice along the first axis, or with None the whole tensor, as a
            copy on the CPU.
        problem: why its numbers cannot be points, as the end of a sentence; None if they can. A
            tensor with a problem is never chosen.
        missing: what keeps the numbers of a tensor that is chosen from being read, such as a scale
            that the file lacks; None if they can be read.
        files: other files that its numbers depend on: the index through which it was found, and the
            one that holds its scales.
    """

    path: Path
    name: str
    shape: tuple[int, ...]
    stored: str
    read: Callable[[slice | None], Tensor]
    problem: str | None = None
    missing: str | None = None
    files: tuple[Path, ...] = ()

    def unfit(self, dims: Sequence[int] = (2, 3)) -> str | None:
        """Reason why the tensor cannot be a cloud (N, D) or a batch (B, N, D), as the end of a
        sentence; None if it can."""
        if self.problem is not None:
            return self.problem
        if len(self.shape) not in dims:
            return f"has the shape {self.shape}"
        if len(self.shape) == 3 and self.shape[0] == 0:
            return f"has the shape {self.shape}, which is a batch of no clouds"
        return None

    def numbers(self, rows: slice | None = None) -> Tensor:
        """The rows of a slice, or all.

        Raises:
            NoCloudError: something without which the numbers have no meaning is missing.
        """
        if self.missing is not None:
            raise NoCloudError(f"{self.path}: {_label(self)} {self.missing}")
        return self.read(rows)


def type_problem(stored: str) -> str | None:
    return None if stored in (*FLOATS, *FLOAT8) else f"has the type {stored}"


def select(
    path: Path, tensors: Sequence[StoredTensor], key: str | None, *, table: bool = False
) -> list[StoredTensor]:
    """The tensors that `key` names or matches, or the only one that can be a cloud.

    Args:
        table: whether only tensors (N, D) count.

    Raises:
        NoCloudError: no tensor fits, or several do and `key` is None.
    """
    dims = (2,) if table else (2, 3)
    what, shapes = ("table", "(N, D)") if table else ("cloud", "(N, D) or (B, N, D)")
    expected = f"expected {', '.join(FLOATS)}, or float8 with its scales, of shape {shapes}"
    fit = [tensor for tensor in tensors if tensor.unfit(dims) is None]
    if key is None and len(fit) != 1:
        if fit:
            raise NoCloudError(
                f"{path} holds {len(fit)} tensors that can be {what}s ({_names(fit)}): choose with "
                "--key " + ("NAME" if table else "NAME or a pattern, --key '*' for all")
            )
        found = _listed([f"{_label(t)} {t.unfit(dims)}" for t in tensors]) or "it has no tensor"
        raise NoCloudError(f"{path} holds no {what}: {found}; {expected}")
    if key is not None:
        # A name may itself hold the characters of a pattern.
        named = [tensor for tensor in tensors if tensor.name == key] or [
            tensor for tensor in tensors if fnmatch.fnmatchcase(tensor.name, key)
        ]
        fit = [tensor for tensor in named if tensor.unfit(dims) is None]
        if not named:
            raise NoCloudError(
                f"{path}: no tensor is called {key!r}; it holds {_names(tensors) or 'none'}"
            )
        if not fit:
            found = _listed([f"{_label(t)} {t.unfit(dims)}" for t in named])
            others = _names([tensor for tensor in tensors if tensor.unfit(dims) is None])
            raise NoCloudError(
                f"{path}: no tensor called {key!r} can be a {what}: {found}; {expected}; it holds "
                f"{others or 'none of these'}"
            )
    return fit


def check_claim(path: Path, shape: Sequence[int]) -> None:
    """Raise DamagedSource for a shape without numbers that costs its reader more than the file.

    Numbers have to be in the file, which the readers of all formats check. A shape with a 0 in it
    has none, so that a file of 100 bytes can claim 2**40 points of 0 coordinates.
    """
    size = path.stat().st_size
    if 0 in shape and max(shape) > max(size, _HARMLESS):
        raise DamagedSource(
            f"{path} claims a tensor of shape {tuple(shape)}, which has no numbers, in {size} "
            "bytes: it is damaged, fetch or save it again"
        )


def _label(tensor: StoredTensor) -> str:
    return repr(tensor.name) if tensor.name else "its tensor"


def _names(tensors: Sequence[StoredTensor]) -> str:
    return _listed([tensor.name or "one without a name" for tensor in tensors])


def _listed(words: Sequence[str]) -> str:
    more = f", and {len(words) - _SHOWN} more" if len(words) > _SHOWN else ""
    return ", ".join(words[:_SHOWN]) + more


def need(module: str, path: Path) -> Any:
    """Import the module that reads a file.

    Raises:
        MissingReaderError: it is not installed; the message says how to install it.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        extra = "tuning" if module == "gguf" else "analysis"
        raise MissingReaderError(
            f"{path} is read by the package {module}, which is not installed here: install it with "
            f'pip install "tsloss-fast[{extra}]"'
        ) from error


@contextlib.contextmanager
def reading(path: Path, kind: str) -> Iterator[None]:
    """Turn the errors of libraries that read `path` into errors that name it."""
    try:
        yield
    except (SourceError, ImportError, FileNotFoundError, PermissionError):
        raise
    except MemoryError as error:
        raise SourceError(
            f"{path} does not fit into memory, or claims to hold more than it does "
            f"({_reason(error)})"
        ) from error
    except Exception as error:
        # A cut or foreign file shows itself in a dozen types of error, depending on where.
        raise DamagedSource(f"{path} is damaged, or no {kind} ({_reason(error)})") from error


def _reason(error: Exception) -> str:
    # The rest of torch's messages recommends loading the file with weights_only=False.
    first = str(error).split("\n")[0].split(". ")[0]
    return f"{type(error).__name__}: {first[:160]}".strip(": ")
