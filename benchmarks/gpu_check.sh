#!/usr/bin/env bash
# Everything that a machine with a GPU can tell about the CUDA kernels, by one command:
#
#     benchmarks/gpu_check.sh OUT_DIR
#
# Needs a python3 (or $PYTHON) with torch for CUDA, numpy, pytest, scikit-build-core and pybind11; the CUDA
# toolkit, cmake, and ninja or make; no network. Builds the package with CUDA kernels into a folder of its
# own, runs the tests that need a device, measures the table of goals, and runs compute-sanitizer where it
# is found. Takes at most $GPU_CHECK_SECONDS (460): what comes too late is named. With more, as a slow host
# needs, every step may take longer in the same proportion.
#
# Writes report.md, report.json, gpu.md and gpu.json (the table), kernels.md (the time of every kernel) and
# a log of each step to OUT_DIR. Without a device it rehearses the measurement on the CPU. Exit status: 0 if
# everything ran and passed, 1 if a step failed, 2 for wrong usage, 3 if nothing failed but something could
# not run here.
set -uo pipefail

if [ $# -ne 1 ] || [ "${1#-}" != "$1" ]; then
  echo "usage: benchmarks/gpu_check.sh OUT_DIR" >&2
  exit 2
fi
mkdir -p -- "$1" && out=$(cd -- "$1" && pwd) && : >"$out/report.md" || exit 2
total=${GPU_CHECK_SECONDS:-460}
root=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd)
python=$(command -v "${PYTHON:-python3}" || echo "${PYTHON:-python3}")
case $python in
  /*) ;;
  */*) python=$PWD/$python ;; # the folder changes below
esac
for folder in "${CUDA_HOME:-/usr/local/cuda}/bin"; do
  if [ -d "$folder" ]; then PATH=$PATH:$folder; fi
done
work=$(mktemp -d) || exit 2
report=$out/report.md
steps=(doctor tests small_clouds measure memcheck racecheck synccheck initcheck)
results=()
child=
failed=0
missing=0

# Of an earlier run, which this one shall not show as its own.
for name in gpu rehearsal kernels report; do rm -f -- "$out/$name.json" "$out/$name.new"; done
rm -f -- "$out/gpu.md" "$out/rehearsal.md" "$out/kernels.md"
for name in build rehearse rehearse_small "${steps[@]}"; do rm -f -- "$out/$name.log"; done

say() { printf '%s\n' "$*" | tee -a "$report"; }
note() { results+=("$1|$2|$3|${4:-}"); } # name, result, seconds, reason

# attempt NAME SECONDS COMMAND...: runs it with a log of its own, for at most SECONDS or what is left of all.
# Sets `code` ("late" if nothing is left) and `took`.
attempt() {
  local name=$1 limit=$2 start=$SECONDS left=$((total - SECONDS))
  shift 2
  code=late
  took=0
  if [ $left -lt 5 ]; then return; fi
  if [ "$total" -gt 460 ]; then limit=$((limit * total / 460)); fi
  if [ "$limit" -gt $left ]; then limit=$left; fi
  timeout --kill-after=5 "$limit" "$@" >"$out/$name.log" 2>&1 &
  child=$!
  wait $child
  code=$?
  child=
  took=$((SECONDS - start))
}

# skip NAME REASON [SECONDS]
skip() {
  missing=1
  note "$1" "not run" "${3:-0}" "$2"
  say "- $1: NOT RUN: $2"
}

# judge NAME: says how the attempt went.
judge() {
  if [ $code = late ]; then
    skip "$1" "no time was left"
  elif [ $code -eq 0 ]; then
    note "$1" passed $took
    say "- $1: passed ($took s). $(tail -n 1 "$out/$1.log" | cut -c1-200)"
  else
    failed=1
    note "$1" failed $took
    local how="with exit status $code after $took s"
    if [ $code -eq 124 ] || [ $code -eq 137 ]; then how="as it was stopped after $took s"; fi
    say "- $1: FAILED $how; the end of $1.log:"
    say
    say '```'
    tail -n 25 "$out/$1.log" | cut -c1-300 | tee -a "$report"
    say '```'
    say
  fi
}

step() {
  attempt "$@"
  judge "$1"
  [ $code = 0 ]
}

skip_steps() {
  local name
  for name in "${steps[@]}"; do skip "$name" "$1"; done
}

finish() {
  local verdict="Everything ran and passed." status=0
  if [ $failed -ne 0 ]; then
    verdict="A step failed." status=1
  elif [ $missing -ne 0 ]; then
    verdict="Nothing failed, but not everything could run here." status=3
  fi
  say
  say "$verdict ($SECONDS s)"
  # A python that cannot do this has failed before, and the report says so.
  printf '%s\n' "$status" "$SECONDS" "${results[@]}" | "$python" -S -c '
import json, sys
status, seconds, *lines = sys.stdin.read().splitlines()
keys = "name", "result", "seconds", "reason"
steps = [dict(zip(keys, line.split("|", 3))) for line in lines]
for step in steps:
    step["seconds"] = int(step["seconds"])
print(json.dumps({"status": int(status), "seconds": int(seconds), "steps": steps}, indent=1))
' >"$out/report.new" 2>/dev/null && mv -f -- "$out/report.new" "$out/report.json" || rm -f -- "$out/report.new"
  exit $status
}

# A table of measurements, into the report.
show() {
  if [ -f "$1" ]; then
    say
    tee -a "$report" <"$1"
    say
  fi
}

