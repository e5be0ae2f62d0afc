"""`tsloss barcode`: the H0 barcode and single linkage of a whole table of embeddings."""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tsloss_fast import __version__, _batch
from tsloss_fast._files import HeldElsewhere, exclusive, whole_file
from tsloss_fast._terminal import CommandParser, counted, say
from tsloss_fast.analysis.table.table import Table, open_table
from tsloss_fast.analysis.table.work import Work
from tsloss_fast.barcode import single_linkage
from tsloss_fast.distributed.cloud import rows_of_block
from tsloss_fast.distributed.gradient import Owners
from tsloss_fast.distributed.mapped import MappedShard
from tsloss_fast.distributed.peers import Peers
from tsloss_fast.distributed.persistence import solve
from tsloss_fast.functional import H0Persistence

__all__ = ["main"]

_CALLER = "tsloss barcode"
_BLOCK_BYTES = 32 << 20
_SUFFIXES = (".npz", ".txt")


def main(argv: Sequence[str]) -> int:
    options = _parser().parse_args(argv)
    out = options.out or options.file.with_suffix(".barcode.npz")
    if out.suffix not in _SUFFIXES:
        raise ValueError(f"--out: expected a name that ends in {' or '.join(_SUFFIXES)}, got {out}")
    for name in ("threads", "processes", "block_mb"):
        number = getattr(options, name)
        if number is not None and number < 1:
            option = name.replace("_", "-")
            raise ValueError(f"--{option}: expected a number above 0, got {number}")
    if options.under is None and options.processes is not None:
        raise ValueError("--processes goes with --under torchrun")
    if options.under is not None and "RANK" not in os.environ:
        return _under_torchrun(argv, 2 if options.processes is None else options.processes)
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    with _peers() as peers, peers.call():
        table = _opened(options, peers)
        with _held(out, peers) as folder:
            _run(options, table, out, folder, peers)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = CommandParser(
        prog="tsloss barcode",
        description="Exact 0-dimensional persistence of all rows of a table in a file: deaths, "
        "critical edges and SciPy's linkage matrix. Rows are read from the file as they are "
        "needed; a command that was stopped goes on where it was.",
        epilog="example: tsloss barcode model.safetensors --key model.embed_tokens.weight "
        "--out vocabulary.npz",
    )
    parser.add_argument(
        "file",
        type=Path,
        help="a .safetensors, .gguf, .npy or torch file, or a .safetensors.index.json",
    )
    parser.add_argument(
        "--key", help="the table (N, D) in it (a GGUF file's token embeddings, or the only one)"
    )
    parser.add_argument(
        "--out",
        type=Path,
        help="NAME.npz: deaths, edges and linkage; NAME.txt: GUDHI's text form of the diagram "
        "(FILE.barcode.npz)",
    )
    parser.add_argument("--metric", choices=_batch.METRICS, default="euclidean", help="(euclidean)")
    parser.add_argument("--threads", type=int, help="of each process (all cores)")
    parser.add_argument(
        "--under", choices=("torchrun",), help="spread over processes; or call it with torchrun"
    )
    parser.add_argument("--processes", type=int, help="how many, with --under (2)")
    parser.add_argument(
        "--block-mb", type=int, default=_BLOCK_BYTES >> 20, help="read at a time (%(default)s)"
    )
    return parser


