"""The barcode of a table (N, D) in a file, of which rows are read when they are asked for."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import resource
import sys
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm

from tsloss_fast import H0Persistence, __version__, _core
from tsloss_fast._files import HeldElsewhere, check_writable, exclusive, whole_file
from tsloss_fast._terminal import counted, say
from tsloss_fast.analysis.analyze.tensor_files import (
    EMBEDDINGS,
    NoCloudError,
    StoredTensor,
    open_tensors,
    reading,
    select,
)
from tsloss_fast.barcode import single_linkage
from tsloss_fast.distributed.cloud import Edges, rows_of_block
from tsloss_fast.distributed.gradient import Owners
from tsloss_fast.distributed.mapped import MappedShard
from tsloss_fast.distributed.peers import Peers
from tsloss_fast.distributed.persistence import solve
from tsloss_fast.distributed.watch import Begun, Watch

__all__ = ["Work", "open_table", "write_barcode"]

KEEP_SECONDS = 10.0
_CALLER = "tsloss barcode"
_BAR = "{desc} {percentage:3.0f}% |{bar}| {elapsed}, {remaining} left"
_FIELDS = ("units", "keys", "ends", "lost")


def open_table(path: Path, key: str | None) -> StoredTensor:
    """Find the table called `key` in a file that `open_tensors` reads, or the only one that the
    file holds (in a GGUF file, the embeddings of the tokens).

    Raises FileNotFoundError, or SourceError for what cannot be read, also for want of a package.
    """
    tensors = open_tensors(path)
    if key is not None and len(tensors) == 1 and not tensors[0].name:
        raise NoCloudError(f"{path} holds one array and no names; leave out --key")
    if key is None and path.suffix == ".gguf" and any(t.name == EMBEDDINGS for t in tensors):
        key = EMBEDDINGS
    chosen, *others = select(path, tensors, key, table=True)
    if others:
        names = ", ".join(tensor.name for tensor in (chosen, *others))
        raise NoCloudError(f"{path}: {key!r} matches several tables: choose one of {names}")
    # A table whose numbers cannot be read is refused here, before anything is written.
    with reading(chosen.path, f"{chosen.path.suffix} file"):
        chosen.numbers(slice(0, 1))
    return chosen


def write_barcode(options: argparse.Namespace, out: Path) -> None:
    """Write to `out` the barcode of the table that the options of `tsloss barcode` name, and say
    what it is like. In several processes, the first one writes.

    Raises HeldElsewhere if another command writes the same output, and ValueError, OSError or
    SourceError if the table or the output cannot be used.
    """
    start = time.monotonic()
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    with contextlib.ExitStack() as stack:
        peers = Peers.alone(_CALLER)
        if {"RANK", "WORLD_SIZE"} <= os.environ.keys():
            torch.distributed.init_process_group("gloo")
            stack.callback(torch.distributed.destroy_process_group)
            peers = Peers(None, _CALLER)
        stack.enter_context(peers.call())
        folder = out.with_name(f".{out.name}.partial")
        with _together(peers):
            if peers.rank == 0:
                check_writable(out)
            table = open_table(options.file, options.key)
            if peers.rank == 0:
                stack.enter_context(_held(folder, out))
        h0 = _solve(options, table, folder, peers)
        if peers.rank == 0:
            with whole_file(out) as temporary, open(temporary, "wb") as file:
                _write(out.suffix, file, h0, table.shape[0])
            _tell(table, options.metric, h0.deaths, peers.size, time.monotonic() - start)
            say(f"wrote {out}")
        peers.agree(None)  # all are done: what is kept may go
        if peers.rank == 0:
            for kept in (*folder.glob("process-*.npz"), *folder.glob(".tmp-process-*.npz")):
                kept.unlink(missing_ok=True)


@contextlib.contextmanager
def _together(peers: Peers) -> Iterator[None]:
    """At the end of the block, raise an error of one process in all of them."""
    error: Exception | None = None
    try:
        yield
    except Exception as e:
        error = e
    peers.agree(error)


@contextlib.contextmanager
def _held(folder: Path, out: Path) -> Iterator[None]:
    """Hold the folder of the state, beside the output, against other commands."""
    if folder.is_symlink():
        raise OSError(f"{folder} is a symbolic link: remove it, or choose another --out")
    try:
        with exclusive(folder, passing=True):
            yield
    except HeldElsewhere as holder:
        remedy = "wait for it to end, or choose another --out"
        raise HeldElsewhere(f"{out} is being computed by {holder}: {remedy}") from None


def _solve(
    options: argparse.Namespace, table: StoredTensor, folder: Path, peers: Peers
) -> H0Persistence:
    (n, dim), metric = table.shape, options.metric
    dtype = torch.float64 if table.stored == "float64" else torch.float32
    with _together(peers):
        owners = Owners([n * rank // peers.size for rank in range(peers.size + 1)])
        rows = rows_of_block(max(owners.sizes), dim, dtype, metric, options.block_mb << 20)
        # An index decides which table it is, and lies beside the table's file.
        stats = [(str(file.resolve()), file.stat()) for file in (table.path, options.file)]
        files = [(name, stat.st_size, stat.st_mtime_ns) for name, stat in stats]
        what = (table.name, n, dim, metric, rows, peers.size)
        folder.mkdir(parents=True, exist_ok=True)
        identity = json.dumps([__version__, files, what])
        work = Work(folder / f"process-{peers.rank}.npz", identity, n)
    if work.goes_on and peers.rank == 0:
        say(f"{_CALLER}: goes on where it was stopped", file=sys.stderr)

    def read(a: int, b: int) -> Tensor:
        with reading(table.path, f"{table.path.suffix} file"):
            return table.numbers(slice(a, b)).to(dtype)

    def load() -> MappedShard:
        return MappedShard(read, metric, *owners.range(peers.rank), rows)

    # Where `disable` is None, there is a bar only on a terminal.
    off, cpu = True if peers.rank else None, torch.device("cpu")
    with tqdm(bar_format=_BAR, leave=False, disable=off) as work.bar:
        _core.set_progress(work.tell)
        try:
            return H0Persistence(*solve(load, owners, dim, dtype, metric, peers, cpu, work))
        finally:
            _core.set_progress(None)


class Work(Watch):
    """The state of one process of a search in a table of `points` rows, shown by tqdm's `bar`, if
    there is one, and kept in `file`, so that the search can go on.

    `identity` says what is searched: a state of anything else is not gone on with. `goes_on` says
    whether there was a state. A damaged state, as the checksums in the file show, is discarded with
    a warning, and the search begins anew. A state can be forged, and then gives a wrong barcode;
    but everyone with access to the state can change the output, too. The types and ranges are
    checked in any case, since the core relies on them.
    """

    bar: Any = None

    def __init__(self, file: Path, identity: str, points: int) -> None:
        self._file, self._identity, self._points = file, identity, points
        self._order, self._units, self._at = -1, 1, 0
        self._last = time.monotonic()
        # The finished part of each stage, by its place in the order of the stages.
        self._stages: dict[str, Begun] = {}
        try:
            with np.load(file, allow_pickle=False) as kept:
                if str(kept["identity"]) == identity:
                    for n in kept["stages"].tolist():
                        self._stages[n] = self._stage_of(*(kept[f"{n}-{f}"] for f in _FIELDS))
        except FileNotFoundError:
            pass
        except Exception as error:
            self._stages = {}
            warnings.warn(
                f"{file} cannot be used ({error}): what it kept of the search that was stopped is "
                "discarded, and the search begins anew",
                UserWarning,
                stacklevel=2,
            )
        self.goes_on = bool(self._stages)

    def _stage_of(self, units: Any, keys: Any, ends: Any, lost: Any) -> Begun:
        """Raise ValueError unless the arrays can be those of a stage."""
        n, shapes = keys.size, (units.shape, keys.shape, ends.shape, lost.shape)
        types = units.dtype.kind, keys.dtype, ends.dtype, lost.dtype
        if shapes != ((), (n,), (n, 2), ()) or types != ("i", float, np.int64, bool):
            raise ValueError("its arrays have other shapes or types")
        first, second = ends.T
        # The first comparison is false for NaN, too.
        possible = (keys >= 0) & (first >= 0) & (first < second) & (second < self._points)
        if units < 1 or not possible.all():
            raise ValueError("it holds what cannot be found in this table")
        edges = Edges(torch.from_numpy(keys), torch.from_numpy(ends))
        return Begun(units.item(), [edges], lost.item())

    def begin(self, stage: str, units: int) -> Begun:
        self._order += 1
        begun = self._stages.get(f"stage-{self._order}", Begun())
        self._units, self._at = max(units, 1), begun.units
        if self.bar is not None:
            self.bar.set_description(f"{_CALLER}, {stage}", refresh=False)
            self.bar.reset(self._units)
        return Begun(begun.units, list(begun.found), begun.lost)

    def done(self, begun: Begun, forest: Edges) -> None:
        self._at = begun.units
        self.tell(0.0)
        if time.monotonic() - self._last < KEEP_SECONDS and begun.units < self._units:
            return
        self._last = time.monotonic()
        joined = Edges.join([forest, *begun.found])
        self._stages[f"stage-{self._order}"] = Begun(begun.units, [joined], begun.lost)
        state: dict[str, Any] = {"identity": self._identity, "stages": [*self._stages]}
        for name, stage in self._stages.items():
            (edges,) = stage.found
            values = (stage.units, edges.keys, edges.ends, stage.lost)
            state |= {f"{name}-{f}": value for f, value in zip(_FIELDS, values, strict=True)}
        with whole_file(self._file) as temporary, open(temporary, "wb") as file:
            np.savez(file, **state)

    def tell(self, part: float) -> None:
        """Show that `part` of the next unit is done: long calls of the core tell so."""
        if self.bar is not None:
            self.bar.n = min(self._at + part, self._units)
            self.bar.refresh()


def _write(suffix: str, file: IO[bytes], h0: H0Persistence, points: int) -> None:
    deaths = h0.deaths.numpy()
    if suffix == ".txt":
        # GUDHI's lines: dimension, birth and death, the bar that never dies among them.
        ends = np.append(deaths, [np.inf] * (points > 0))
        digits = "%.9g" if deaths.dtype == np.float32 else "%.17g"
        np.savetxt(file, np.pad(ends[:, None], ((0, 0), (2, 0))), fmt=["%d", "%d", digits])
        return
    linkage = np.asarray(single_linkage(h0)) if len(deaths) else np.empty((0, 4))
    np.savez(file, deaths=deaths, edges=h0.edges.numpy(), linkage=linkage)


def _tell(table: StoredTensor, metric: str, deaths: Tensor, processes: int, seconds: float) -> None:
    rows, dim = table.shape
    say(f"{f'{table.path.name} {table.name}'.rstrip()}: {rows} x {dim} ({table.stored}), {metric}")
    if len(deaths):
        middle, longest, zeros = deaths.double().median(), deaths[-1], int((deaths == 0).sum())
        say(f"{len(deaths)} bars: median {middle:.4g}, longest {longest:.4g}, {zeros} of length 0")
    where = f"{processes} process{'es' * (processes > 1)} of "
    where += counted(torch.get_num_threads(), "thread")
    # The peak is that of this process, Python and torch included.
    megabytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    say(f"{seconds:.1f} s in {where}, {megabytes:.0f} MB at most")
