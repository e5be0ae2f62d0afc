"""How far the search for a tree is: shown, and kept in a folder, so that it can go on."""

from __future__ import annotations

import contextlib
import hashlib
import json
import time
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tsloss_fast import _core
from tsloss_fast._files import PREFIX, remove_temporaries, whole_file
from tsloss_fast.distributed.cloud import Edges
from tsloss_fast.distributed.watch import Begun, Watch

__all__ = ["Work"]

KEEP_SECONDS = 10.0
# About how the time is divided: reading, sample, own pairs, ring.
_SHARES = {"reading": 0.05, "sample": 0.05, "own pairs": 0.9, "ring": 0.0}
_SHARED = {"reading": 0.03, "sample": 0.02}


class Work(Watch):
    """The state of one process of a search in `folder`.

    `identity` says what is searched, in a table of `points` rows: a state of anything else is not
    gone on with. `show(fraction)` is called now and then.

    A state that was damaged or changed, as its digest shows, is discarded with a warning, and the
    search begins anew. The digest has no key, so a state can be forged, and then gives a wrong
    barcode; but everyone with access to the state can change the output, too. The types and ranges
    are checked in any case, since the core relies on them.
    """

    def __init__(
        self,
        folder: Path,
        identity: dict[str, Any],
        points: int,
        rank: int,
        size: int,
        show: Callable[[float], None],
    ) -> None:
        self._folder, self._points, self._rank, self._show = folder, points, rank, show
        self._identity = json.dumps({**identity, "processes": size}, sort_keys=True)
        self._shares = dict(_SHARES)
        if size > 1:  # the pairs of 1 / size of all points are own ones
            rest = 1 - sum(_SHARED.values())
            self._shares = {**_SHARED, "own pairs": rest / size, "ring": rest * (1 - 1 / size)}
        self._order, self._units, self._at = -1, 1, 0
        self._stage, self._last = "reading", time.monotonic()
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{PREFIX}{self._file.name}").unlink(missing_ok=True)
        # What was done of each stage, by its place in the order of the stages.
        self._stages = self._read()

    @property
    def goes_on(self) -> bool:
        """Whether there is something to go on from."""
        return bool(self._stages)

    @property
    def _file(self) -> Path:
        return self._folder / f"process-{self._rank}.npz"

    def _read(self) -> dict[str, Begun]:
        """Return the state that was kept of the same search by stages, or nothing."""
        try:
            with np.load(self._file, allow_pickle=False) as file:
                kept = {name: file[name] for name in file.files}
            if str(kept.pop("digest")) != _digest(kept):
                raise ValueError("its digest differs")
            if str(kept.pop("identity")) != self._identity:
                return {}
            return {name: self._stage_of(kept, name) for name in json.loads(str(kept["stages"]))}
        except FileNotFoundError:
            return {}
        except Exception as error:
            self._discard(error)
            return {}

    def _stage_of(self, kept: dict[str, np.ndarray], name: str) -> Begun:
        keys, ends = kept[f"{name}-keys"], kept[f"{name}-ends"]
        units, lost = kept[f"{name}-units"].item(), kept[f"{name}-lost"].item()
        for array, dtype, shape in (
            (keys, np.float64, (len(keys),)),
            (ends, np.int64, (len(keys), 2)),
        ):
            if array.dtype != dtype or array.shape != shape:
                raise ValueError(f"{name} holds {array.dtype} of shape {array.shape}")
        if not (isinstance(units, int) and units > 0 and isinstance(lost, bool)):
            raise ValueError(f"{name} says that {units} units are done")
        # This comparison is false for NaN, too.
        if not (keys >= 0).all():
            raise ValueError(f"{name} holds a key that is no length")
        if not ((ends[:, 0] >= 0) & (ends[:, 0] < ends[:, 1]) & (ends[:, 1] < self._points)).all():
            raise ValueError(f"{name} holds an edge of points that the table does not have")
        edges = Edges(torch.from_numpy(keys), torch.from_numpy(ends))
        return Begun(units, [edges], lost)

    def _discard(self, why: object) -> None:
        warnings.warn(
            f"{self._file} cannot be used ({why}): what it kept of the search that was stopped is "
            "discarded, and the search begins anew",
            UserWarning,
            stacklevel=2,
        )

    def begin(self, stage: str, units: int) -> Begun:
        self._order += 1
        self._stage, self._units, self._at = stage, max(units, 1), 0
        name = f"stage-{self._order}"
        begun = self._stages.get(name, Begun())
        if begun.units > units:
            self._discard(f"{name} has {units} units, and not {begun.units}")
            self._stages, begun = {}, Begun()
        self._at = begun.units
        return Begun(begun.units, list(begun.found), begun.lost)

    def done(self, begun: Begun, forest: Edges) -> None:
        self._at = begun.units
        self._tell(0.0)
        if time.monotonic() - self._last < KEEP_SECONDS and begun.units < self._units:
            return
        self._last = time.monotonic()
        joined = Edges.join([forest, *begun.found])
        self._stages[f"stage-{self._order}"] = Begun(begun.units, [joined], begun.lost)
        state: dict[str, Any] = {
            "identity": np.array(self._identity),
            "stages": np.array(json.dumps([*self._stages])),
        }
        for name, stage in self._stages.items():
            state |= {
                f"{name}-units": np.array(stage.units),
                f"{name}-keys": stage.found[0].keys.numpy(),
                f"{name}-ends": stage.found[0].ends.numpy(),
                f"{name}-lost": np.array(stage.lost),
            }
        with whole_file(self._file) as temporary, open(temporary, "wb") as file:
            np.savez(file, digest=_digest(state), **state)

    @contextlib.contextmanager
    def watching(self) -> Any:
        """Within it, long calls of the core move the bar, too."""
        _core.set_progress(self._tell)
        try:
            yield
        finally:
            _core.set_progress(None)

    def _tell(self, part: float) -> None:
        before = 0.0
        for stage, share in self._shares.items():
            if stage == self._stage:
                self._show(min(before + share * (self._at + part) / self._units, 1.0))
                return
            before += share

    def forget(self) -> None:
        """The search is over: no state of any of its processes is of more use."""
        for file in self._folder.glob("process-*.npz"):
            file.unlink(missing_ok=True)
        remove_temporaries(self._folder)


def _digest(state: Mapping[str, np.ndarray]) -> str:
    """A digest of all arrays with their names, types and shapes."""
    digest = hashlib.sha256()
    for name in sorted(state):
        array = np.ascontiguousarray(state[name])
        digest.update(f"{name} {array.dtype.str} {array.shape}\n".encode())
        digest.update(array.data.cast("B") if array.size else b"")
    return digest.hexdigest()
