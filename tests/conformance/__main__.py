"""`make conformance`: the table of what passes what."""

from __future__ import annotations

import argparse
import platform
import sys
from pathlib import Path

import numpy as np
import torch

from tsloss_fast._files import whole_file

from .adapters import OTHERS, all_adapters
from .checks import CHECKS
from .run import run, table


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m conformance",
        description="Ask every implementation of H0 persistence at hand what it gets right.",
    )
    parser.add_argument("names", nargs="*", help="of implementations, or parts (all)")
    parser.add_argument("--output", type=Path, help="Markdown file for the table")
    options = parser.parse_args()
    adapters = [
        a for a in all_adapters() if not options.names or any(n in a.name for n in options.names)
    ]
    if not adapters:
        parser.error(f"names: expected parts of {', '.join(a.name for a in all_adapters())}")
    outcomes = []
    for adapter in adapters:
        print(f"{adapter.name} ...", file=sys.stderr, flush=True)
        outcomes.append(run(adapter.name))
    versions = ", ".join(dict.fromkeys(v for a in adapters for v in a.versions))
    lines = [
        "# Conformance",
        "",
        f"`make conformance`: {len(CHECKS)} checks; Python {platform.python_version()}, NumPy "
        f"{np.__version__}, torch {torch.__version__}; {versions}.",
        "",
        "pass: every input of the check; pass\\*: every input that the implementation offers, the "
        "others are named below; fail: at least one, named below with what came; -: not offered. "
        "Inputs are NumPy, with `rng(seed)` for "
        "`np.random.default_rng(seed).standard_normal`; each implementation is called as in "
        "`tests/conformance/adapters.py`.",
        "",
        *table([a.name for a in adapters], outcomes),
    ]
    for adapter in OTHERS:
        if adapter.missing:
            lines.append(f"{adapter.name} is not installed.")
    text = "\n".join(lines).rstrip() + "\n"
    print(text)
    if options.output:
        with whole_file(options.output) as temporary:
            temporary.write_text(text, encoding="utf-8")
    wrong = [
        o
        for a, of in zip(adapters, outcomes, strict=True)
        if a.name.startswith("tsloss_fast")
        for o in of
        if o.verdict != "pass"
    ]
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
