"""The machine, the versions, and the environment in which a measurement runs. Loads no library."""

from __future__ import annotations

import os
import platform
import sys
from importlib import metadata
from pathlib import Path

_THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
)
_DISTRIBUTIONS = (
    "tsloss-fast",
    "torch",
    "numpy",
    "scipy",
    "gudhi",
    "ripser",
    "giotto-ph",
    "torch-topological",
    "fastcluster",
    "scikit-learn",
)


# What holds torch and MKL to an instruction set. MKL calls its SSE2 code "compatible"; on AMD
# processors it heeds none of its other values.
_HELD = {
    "baseline": {"ATEN_CPU_CAPABILITY": "default", "MKL_CBWR": "COMPATIBLE"},
    "avx2": {"ATEN_CPU_CAPABILITY": "avx2", "MKL_CBWR": "AVX2"},
}


def pinned(threads: int, isa: str | None = None, *, same_isa: bool = False) -> dict[str, str]:
    """Environment variables to set before torch and the baselines load.

    A passive wait policy: libgomp's idle threads otherwise spin on the cores that the next
    measurement needs.
    """
    variables = dict.fromkeys(_THREAD_VARIABLES, str(threads))
    variables |= {"OMP_WAIT_POLICY": "PASSIVE", "OMP_DYNAMIC": "FALSE", "MKL_DYNAMIC": "FALSE"}
    if isa is not None:
        variables["TSLOSS_ISA"] = isa
        if same_isa:
            variables |= _HELD.get(isa, {})
    return variables


def machine() -> dict[str, str]:
    """Processor, cores, instruction sets, system, versions: what a ratio depends on."""
    import torch

    from tsloss_fast import _core

    available = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    facts = {
        "processor": _processor(),
        "cores": str(available),
        "instruction set of tsloss_fast": str(_core.isa()),
        "instruction set of torch": torch.backends.cpu.get_cpu_capability(),
        "instruction set of MKL": os.environ.get("MKL_CBWR", "its choice"),
        "threads of torch": str(torch.get_num_threads()),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
    }
    for name in _DISTRIBUTIONS:
        try:
            facts[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            facts[name] = "not installed"
    return facts


def _processor() -> str:
    if sys.platform.startswith("linux"):
        try:
            lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        except OSError:
            lines = []
        for line in lines:
            key, _, value = line.partition(":")
            if key.strip() == "model name":
                return value.strip()
    return platform.processor() or "unknown"