def _under_torchrun(argv: Sequence[str], processes: int) -> int:
    """This command again, in several processes of this machine."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += [f"--nproc-per-node={processes}", "-m", "tsloss_fast", "barcode", *argv]
    environment = dict(os.environ)
    environment.setdefault("OMP_NUM_THREADS", str(max((os.cpu_count() or 1) // processes, 1)))
    sys.stdout.flush()
    os.execve(sys.executable, command, environment)


@contextlib.contextmanager
def _peers() -> Iterator[Peers]:
    if "RANK" not in os.environ or "WORLD_SIZE" not in os.environ:
        yield Peers.alone(_CALLER)
        return
    torch.distributed.init_process_group("gloo")
    try:
        yield Peers(None, _CALLER)
    finally:
        torch.distributed.destroy_process_group()


def _opened(options: argparse.Namespace, peers: Peers) -> Table:
    """The table, before anything is written for it."""
    error: Exception | None = None
    try:
        table = open_table(options.file, options.key)
    except Exception as e:
        error = e
    peers.agree(error)
    return table


@contextlib.contextmanager
def _held(out: Path, peers: Peers) -> Iterator[Path]:
    """The folder of the state, beside the output, held against other commands by the first process.

    Raises:
        HeldElsewhere: another command writes the same output.
        OSError: the folder cannot be made, or is a symbolic link.
    """
    folder = out.with_name(f".{out.name}.partial")
    error: Exception | None = None
    with contextlib.ExitStack() as stack:
        if peers.rank == 0:
            try:
                if folder.is_symlink():
                    raise OSError(
                        f"{folder} is a symbolic link: remove it, or choose another --out"
                    )
                stack.enter_context(exclusive(folder, passing=True))
            except HeldElsewhere as holder:
                error = HeldElsewhere(
                    f"{out} is being computed by {holder}: wait for it to end, or choose another "
                    "--out"
                )
            except OSError as e:
                error = e
        peers.agree(error)
        yield folder


def _run(options: argparse.Namespace, table: Table, out: Path, folder: Path, peers: Peers) -> None:
    start = time.monotonic()
    error: Exception | None = None
    with _bar(peers.rank == 0) as show:
        try:
            work, owners, rows = _begin(options, table, folder, peers, show)
        except Exception as e:
            error = e
        peers.agree(error)
        if work.goes_on and peers.rank == 0:
            say(f"{_CALLER}: goes on where it was stopped", file=sys.stderr)

        def load() -> MappedShard:
            first, end = owners.range(peers.rank)
            return MappedShard(table.read, options.metric, first, end, rows)

        with work.watching():
            deaths, edges = solve(
                load,
                owners,
                table.dim,
                table.dtype,
                options.metric,
                peers,
                torch.device("cpu"),
                work,
            )
    if peers.rank == 0:
        _write(out, deaths, edges, table.rows)
        _tell(table, options.metric, deaths, peers.size, time.monotonic() - start, out)
    peers.agree(None)  # all are done: what is kept may go
    if peers.rank == 0:
        work.forget()


def _begin(
    options: argparse.Namespace,
    table: Table,
    folder: Path,
    peers: Peers,
    show: Callable[[float], None],
) -> tuple[Work, Owners, int]:
    n = table.rows
    owners = Owners([n * r // peers.size for r in range(peers.size + 1)])
    rows = rows_of_block(
        max(owners.sizes), table.dim, table.dtype, options.metric, options.block_mb << 20
    )
    identity = _identity(table, options.metric, rows)
    return Work(folder, identity, n, peers.rank, peers.size, show), owners, rows


def _identity(table: Table, metric: str, rows: int) -> dict[str, Any]:
    found = [(file.resolve(), file.stat()) for file in table.files]
    return {
        "version": __version__,
        "files": [[str(file), about.st_size, about.st_mtime_ns] for file, about in found],
        "key": table.key,
        "shape": [table.rows, table.dim],
        "metric": metric,
        "rows": rows,
    }


@contextlib.contextmanager
def _bar(shown: bool) -> Iterator[Callable[[float], None]]:
    if not shown:
        yield lambda fraction: None
        return
    from tqdm.auto import tqdm

    form = "{desc} {percentage:3.0f}% |{bar}| {elapsed}, {remaining} left"
    with tqdm(total=1.0, desc=_CALLER, bar_format=form, leave=False, disable=None) as bar:

        def show(fraction: float) -> None:
            bar.n = max(bar.n, fraction)
            bar.refresh()

        yield show


def _write(out: Path, deaths: Tensor, edges: Tensor, points: int) -> None:
    with whole_file(out) as temporary, open(temporary, "wb") as file:
        if out.suffix == ".txt":
            np.savetxt(
                file,
                np.column_stack([np.zeros((len(deaths), 2)), deaths.numpy()]),
                fmt=("%d", "%d", "%.9g" if deaths.dtype is torch.float32 else "%.17g"),
            )
            if points > 0:
                file.write(b"0 0 inf\n")
            return
        linkage = single_linkage(H0Persistence(deaths, edges)) if points > 1 else np.empty((0, 4))
        np.savez(file, deaths=deaths.numpy(), edges=edges.numpy(), linkage=np.asarray(linkage))


def _tell(
    table: Table, metric: str, deaths: Tensor, processes: int, seconds: float, out: Path
) -> None:
    name = f" {table.key}" if table.key else ""
    say(f"{table.path.name}{name}: {table.rows} x {table.dim} ({table.stored}), {metric}")
    if len(deaths):
        middle = deaths.double().median()
        coincident = int((deaths == 0).sum())
        say(
            f"{len(deaths)} bars: median {middle:.4g}, longest {deaths[-1]:.4g}, "
            f"{coincident} of length 0"
        )
    say(
        f"{seconds:.1f} s in {processes} process{'es' if processes > 1 else ''} of "
        f"{counted(torch.get_num_threads(), 'thread')}, "
        f"{_peak_megabytes():.0f} MB at most",
        f"wrote {out}",
    )


def _peak_megabytes() -> float:
    """Of this process, Python and torch included."""
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