stopped() {
  if [ -n "$child" ]; then kill "$child" 2>/dev/null; fi
  say "- stopped by a signal after $SECONDS s"
  exit 130
}
trap 'rm -rf -- "$work"' EXIT
trap stopped INT TERM

mapfile -t facts < <("$python" - 2>"$work/facts.log" <<'PY'
import torch
print(torch.__version__)
devices = range(torch.cuda.device_count() if torch.cuda.is_available() else 0)
print(";".join(sorted({"%d%d" % torch.cuda.get_device_capability(k) for k in devices})))
print(", ".join("%s (sm_%d%d)" % (torch.cuda.get_device_name(k), *torch.cuda.get_device_capability(k))
                for k in devices))
PY
)
architectures=${facts[1]:-}
say "# CUDA kernels, checked on $(date -u +%Y-%m-%d)"
say
say "- device: ${facts[2]:-none that torch sees}"
say "- driver: $(nvidia-smi --query-gpu=driver_version --format=csv,noheader 2>/dev/null | head -n 1 | grep . || echo none)"
say "- torch: ${facts[0]:-none: $(tail -n 1 "$work/facts.log")}"
say "- nvcc: $(nvcc --version 2>/dev/null | grep release || echo none)"
say

if [ -z "${facts[0]:-}" ]; then
  skip build "$python has no torch"
  skip_steps "there is no torch"
  finish
fi
if ! command -v nvcc >/dev/null; then
  skip build "nvcc is not in PATH; install the CUDA toolkit"
  skip_steps "there is no build"
  finish
fi

site=$work/site
# A warning of another compiler must not cost the run.
export TSLOSS_CUDA=ON TSLOSS_WERROR=OFF CMAKE_ARGS="-DCMAKE_CUDA_ARCHITECTURES=${architectures:-90}"
export CMAKE_BUILD_PARALLEL_LEVEL=${CMAKE_BUILD_PARALLEL_LEVEL:-$(nproc || echo 4)} # make builds one by one
export PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 PIP_DISABLE_PIP_VERSION_CHECK=1
if ! step build 200 "$python" -m pip install --no-build-isolation --no-deps --no-index \
  --target "$site" --config-settings=build-dir="$work/build" "$root"; then
  skip_steps "there is no build"
  finish
fi
# -S: an editable installation would come first.
paths=$("$python" -c 'import sys; print(":".join(p for p in sys.path if p))')
export PYTHONPATH=$site:$paths
run=("$python" -S)
cd -- "$work" || exit 2

step doctor 60 "${run[@]}" -c '
from tsloss_fast import _core, doctor
for name, value in doctor.report().items():
    print(name + ": " + value)
assert _core.has_cuda, "this is a build without CUDA kernels"
print("CUDA kernels " + doctor.report()["cuda kernels"])
'

if [ -z "$architectures" ]; then
  for name in "${steps[@]:1}"; do skip "$name" "torch sees no CUDA device"; done
  step rehearse_small 60 "${run[@]}" -m tsloss_fast.benchmarks.gpu_small cpu
  step rehearse 120 "${run[@]}" -m tsloss_fast.benchmarks.gpu --rehearse --seconds 100 \
    --output "$out/rehearsal.md"
  show "$out/rehearsal.md"
  finish
fi

# No plugin of that machine, and no option of ours that needs one.
step tests 130 env PYTEST_DISABLE_PLUGIN_AUTOLOAD=1 "${run[@]}" -m pytest -v -rs -m gpu --tb=short --maxfail=25 \
  -c "$root/pyproject.toml" --rootdir "$root" -o addopts= -o faulthandler_timeout=60 -p no:cacheprovider \
  "$root"/tests/gpu/test_cuda_{device,hardware}.py "$root/tests/distributed/test_over_nccl.py"
while read -r line; do
  skip "a test" "$line"
done < <(grep '^SKIPPED' "$out/tests.log" 2>/dev/null)
step small_clouds 45 "${run[@]}" -m tsloss_fast.benchmarks.gpu_small

seconds=$((total - SECONDS - 5))
if [ $seconds -gt 150 ]; then seconds=150; fi
attempt measure 160 "${run[@]}" -m tsloss_fast.benchmarks.gpu --output "$out/gpu.md" --seconds $((seconds > 0 ? seconds : 0))
if [ "$code" = 3 ]; then
  skip measure "not all of it: the table says what and why" $took
else
  judge measure
fi
show "$out/gpu.md"

sanitizer=$(command -v compute-sanitizer)
for tool in memcheck racecheck synccheck initcheck; do
  if [ -z "$sanitizer" ]; then
    skip "$tool" "compute-sanitizer was not found"
    continue
  fi
  # Our kernels alone, and no cache of memory that would hide what is out of bounds.
  attempt "$tool" 60 env PYTORCH_NO_CUDA_MEMORY_CACHING=1 "$sanitizer" --tool "$tool" --error-exitcode 9 \
    --print-limit 20 --kernel-name kns=tsloss "${run[@]}" -m tsloss_fast.benchmarks.gpu_small
  if [ "$code" = 124 ] || [ "$code" = 137 ]; then
    skip "$tool" "not to its end: it was stopped after $took s" $took
  elif [ "$code" != 0 ] && [ "$code" != late ] && grep -q 'Device not supported' "$out/$tool.log"; then
    skip "$tool" "compute-sanitizer does not support this device" $took
  else
    judge "$tool"
  fi
done
finish
