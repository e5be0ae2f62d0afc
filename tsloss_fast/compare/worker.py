"""A process that trains cohorts for another one."""

from __future__ import annotations

import os
import signal
import traceback
import warnings
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

__all__ = ["work"]


def _stop_wanted(connection: Connection) -> bool:
    """Whether the other side wants an end. Anything that arrives during a training says so."""
    if not connection.poll():
        return False
    try:
        connection.recv()
    except EOFError:
        # The other side is gone, and its successor may be at work on the same files.
        os._exit(1)
    return True


def work(connection: Connection, threads: int, device: str, checkpoint_every: int) -> None:
    """Take jobs (trials, state file) until None comes; answer each with ("done", records),
    ("stopped", None) or ("error", (text, traceback)), and in between with ("progress", message)."""
    # A terminal sends an interrupt to the whole group: only the other side decides what it means.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    warnings.simplefilter("ignore")

    import torch
    from transformers.utils import logging as transformers_logging

    from tsloss_fast.compare.cohort import Cohort, CohortInterrupted
    from tsloss_fast.compare.model import Model
    from tsloss_fast.tuning.models import load_model

    torch.set_num_threads(threads)
    be_quiet: Any = transformers_logging.set_verbosity_error
    be_quiet()
    # One at a time: they are large, and jobs come model by model.
    name, model = "", None
    while True:
        try:
            job = connection.recv()
        except EOFError:
            return
        if job is None:
            return
        trials, state = job
        try:
            if model is None or name != trials[0]["model"]:
                name, model = trials[0]["model"], None
                connection.send(("progress", {"loading": name}))
                model = Model(*load_model(name), device=device)
            cohort = Cohort(
                trials,
                model,
                Path(state),
                lambda message: connection.send(("progress", message)),
                lambda: _stop_wanted(connection),
                checkpoint_every,
            )
            connection.send(("done", cohort.finish()))
        except CohortInterrupted:
            connection.send(("stopped", None))
            return
        except BrokenPipeError:
            return
        except Exception as error:
            text = " ".join(f"{type(error).__name__}: {error}".split())
            connection.send(("error", (text, traceback.format_exc())))
            return
