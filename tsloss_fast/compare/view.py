"""The live table of an experiment: what is done, what is underway, and how it looks so far."""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.console import Group as Lines
from rich.live import Live
from rich.table import Table

from tsloss_fast._terminal import escape_invisible, say
from tsloss_fast.compare.design import Design
from tsloss_fast.compare.scheduler import State

__all__ = ["live"]


@contextmanager
def live(design: Design) -> Iterator[Callable[[State], None]]:
    """A view for `run_experiment`, on standard error: a table on a terminal, and elsewhere a line
    whenever runs were finished."""
    # Brackets and colons in a name are text, not codes for colours and pictures.
    console = Console(stderr=True, markup=False, emoji=False)
    if not console.is_terminal:
        yield _Lines()
        return
    with Live(console=console, refresh_per_second=4) as screen:
        yield lambda state: screen.update(_screen(design, state))


class _Lines:
    def __init__(self) -> None:
        self.shown = -1

    def __call__(self, state: State) -> None:
        if state.new_runs != self.shown:
            self.shown = state.new_runs
            say(_headline(state), file=sys.stderr)


def _headline(state: State) -> str:
    done, total = state.plan.progress()
    text = f"{done} of {total} runs"
    if state.new_runs:
        seconds = (time.monotonic() - state.began) / state.new_runs * (total - done)
        text += f", about {_duration(seconds)} left at this pace"
    return text


def _screen(design: Design, state: State) -> Lines:
    table = Table(title=f"{design.name}: {_headline(state)}", title_justify="left")
    table.add_column("method")
    groups = list(design.groups())
    for group in groups:
        table.add_column(escape_invisible(group.describe()), justify="right")
    runs = [state.plan.final_runs(group) for group in groups]
    for method in design.methods:
        cells = []
        for found in runs:
            ends = [r["end"]["accuracy"] for r in found if r["trial"]["method"] == method.name]
            mean = f"{statistics.fmean(ends):.3f}" if ends else "–"
            cells.append(f"{mean} ({len(ends)}/{len(design.seeds)})")
        table.add_row(escape_invisible(method.name), *cells)
    return Lines(
        table,
        *(escape_invisible(_doing(label, message)) for label, message in state.underway.values()),
    )


def _doing(label: str, message: dict[str, object]) -> str:
    if "loading" in message:
        return f"{label}: loading {message['loading']}"
    if "step" in message:
        return f"{label}: step {message['step']} of {message['steps']}"
    return f"{label}: starting"


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"
