"""Runs in processes of their own that kill themselves (SIGKILL) at a chosen moment."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import signal
from typing import Any, NoReturn

SETTINGS: dict[str, Any] = {
    "model": "tiny",
    "steps": 14,
    "train_size": 20,
    "test_size": 6,
    "virtual_tokens": 6,
    "eval_every": 5,
    "checkpoint_every": 4,
    # Its reference is set at the first step and kept: a part of the state that is easily lost.
    "compactness": 1.0,
}


def die() -> NoReturn:
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError("a killed process goes on")


def tune_here(out: str, progress: Any = None, load: Any = None, **changes: Any) -> Any:
    import torch
    from tiny_llama import make_tiny_model, make_tiny_tokenizer

    from tsloss_fast.tuning import TuneConfig, tune

    threads = torch.get_num_threads()
    # Bits are promised for one thread count.
    torch.set_num_threads(1)
    try:
        config = TuneConfig(out=out, **(SETTINGS | changes))
        return tune(
            config, progress, load=load or (lambda: (make_tiny_model(), make_tiny_tokenizer()))
        )
    finally:
        torch.set_num_threads(threads)


def _kill_at_call(owner: Any, name: str, number: int, when: str) -> None:
    """Let the process die before, in the middle of, or after call `number` of a function."""
    original = getattr(owner, name)
    calls = 0

    def counted(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == number and when == "before":
            die()
        result = original(*args, **kwargs)
        if calls == number:
            die()
        return result

    setattr(owner, name, counted)


def _half_a_line(number: int) -> None:
    from tsloss_fast.tuning.run_folder import MetricsLog

    original = MetricsLog.write
    calls = 0

    def write(self: Any, record: Any) -> None:
        nonlocal calls
        calls += 1
        if calls == number:
            self._file.write(b'{"kind": "step", "st')
            die()
        original(self, record)

    MetricsLog.write = write  # type: ignore[method-assign]


def _half_a_batch(number: int) -> None:
    from tsloss_fast.analysis.record.writer import RecordWriter

    original = RecordWriter.write
    calls = 0

    def write(self: Any, rows: Any) -> None:
        nonlocal calls
        calls += 1
        if calls < number:
            return original(self, rows)
        whole = os.write
        os.write = lambda file, data: (whole(file, data[: len(data) // 2]), die())[0]
        original(self, rows)

    RecordWriter.write = write  # type: ignore[method-assign]


def _half_a_removal(number: int) -> None:
    original = shutil.rmtree
    calls = 0

    def rmtree(path: Any, *args: Any, **kwargs: Any) -> None:
        nonlocal calls
        if os.path.isdir(path) and "old-checkpoint" in os.path.basename(path):
            calls += 1
            if calls == number:
                os.unlink(os.path.join(path, "optimizer.pt"))
                die()
        original(path, *args, **kwargs)

    shutil.rmtree = rmtree


def _child(out: str, moment: tuple[str, int, str]) -> None:
    what, number, when = moment
    progress = None
    if what == "step":

        def progress(record: Any) -> None:
            if record["kind"] == "step" and record["step"] == number:
                die()

    elif what == "half a line":
        _half_a_line(number)
    elif what == "half a batch":
        _half_a_batch(number)
    elif what == "half a removal":
        _half_a_removal(number)
    elif what == "save":
        import torch

        _kill_at_call(torch, "save", number, when)
    else:
        _kill_at_call(os, what, number, when)
    tune_here(out, progress)


def _hold(out: str, ready: Any) -> None:
    import time
    from pathlib import Path

    from tsloss_fast.tuning.run_folder import exclusive

    with exclusive(Path(out)):
        ready.set()
        time.sleep(600)


def context() -> Any:
    """Processes that start from one that has imported everything: a second less for each."""
    forkserver = multiprocessing.get_context("forkserver")
    forkserver.set_forkserver_preload(["torch", "tsloss_fast.tuning.tune", "tiny_llama"])
    return forkserver


def tune_and_die(out: str, moment: tuple[str, int, str]) -> int | None:
    """Run until the moment comes; the exit code (−9 when it came, 0 when the run ended first)."""
    process = context().Process(target=_child, args=(out, moment))
    process.start()
    process.join(120)
    return process.exitcode
