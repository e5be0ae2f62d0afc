"""Tables (N, D) in files, of which rows are read when they are asked for, and their barcodes."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import resource
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm

from tsloss_fast import H0Persistence, __version__, _core
from tsloss_fast._files import HeldElsewhere, check_writable, exclusive, whole_file
from tsloss_fast._terminal import counted, say
from tsloss_fast.analysis.analyze.quantised import EMBEDDINGS
from tsloss_fast.analysis.analyze.stored import NoCloudError, reading, select
from tsloss_fast.analysis.analyze.tensor_files import open_tensors
from tsloss_fast.analysis.table.work import Work
from tsloss_fast.barcode import single_linkage
from tsloss_fast.distributed.cloud import rows_of_block
from tsloss_fast.distributed.gradient import Owners
from tsloss_fast.distributed.mapped import MappedShard
from tsloss_fast.distributed.peers import Peers
from tsloss_fast.distributed.persistence import solve

__all__ = ["Table", "open_table", "write_barcode"]

_CALLER = "tsloss barcode"
_BAR = "{desc} {percentage:3.0f}% |{bar}| {elapsed}, {remaining} left"


@dataclass
class Table:
    """A table of `rows` points with `dim` coordinates in the first of `files`, under the name `key`
    (empty if it has none), in numbers of the type `stored`. They depend on the other files, too.

    `read(a, b)` gives the rows from a to b, (b - a, D), as `dtype`: float32 or float64.
    """

    files: tuple[Path, ...]
    key: str
    rows: int
    dim: int
    dtype: torch.dtype
    stored: str
    read: Callable[[int, int], Tensor]


def open_table(path: Path, key: str | None) -> Table:
    """Find the table called `key` in a file that `open_tensors` reads, or the only one that the
    file holds (in a GGUF file, the embeddings of the tokens). Float8 tables are multiplied by their
    scales.

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
    rows, dim = chosen.shape
    # "F64" is the name in a GGUF file.
    dtype = torch.float64 if chosen.stored in ("float64", "F64") else torch.float32

    def read(a: int, b: int) -> Tensor:
        with reading(chosen.path, f"{chosen.path.suffix} file"):
            return chosen.numbers(slice(a, b)).to(dtype)

    # A table whose numbers cannot be read is refused here, before anything is written.
    read(0, min(rows, 1))
    files = tuple(dict.fromkeys((chosen.path, *chosen.files)))
    return Table(files, chosen.name, rows, dim, dtype, chosen.stored, read)


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
        deaths, edges = _solve(options, table, folder, peers)
        if peers.rank == 0:
            _write(out, deaths, edges, table.rows)
            _tell(table, options.metric, deaths, peers.size, time.monotonic() - start)
            say(f"wrote {out}")
        peers.agree(None)  # all are done: what is kept may go
        if peers.rank == 0:
            for file in (*folder.glob("process-*.npz"), *folder.glob(".tmp-process-*.npz")):
                file.unlink(missing_ok=True)


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
    options: argparse.Namespace, table: Table, folder: Path, peers: Peers
) -> tuple[Tensor, Tensor]:
    n, metric, block = table.rows, options.metric, options.block_mb << 20
    with _together(peers):
        owners = Owners([n * rank // peers.size for rank in range(peers.size + 1)])
        rows = rows_of_block(max(owners.sizes), table.dim, table.dtype, metric, block)
        stats = [(str(file.resolve()), file.stat()) for file in table.files]
        files = [(name, stat.st_size, stat.st_mtime_ns) for name, stat in stats]
        what = (table.key, n, table.dim, metric, rows, peers.size)
        identity = json.dumps([__version__, files, what])
        folder.mkdir(parents=True, exist_ok=True)
        work = Work(folder / f"process-{peers.rank}.npz", identity, n, peers.size)
    if work.goes_on and peers.rank == 0:
        say(f"{_CALLER}: goes on where it was stopped", file=sys.stderr)

    def load() -> MappedShard:
        return MappedShard(table.read, metric, *owners.range(peers.rank), rows)

    # Where `disable` is None, there is a bar only on a terminal.
    off, cpu = True if peers.rank else None, torch.device("cpu")
    with tqdm(total=1.0, desc=_CALLER, bar_format=_BAR, leave=False, disable=off) as work.bar:
        _core.set_progress(work.tell)
        try:
            return solve(load, owners, table.dim, table.dtype, metric, peers, cpu, work)
        finally:
            _core.set_progress(None)


def _write(out: Path, deaths: Tensor, edges: Tensor, points: int) -> None:
    with whole_file(out) as temporary, open(temporary, "wb") as file:
        if out.suffix == ".txt":
            ends = np.append(deaths.numpy(), [np.inf] * (points > 0))
            diagram = np.column_stack([np.zeros((len(ends), 2)), ends])
            np.savetxt(file, diagram, fmt="%.9g" if deaths.dtype is torch.float32 else "%.17g")
            return
        linkage = single_linkage(H0Persistence(deaths, edges)) if points > 1 else np.empty((0, 4))
        np.savez(file, deaths=deaths.numpy(), edges=edges.numpy(), linkage=np.asarray(linkage))


def _tell(table: Table, metric: str, deaths: Tensor, processes: int, seconds: float) -> None:
    name = f"{table.files[0].name} {table.key}".rstrip()
    say(f"{name}: {table.rows} x {table.dim} ({table.stored}), {metric}")
    if len(deaths):
        middle, longest, zeros = deaths.double().median(), deaths[-1], int((deaths == 0).sum())
        say(f"{len(deaths)} bars: median {middle:.4g}, longest {longest:.4g}, {zeros} of length 0")
    threads = counted(torch.get_num_threads(), "thread")
    where = f"{processes} process{'es' * (processes > 1)} of {threads}"
    # The peak is that of this process, Python and torch included.
    megabytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    say(f"{seconds:.1f} s in {where}, {megabytes:.0f} MB at most")
