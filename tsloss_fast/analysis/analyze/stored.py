"""A tensor in a file before its numbers are read, and the errors of files that give no cloud."""

from __future__ import annotations

import contextlib
import fnmatch
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import EllipsisType

from torch import Tensor

__all__ = [
    "FLOAT8",
    "DamagedSource",
    "MissingReaderError",
    "NoCloudError",
    "Rows",
    "SourceError",
    "StoredTensor",
    "reading",
    "select",
    "type_problem",
]

# Rows along the first axis, or `...` for the whole tensor, which may have no axis at all.
Rows = slice | EllipsisType
FLOATS = ("float16", "bfloat16", "float32", "float64")
FLOAT8 = ("float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "float8_e5m2fnuz")
_SHOWN = 8


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
        shape: its sizes along each axis; empty where they cannot be known.
        stored: the type of its numbers, for example `bfloat16`, or `Q8_0` in a GGUF file.
        read: returns some rows, or all, as a copy on the CPU.
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
    read: Callable[[Rows], Tensor]
    problem: str | None = None
    missing: str | None = None
    files: tuple[Path, ...] = ()

    @property
    def label(self) -> str:
        return repr(self.name) if self.name else "its tensor"

    def unfit(self, dims: Sequence[int] = (2, 3)) -> str | None:
        """Return why the tensor cannot be a cloud (N, D) or a batch (B, N, D), as the end of a
        sentence; None if it can."""
        if self.problem is not None or len(self.shape) not in dims:
            return self.problem or f"has the shape {self.shape}"
        is_empty = len(self.shape) == 3 and self.shape[0] == 0
        return f"has the shape {self.shape}, which is a batch of no clouds" if is_empty else None

    def numbers(self, rows: Rows = ...) -> Tensor:
        """Return some rows, or all.

        Raises:
            NoCloudError: something without which the numbers have no meaning is missing.
        """
        if self.missing is not None:
            raise NoCloudError(f"{self.path}: {self.label} {self.missing}")
        return self.read(rows)


def type_problem(stored: str) -> str | None:
    return None if stored in (*FLOATS, *FLOAT8) else f"has the type {stored}"


def select(
    path: Path, tensors: Sequence[StoredTensor], key: str | None, *, table: bool = False
) -> list[StoredTensor]:
    """Return the tensors that `key` names or matches, or the only one that can be a cloud.

    Args:
        table: whether only tensors (N, D) count.

    Raises:
        NoCloudError: no tensor fits, or several do and `key` is None.
    """
    dims = (2,) if table else (2, 3)
    what, shapes = ("table", "(N, D)") if table else ("cloud", "(N, D) or (B, N, D)")
    expected = f"expected {', '.join(FLOATS)}, or float8 with its scales, of shape {shapes}"

    def fitting(tensors: Sequence[StoredTensor]) -> list[StoredTensor]:
        return [tensor for tensor in tensors if tensor.unfit(dims) is None]

    def unfit(tensors: Sequence[StoredTensor]) -> str:
        return _listed([f"{tensor.label} {tensor.unfit(dims)}" for tensor in tensors])

    def names(tensors: Sequence[StoredTensor]) -> str:
        return _listed([tensor.name or "one without a name" for tensor in tensors])

    fit = fitting(tensors)
    if key is None and not fit:
        raise NoCloudError(f"{path} holds no {what}: {unfit(tensors)}; {expected}")
    if key is None and len(fit) > 1:
        choice = "NAME" if table else "NAME or a pattern, --key '*' for all"
        raise NoCloudError(
            f"{path} holds {len(fit)} tensors that can be {what}s ({names(fit)}): choose with "
            f"--key {choice}"
        )
    if key is None:
        return fit
    # A name may itself hold the characters of a pattern.
    named = [tensor for tensor in tensors if tensor.name == key]
    named = named or [tensor for tensor in tensors if fnmatch.fnmatchcase(tensor.name, key)]
    if not named:
        raise NoCloudError(f"{path}: no tensor is called {key!r}; it holds {names(tensors)}")
    if not fitting(named):
        raise NoCloudError(
            f"{path}: no tensor called {key!r} can be a {what}: {unfit(named)}; {expected}; it "
            f"holds {names(fit)}"
        )
    return fitting(named)


def _listed(words: Sequence[str]) -> str:
    more = f", and {len(words) - _SHOWN} more" if len(words) > _SHOWN else ""
    return (", ".join(words[:_SHOWN]) or "no such tensor") + more


@contextlib.contextmanager
def reading(path: Path, kind: str) -> Iterator[None]:
    """Turn the errors of libraries that read `path` into SourceErrors that name it."""
    try:
        yield
    except SourceError as error:
        # The file that the user gave can be an index, and the damaged one a shard that it names.
        if str(path) in str(error):
            raise
        raise type(error)(f"{path}: {error}") from error
    except (FileNotFoundError, PermissionError):
        raise
    except ImportError as error:
        extra = "tuning" if error.name == "gguf" else "analysis"
        raise MissingReaderError(
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
