"""`tsloss barcode`: the H0 barcode and single linkage of a whole table of embeddings."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from tsloss_fast._terminal import CommandParser, require

__all__ = ["main"]

_METRICS = ("euclidean", "sqeuclidean", "cosine", "manhattan")


def main(argv: Sequence[str]) -> int:
    """Run `tsloss barcode`; returns the exit code 0, raises on errors."""
    options = _parser().parse_args(argv)
    # The folder of the table may be a cache, or not writable, so the working folder is taken.
    out = options.out or Path(f"{options.file.stem}.barcode.npz")
    if out.suffix not in (".npz", ".txt"):
        raise ValueError(f"--out: expected a name that ends in .npz or .txt, got {out}")
    for option in ("--threads", "--processes", "--block-mb"):
        number = getattr(options, option[2:].replace("-", "_"))
        if number is not None and number < 1:
            raise ValueError(f"{option}: expected a number above 0, got {number}")
    if options.under is None and options.processes is not None:
        raise ValueError("--processes goes with --under torchrun")
    require("tsloss barcode", "analysis", "tqdm")
    if options.under is not None and "RANK" not in os.environ:
        _run_under_torchrun(argv, options.processes or 2)

    from tsloss_fast.analysis.table.table import write_barcode

    write_barcode(options, out)
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
    add = parser.add_argument
    text = "a .safetensors, .gguf, .npy or torch file, or a .safetensors.index.json"
    add("file", type=Path, help=text)
    add("--key", help="the table (N, D) in it (a GGUF file's token embeddings, or the only one)")
    text = "NAME.npz: deaths, edges and linkage (in the working folder, NAME.barcode.npz by FILE); "
    text += "NAME.txt: the diagram as GUDHI reads it"
    add("-o", "--out", type=Path, help=text)
    add("--metric", choices=_METRICS, default=_METRICS[0], help="(%(default)s)")
    add("--threads", type=int, help="of each process (all cores)")
    text = "spread over processes; or call it with torchrun"
    add("--under", choices=("torchrun",), help=text)
    add("--processes", type=int, help="how many, with --under (2)")
    add("--block-mb", type=int, default=32, help="read at a time (%(default)s)")
    return parser


def _run_under_torchrun(argv: Sequence[str], processes: int) -> None:
    """Replace this process by torchrun, which starts the command again in several processes."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += [f"--nproc-per-node={processes}", "-m", "tsloss_fast", "barcode", *argv]
    threads = str(max((os.cpu_count() or 1) // processes, 1))
    sys.stdout.flush()
    os.execve(sys.executable, command, {"OMP_NUM_THREADS": threads, **os.environ})
