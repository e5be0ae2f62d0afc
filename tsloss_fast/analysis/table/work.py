"""How far the search for a tree is: shown, and kept in a file, so that it can go on."""

from __future__ import annotations

import hashlib
import time
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tsloss_fast._files import whole_file
from tsloss_fast.distributed.cloud import Edges
from tsloss_fast.distributed.watch import Begun, Watch

__all__ = ["Work"]

KEEP_SECONDS = 10.0
_FIELDS = ("units", "keys", "ends", "lost")


class Work(Watch):
    """The state of one of `size` processes of a search in a table of `points` rows, kept in `file`.

    `identity` says what is searched: a state of anything else is not gone on with. `goes_on` says
    whether there was a state. `bar` is tqdm's bar from 0 to 1, if it is to be moved.

    A state that was damaged or changed, as its digest shows, is discarded with a warning, and the
    search begins anew. The digest has no key, so a state can be forged, and then gives a wrong
    barcode; but everyone with access to the state can change the output, too. The types and ranges
    are checked in any case, since the core relies on them.
    """

    bar: Any = None

    def __init__(self, file: Path, identity: str, points: int, size: int = 1) -> None:
        self._file, self._identity, self._points = file, identity, points
        # Each stage moves the bar from one place to another, about as the time is divided. A share
        # of 1 / size of all pairs lies within a process.
        own = 0.1 + 0.9 / size
        self._parts = {"sample": (0.05, 0.1), "own pairs": (0.1, own), "ring": (own, 1.0)}
        self._part, self._order, self._units, self._at = (0.0, 0.05), -1, 1, 0
        self._last = time.monotonic()
        # What was done of each stage, by its place in the order of the stages.
        self._stages = self._read()
        self.goes_on = bool(self._stages)

    def _read(self) -> dict[str, Begun]:
        """Return the state that was kept of the same search by stages, or nothing."""
        try:
            with np.load(self._file, allow_pickle=False) as file:
                kept = {name: file[name] for name in file.files}
            if str(kept.pop("digest")) != _digest(kept):
                raise ValueError("its digest differs")
            if str(kept["identity"]) != self._identity:
                return {}
            names = kept["stages"].tolist()
            return {n: self._stage_of(*(kept[f"{n}-{field}"] for field in _FIELDS)) for n in names}
        except FileNotFoundError:
            return {}
        except Exception as error:
            self._discard(error)
            return {}

    def _stage_of(self, units: Any, keys: Any, ends: Any, lost: Any) -> Begun:
        """Raise ValueError unless the arrays can be those of a stage."""
        count = keys.size
        shapes = units.shape, keys.shape, ends.shape, lost.shape
        types = units.dtype.kind, keys.dtype, ends.dtype, lost.dtype
        if shapes != ((), (count,), (count, 2), ()) or types != ("i", float, np.int64, bool):
            raise ValueError("its arrays have other shapes or types")
        first, second = ends.T
        # The first comparison is false for NaN, too.
        possible = (keys >= 0) & (first >= 0) & (first < second) & (second < self._points)
        if units < 1 or not possible.all():
            raise ValueError("it holds what cannot be found in this table")
        edges = Edges(torch.from_numpy(keys), torch.from_numpy(ends))
        return Begun(units.item(), [edges], lost.item())

    def _discard(self, why: object) -> None:
        warnings.warn(
            f"{self._file} cannot be used ({why}): what it kept of the search that was stopped is "
            "discarded, and the search begins anew",
            UserWarning,
            stacklevel=2,
        )

    def begin(self, stage: str, units: int) -> Begun:
        self._order += 1
        self._part, self._units = self._parts[stage], max(units, 1)
        begun = self._stages.get(f"stage-{self._order}", Begun())
        if begun.units > units:
            self._discard(f"it has done {begun.units} of {units} units")
            self._stages, begun = {}, Begun()
        self._at = begun.units
        return Begun(begun.units, list(begun.found), begun.lost)

    def done(self, begun: Begun, forest: Edges) -> None:
        self._at = begun.units
        self.tell(0.0)
        if time.monotonic() - self._last < KEEP_SECONDS and begun.units < self._units:
            return
        self._last = time.monotonic()
        joined = Edges.join([forest, *begun.found])
        self._stages[f"stage-{self._order}"] = Begun(begun.units, [joined], begun.lost)
        state = {"identity": np.array(self._identity), "stages": np.array([*self._stages])}
        for name, stage in self._stages.items():
            (edges,) = stage.found
            values = (stage.units, edges.keys, edges.ends, stage.lost)
            for field, value in zip(_FIELDS, values, strict=True):
                state[f"{name}-{field}"] = np.asarray(value)
        with whole_file(self._file) as temporary, open(temporary, "wb") as file:
            np.savez(file, digest=_digest(state), **state)  # type: ignore[arg-type]

    def tell(self, part: float) -> None:
        """Show that `part` of the next unit is done: long calls of the core tell so."""
        if self.bar is not None:
            start, end = self._part
            now = start + (end - start) * min((self._at + part) / self._units, 1.0)
            self.bar.n = max(self.bar.n, now)
            self.bar.refresh()


def _digest(state: Mapping[str, np.ndarray]) -> str:
    """A digest of all arrays with their names, types and shapes."""
    digest = hashlib.sha256()
    for name, array in sorted(state.items()):
        digest.update(f"{name} {array.dtype.str} {array.shape}\n".encode() + array.tobytes())
    return digest.hexdigest()
