"""The environment in which a measurement runs. This module must load no library: torch and the
baselines read the variables when they are loaded."""

from __future__ import annotations

_THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
)

# These variables hold torch and MKL to an instruction set. MKL calls its SSE2 code "compatible"; on
# AMD processors it heeds none of its other values.
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
