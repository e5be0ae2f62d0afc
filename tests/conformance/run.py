"""Asks every implementation everything, each in a process of its own: one that crashes or hangs
fails a check, and is asked the next one."""

from __future__ import annotations

import multiprocessing
import os
import warnings
from collections.abc import Sequence
from typing import Any

from .adapter import Adapter
from .adapters import all_adapters
from .checks import CHECKS, Check, Outcome

__all__ = ["Outcome", "ask", "run", "table"]

_SECONDS = 60.0  # of a check


def ask(adapter: Adapter, check: Check) -> Outcome:
    """In this process."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return check.ask(adapter)


def _serve(name: str, first: int, pipe: Any) -> None:
    # What libraries print of their own accord.
    with open(os.devnull, "w", encoding="utf-8") as nowhere:
        os.dup2(nowhere.fileno(), 1)
        os.dup2(nowhere.fileno(), 2)
    (adapter,) = (a for a in all_adapters() if a.name == name)
    for check in CHECKS[first:]:
        pipe.send(ask(adapter, check))


def run(name: str) -> list[Outcome]:
    """What the implementation of that name makes of every check."""
    context = multiprocessing.get_context("spawn")
    outcomes: list[Outcome] = []
    while len(outcomes) < len(CHECKS):
        ours, theirs = context.Pipe(duplex=False)
        process = context.Process(target=_serve, args=(name, len(outcomes), theirs), daemon=True)
        process.start()
        theirs.close()
        wrong = f"no answer in {_SECONDS:.0f} s"
        try:
            while len(outcomes) < len(CHECKS) and ours.poll(_SECONDS):
                outcomes.append(ours.recv())
        except EOFError:
            process.join()
            wrong = f"the process ended with {process.exitcode}"
        if len(outcomes) < len(CHECKS):
            outcomes.append(Outcome("fail", CHECKS[len(outcomes)].inputs[0], wrong))
        process.kill()
        process.join()
    return outcomes


def table(names: Sequence[str], outcomes: Sequence[Sequence[Outcome]]) -> list[str]:
    """Markdown: what passes, then each failure with the input that reproduces it, and the inputs
    that were left out."""
    lines = ["| | " + " | ".join(names) + " |", "|---|" + " :---: |" * len(names)]
    for k, check in enumerate(CHECKS):
        cells = (o[k].verdict + r"\*" * bool(o[k].left_out) for o in outcomes)
        lines.append(f"| {check.name} | " + " | ".join(cells) + " |")
    totals = (
        f"{sum(o.verdict == 'pass' for o in of)} of {sum(o.verdict != '-' for o in of)}"
        for of in outcomes
    )
    lines += ["| **passed** | " + " | ".join(totals) + " |", ""]
    for name, verdicts in zip(names, outcomes, strict=True):
        remarks = []
        for check, outcome in zip(CHECKS, verdicts, strict=True):
            if outcome.verdict == "fail":
                remarks += [f"- {check.name}: {outcome.wrong[:200]}", f"  `{outcome.expression}`"]
            if outcome.left_out:
                inputs = ", ".join(f"`{expression}`" for expression in outcome.left_out)
                remarks.append(f"- {check.name}: passed without {inputs}, which it does not offer")
        if remarks:
            lines += [f"## {name}", "", *remarks, ""]
    return lines
