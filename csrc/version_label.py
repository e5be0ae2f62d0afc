"""The version of a build, for scikit-build-core: pyproject.toml's, with the label of TSLOSS_LABEL.

A wheel with CUDA kernels that is handed on is labelled with its toolkit (`0.1.0+cu130`), so that it
is told apart from the plain one by its name. CMakeLists.txt refuses a label that the build does not
keep.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Any

_state = ""


def build_state(build_state: str) -> None:
    global _state
    _state = build_state


def dynamic_metadata(settings: Mapping[str, Any], project: Mapping[str, Any]) -> dict[str, str]:
    """The version. A source distribution has no label: it is the same for every variant.

    Raises:
        ValueError: the label is none.
    """
    label = os.environ.get("TSLOSS_LABEL", "")
    if label and not re.fullmatch(r"cu\d{3}", label):
        raise ValueError(
            f"TSLOSS_LABEL must be the CUDA toolkit of the build, such as cu130; got {label!r}"
        )
    version = str(settings["version"])
    return {"version": f"{version}+{label}" if label and _state != "sdist" else version}
