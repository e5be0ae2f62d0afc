"""What a command needs beyond the core, asked before it does anything."""

from __future__ import annotations

import importlib.util

__all__ = ["require"]


def require(command: str, extra: str, *modules: str) -> None:
    """Raise ModuleNotFoundError, with the line that installs it, unless all modules are there."""
    for module in modules:
        if importlib.util.find_spec(module) is None:
            raise ModuleNotFoundError(
                f"{command} needs {module}, not installed here; install what it needs with: "
                f'pip install "tsloss-fast[{extra}]"',
                name=module,
            )
