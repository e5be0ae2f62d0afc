"""How far the search for a tree is: shown, and kept in a folder, so that it can go on."""

from __future__ import annotations

import contextlib
import json
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tsloss_fast import _core
from tsloss_fast._atomic import PREFIX, whole_file
from tsloss_fast.distributed.cloud import Edges
from tsloss_fast.distributed.watch import Begun, Watch

__all__ = ["Work"]

KEEP_SECONDS = 10.0
# About how the time is divided: reading, sample, own pairs, ring.
_SHARES = {"reading": 0.05, "sample": 0.05, "own pairs": 0.9, "ring": 0.0}
_SHARED = {"reading": 0.03, "sample": 0.02}


class Work(Watch):
    """The state of one process of a search in `folder`.

    `identity` says what is searched: a state of anything else is not gone on with. `show(fraction)`
    is called now and then.
    """

    def __init__(
        self,
        folder: Path,
        identity: dict[str, Any],
        rank: int,
        size: int,
        show: Callable[[float], None],
    ) -> None:
        self._folder, self._rank, self._show = folder, rank, show
        self._identity = json.dumps({**identity, "processes": size}, sort_keys=True)
        self._shares = dict(_SHARES)
        if size > 1:  # the pairs of 1 / size of all points are own ones
            rest = 1 - sum(_SHARED.values())
            self._shares = {**_SHARED, "own pairs": rest / size, "ring": rest * (1 - 1 / size)}
        self._order, self._units, self._at = -1, 1, 0
        self._stage, self._last = "reading", time.monotonic()
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{PREFIX}{self._file.name}").unlink(missing_ok=True)
        self._kept = self._read()
        self._stages = {k: v for k, v in (self._kept or {}).items() if k.startswith("stage-")}

    @property
    def goes_on(self) -> bool:
        """Whether there is something to go on from."""
        return self._kept is not None

    @property
    def _file(self) -> Path:
        return self._folder / f"process-{self._rank}.npz"

    def _read(self) -> dict[str, Any] | None:
        """What was kept of the same search; a file that cannot be read is as good as none."""
        with contextlib.suppress(OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
            with np.load(self._file, allow_pickle=False) as file:
                kept = {name: file[name] for name in file.files}
            if str(kept["identity"]) == self._identity:
                return kept
        return None

    def begin(self, stage: str, units: int) -> Begun:
        self._order += 1
        self._stage, self._units, self._at = stage, max(units, 1), 0
        kept = self._kept
        if kept is None or int(kept["order"]) < self._order:
            return Begun()
        name = f"stage-{self._order}"
        if f"{name}-units" not in kept:  # it had no unit
            return Begun(units)
        done = int(kept[f"{name}-units"])
        self._at = done
        edges = Edges(
            torch.from_numpy(kept[f"{name}-keys"]), torch.from_numpy(kept[f"{name}-ends"])
        )
        return Begun(done, [edges], bool(kept[f"{name}-lost"]))

    def done(self, begun: Begun, forest: Edges) -> None:
        self._at = begun.units
        self._tell(0.0)
        if time.monotonic() - self._last < KEEP_SECONDS and begun.units < self._units:
            return
        self._last = time.monotonic()
        joined = Edges.join([forest, *begun.found])
        name = f"stage-{self._order}"
        self._stages |= {
            f"{name}-units": begun.units,
            f"{name}-keys": joined.keys.numpy(),
            f"{name}-ends": joined.ends.numpy(),
            f"{name}-lost": begun.lost,
        }
        with whole_file(self._file) as temporary, open(temporary, "wb") as file:
            np.savez(file, identity=self._identity, order=self._order, **self._stages)

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
        with contextlib.suppress(OSError):
            self._folder.rmdir()
