#!/usr/bin/env bash
# Everything that a machine with a GPU can tell about the CUDA kernels, by one command:
#
#     benchmarks/gpu_check.sh OUT_DIR [STEP[=SHARE] ...]
#
# Needs a python3 (or $PYTHON) with torch for CUDA, numpy, pytest, scikit-build-core and pybind11; the CUDA
# toolkit, cmake, and ninja or make; no network. gpu_check.md has the commands for a short visit to a rented
# machine, and says what to bring. Without a device the script rehearses the measurement on the CPU.
#
# The steps, in their order: build, doctor, small_clouds, tests, measure, memcheck, racecheck, synccheck,
# initcheck, ncu, nccl. Without names all but ncu are run; with names the build and these. All of it takes at
# most $GPU_CHECK_SECONDS (460): the build up to half of them, and every other step its share of what is left
# when it begins, so that a slow step starves none of those after it. $GPU_CHECK_TESTS (ids of pytest),
# $GPU_CHECK_ROWS (of the table) and $GPU_CHECK_CASES (of small_clouds and of the sanitizers) choose some.
#
# Writes to OUT_DIR: report.md, report.json, gpu.md (the table of goals), logs.tgz (what each step printed and
# wrote) and prof.ncu-rep (of ncu). Exit status: 0 if everything ran and passed, 1 if a step failed, 2 for
# wrong usage, 3 if nothing failed but something could not run here, 130 if it was stopped by a signal.
PYTHON=${PYTHON:-python3}
if ! found=$(command -v -- "$PYTHON"); then
  echo "gpu_check.sh: $PYTHON was not found; set PYTHON to a Python with torch for CUDA" >&2
  exit 2
fi
export PYTHON=$found
exec "$PYTHON" -I -S "$(dirname -- "${BASH_SOURCE[0]}")/gpu_check.py" "$@"
