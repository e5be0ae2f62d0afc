"""A machine of stubs for benchmarks/gpu_check.sh."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import pytest
from source_tree import ROOT

SCRIPT = ROOT / "benchmarks/gpu_check.sh"
needs_script = pytest.mark.skipif(
    not SCRIPT.exists() or not shutil.which("bash"), reason="needs the source tree and bash"
)
PYTHON = r"""#!/usr/bin/env bash
all="$*"
printf '%s\n' "$all" >>"$STUB/calls"
arguments=("$@")
while [ $# -gt 0 ]; do
  if [ "$1" = --output ]; then output=$2; fi
  shift
done
case $all in
  -) eval "$STUB_FACTS" ;;
  *"-m pip install"*) eval "$STUB_BUILD" ;;
  *doctor.report*) eval "$STUB_DOCTOR" ;;
  *test_over_nccl*) eval "$STUB_NCCL" ;;
  *"-m pytest"*) eval "$STUB_TESTS" ;;
  *benchmarks.gpu.prof*) eval "$STUB_PROF" ;;
  *benchmarks.gpu_small*) eval "$STUB_SMALL" ;;
  *"benchmarks.gpu "*) eval "$STUB_MEASURE" ;;
  *) exec "$STUB_REAL" "${arguments[@]}" ;;
esac
"""
SANITIZER = r"""#!/usr/bin/env bash
printf 'caching off: %s; %s\n' "${PYTORCH_NO_CUDA_MEMORY_CACHING:-}" "$*" >>"$STUB/sanitized"
eval "$STUB_SANITIZER"
"""
NCU = r"""#!/usr/bin/env bash
while [ "$1" != "$PYTHON" ]; do
  if [ "$1" = --export ]; then echo a profile >"$2.ncu-rep"; fi
  shift
done
"$@"
"""
FACTS = {
    "torch": "2.11",
    "devices": ["H100 (sm_90)"],
    "architectures": ["90"],
    "path": ["/a path"],
    "packages": {"numpy": "2.5", "scikit-build-core": "1.1", "pybind11": "3.1", "gudhi": None},
}
TOOLS = ("bash", "cat", "dirname", "env", "sleep")
STEPS = ("build", "doctor", "small_clouds", "tests", "measure",
         "memcheck", "racecheck", "synccheck", "initcheck", "nccl")  # fmt: skip


def facts(**changed: Any) -> str:
    """What the stub of Python says of the machine, as a command."""
    return f"echo '{json.dumps(FACTS | changed)}'"


class Machine:
    """A machine of which the script sees nothing but what a test wants it to."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.out = folder / "out of it"
        self.bin = folder / "bin"
        self.bin.mkdir()
        (folder / "no cuda").mkdir()
        for tool in TOOLS:
            path = shutil.which(tool)
            assert path, tool
            (self.bin / tool).symlink_to(path)
        self.install("stub python", PYTHON)
        self.install("nvcc", "#!/usr/bin/env bash\necho 'release 13.0, V13'\n")
        self.install("compute-sanitizer", SANITIZER)
        self.install("ncu", NCU)
        self.environment = {
            "PATH": str(self.bin),
            "CUDA_HOME": str(folder / "no cuda"),
            "PYTHON": str(self.bin / "stub python"),
            "STUB": str(folder),
            "STUB_REAL": sys.executable,
            "STUB_FACTS": facts(),
            "STUB_BUILD": "echo built",
            "STUB_DOCTOR": "echo CUDA kernels built for sm_90",
            "STUB_TESTS": "echo 150 passed",
            "STUB_NCCL": "echo 15 passed",
            "STUB_PROF": "echo 7 of 7 works called once",
            "STUB_SMALL": 'if [ "$output" ]; then echo "| a map |" >"$output"; fi; echo 133 cases',
            "STUB_MEASURE": 'echo "| a table |" >"$output"; echo 21 rows',
            "STUB_SANITIZER": "echo 'ERROR SUMMARY: 0 errors'",
        }

    def install(self, name: str, text: str) -> None:
        path = self.bin / name
        path.write_text(text, encoding="utf-8")
        path.chmod(0o755)

    def check(self, *arguments: str, **environment: str) -> int:
        """The exit status; what was printed is kept."""
        done = subprocess.run(
            [str(self.bin / "bash"), str(SCRIPT), *(arguments or (str(self.out),))],
            env=self.environment | environment,
            cwd=self.folder,
            capture_output=True,
            text=True,
            check=False,
        )
        self.printed, self.errors = done.stdout, done.stderr
        return done.returncode

    @property
    def report(self) -> str:
        return (self.out / "report.md").read_text(encoding="utf-8")

    @property
    def results(self) -> dict[str, str]:
        """The steps of report.json."""
        record = json.loads((self.out / "report.json").read_text(encoding="utf-8"))
        return {step["name"]: step["result"] for step in record["steps"]}

    def log(self, name: str) -> str:
        """The output of a step, from the archive."""
        with tarfile.open(self.out / "logs.tgz") as archive:
            member = archive.extractfile(f"logs/{name}.log")
            assert member is not None
            return member.read().decode()

    def calls(self, word: str) -> list[str]:
        lines = (self.folder / "calls").read_text(encoding="utf-8").splitlines()
        return [line for line in lines if word in line]
