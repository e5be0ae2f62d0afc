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

# These variables hold torch, MKL, OpenBLAS and NumPy to an instruction set. MKL calls its SSE2 code
# "compatible"; on AMD processors it heeds none of its other values. NumPy ignores the names that
# its version does not know. The other libraries have one code, or no such switch.
_NUMPY_AVX512 = "AVX512F AVX512CD AVX512_SKX AVX512_CLX AVX512_CNL X86_V4 AVX512_ICL AVX512_SPR"
_HELD = {
    "baseline": {
        "ATEN_CPU_CAPABILITY": "default",
        "MKL_CBWR": "COMPATIBLE",
        "OPENBLAS_CORETYPE": "Nehalem",
        "NPY_DISABLE_CPU_FEATURES": f"AVX2 FMA3 X86_V3 {_NUMPY_AVX512}",
    },
    "avx2": {
        "ATEN_CPU_CAPABILITY": "avx2",
        "MKL_CBWR": "AVX2",
        "OPENBLAS_CORETYPE": "Haswell",
        "NPY_DISABLE_CPU_FEATURES": _NUMPY_AVX512,
    },
}


def pinned(threads: int, isa: str | None = None) -> dict[str, str]:
    """Environment variables to set before torch and the baselines load.

    A passive wait policy: libgomp's idle threads otherwise spin on the cores that the next
    measurement needs. With an instruction set, the baselines are held to it like tsloss_fast, as
    far as they can be.
    """
    variables = dict.fromkeys(_THREAD_VARIABLES, str(threads))
    variables |= {"OMP_WAIT_POLICY": "PASSIVE", "OMP_DYNAMIC": "FALSE", "MKL_DYNAMIC": "FALSE"}
    if isa is not None:
        variables |= {"TSLOSS_ISA": isa} | _HELD.get(isa, {})
    return variables
