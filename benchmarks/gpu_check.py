"""The steps of gpu_check.sh, which says how they are used.

This file is run before anything is built, so it imports nothing but the standard library.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
USAGE = "usage: benchmarks/gpu_check.sh OUT_DIR [STEP[=SHARE] ...]"
SANITIZERS = ("memcheck", "racecheck", "synccheck", "initcheck")
# The steps after the build, in their order, and about the seconds that each needs.
SHARES = {"doctor": 10.0, "small_clouds": 30.0, "tests": 60.0, "measure": 70.0, "memcheck": 30.0,
          "racecheck": 30.0, "synccheck": 15.0, "initcheck": 15.0, "ncu": 70.0,
          "nccl": 20.0}  # fmt: skip
USUAL = {name: share for name, share in SHARES.items() if name != "ncu"}
REHEARSALS = {"rehearse_small": 60.0, "rehearse": 120.0, "rehearse_prof": 30.0}
TOOLS = {"ncu": "ncu", **dict.fromkeys(SANITIZERS, "compute-sanitizer")}
TABLES = {"small_clouds": "small.md", "measure": "gpu.md", "rehearse": "rehearsal.md"}
TESTS = [f"tests/gpu/test_cuda_{name}.py" for name in ("device", "hardware", "without_kernels")]
PACKING_SECONDS = 5.0

# A tool of the toolkit that cannot work on this machine says so in one of these ways.
REFUSAL = re.compile(r".*(?:Device not supported|LibraryNotLoaded|ERR_NVGPUCTRPERM).*")
# A sanitizer that is stopped before its end may have reported something by then.
FINDING = re.compile(r"^=+ (?:\w+: Race|Invalid|Uninitialized|Barrier error)", re.MULTILINE)

FACTS = """
import importlib.metadata, json, sys
packages = dict.fromkeys(("torch", "numpy", "pytest", "scikit-build-core", "pybind11", "gudhi"))
for name in packages:
    try:
        packages[name] = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        pass
found = {"path": [p for p in sys.path if p], "packages": packages}
try:
    import torch
    ids = range(torch.cuda.device_count() if torch.cuda.is_available() else 0)
    kinds = ["%d%d" % torch.cuda.get_device_capability(k) for k in ids]
    found["torch"] = torch.__version__
    found["devices"] = [f"{torch.cuda.get_device_name(k)} (sm_{kinds[k]})" for k in ids]
    found["architectures"] = sorted(set(kinds))
except ImportError as problem:
    found["problem"] = f"{type(problem).__name__}: {problem}"
print(json.dumps(found))
"""

DOCTOR = """
from tsloss_fast import _core, doctor
for name, value in doctor.report().items():
    print(name + ": " + value)
assert _core.has_cuda, "this is a build without CUDA kernels"
print("CUDA kernels " + doctor.report()["cuda kernels"])
"""


@dataclass
class Step:
    """How a step went: "passed", "failed" or "not run", and why."""

    name: str
    result: str = "not run"
    seconds: int = 0
    reason: str = "the check ended before this step"


class Check:
    """One run of the script."""

    def __init__(self, out: Path, shares: dict[str, float], seconds: float) -> None:
        self.out = out.absolute()
        self.start = time.monotonic()
        self.end = self.start + seconds - PACKING_SECONDS
        self.shares = dict(shares)  # of the steps that are still to come
        self.steps = {name: Step(name) for name in ("build", *shares)}
        self.parts: list[Step] = []  # single tests, rows and cases that could not run
        self.report = ""
        self.work = Path(tempfile.mkdtemp(prefix="gpu_check."))
        self.logs = self.work / "logs"
        self.logs.mkdir()
        self.python = str(Path(os.environ.get("PYTHON", sys.executable)).absolute())
        toolkit = os.environ.get("CUDA_HOME", "/usr/local/cuda")
        self.environment = {
            **os.environ,
            "PATH": f"{os.environ.get('PATH', os.defpath)}:{toolkit}/bin",
            "PYTHONUNBUFFERED": "1",
            "PYTHONDONTWRITEBYTECODE": "1",
            "PIP_DISABLE_PIP_VERSION_CHECK": "1",
            "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
        }

    @property
    def status(self) -> int:
        results = {step.result for step in (*self.steps.values(), *self.parts)}
        return 1 if "failed" in results else 3 if "not run" in results else 0

    def say(self, text: str) -> None:
        """Add a line to the report, and print it."""
        print(text, flush=True)
        self.report += text + "\n"
        (self.out / "report.md").write_text(self.report, encoding="utf-8")

    def save(self) -> None:
        """Write what is known, after each step, so that a check that is killed leaves it."""
        record = {
            "status": self.status,
            "seconds": round(time.monotonic() - self.start),
            "steps": [asdict(step) for step in (*self.steps.values(), *self.parts)],
        }
        written, packed = self.work / "report.json", self.work / "logs.tgz"
        written.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
        with tarfile.open(packed, "w:gz") as archive:
            archive.add(self.logs, "logs")
        # The profile is large: an archive with it might be too large to be fetched.
        files = (written, packed, self.logs / "gpu.md", self.work / "prof.ncu-rep")
        for source in filter(Path.exists, files):
            shutil.copyfile(source, self.out / ".new")  # no file is ever seen half written
            (self.out / ".new").replace(self.out / source.name)

    def limit(self, name: str) -> float:
        """Seconds that a step may take now."""
        left = max(self.end - time.monotonic(), 0.0)
        if name == "build":
            return left / 2
        return left * self.shares[name] / sum(self.shares.values())

    def run(self, name: str, command: Sequence[str], limit: float) -> int | None:
        """Run a command with a log; its exit status, or None if it was stopped at its limit."""
        with (self.logs / f"{name}.log").open("wb") as log:
            process = subprocess.Popen(
                command,
                cwd=self.work,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                preexec_fn=os.setpgrp,
            )
        try:
            return process.wait(limit)
        except subprocess.TimeoutExpired:
            return None
        finally:  # of the command, and of all that it started
            for number in (signal.SIGTERM, signal.SIGKILL):
                with contextlib.suppress(ProcessLookupError, subprocess.TimeoutExpired):
                    os.killpg(process.pid, number)
                    process.wait(3)

    def log(self, name: str) -> list[str]:
        path = self.logs / f"{name}.log"
        return path.read_text("utf-8", "replace").splitlines() if path.exists() else []

    def note(self, name: str, result: str, reason: str, seconds: float = 0.0) -> None:
        """Record how a step went, and everything of it that could not run."""
        self.steps[name] = Step(name, result, round(seconds), reason)
        self.shares.pop(name, None)
        how = {"passed": f"passed ({seconds:.0f} s).", "failed": "FAILED", "not run": "NOT RUN:"}
        self.say(f"- {name}: {how[result]} {reason}")
        if result == "failed":
            tail = "\n".join(line[:300] for line in self.log(name)[-30:])
            self.say(f"\nThe end of {name}.log:\n\n```\n{tail}\n```\n")
        for line in self.log(name):
            if line.startswith("SKIPPED") or "NOT RUN: " in line:
                self.parts.append(Step(f"of {name}", reason=re.sub(r"[\s|]+", " ", line).strip()))
                self.say(f"  - {self.parts[-1].reason[:300]}")
        table = self.logs / TABLES.get(name, "none")
        if table.exists():
            self.say(f"\n{table.read_text(encoding='utf-8')}")
        self.save()

    def skip(self, names: Iterable[str], reason: str) -> None:
        for name in names:
            self.note(name, "not run", reason)

    def step(self, name: str, command: Sequence[str]) -> None:
        """Run a step and judge it. The word SECONDS in its command becomes the time that a program
        of ours may take, which is less than the limit of the step."""
        limit, tool = self.limit(name), TOOLS.get(name)
        if tool and not shutil.which(tool, path=self.environment["PATH"]):
            return self.note(name, "not run", f"{tool} was not found")
        if limit < 1:
            return self.note(name, "not run", "no time was left")
        ours = str(max(int(0.85 * limit) - (12 if tool else 2), 1))
        before = time.monotonic()
        code = self.run(name, [ours if word == "SECONDS" else word for word in command], limit)
        took = time.monotonic() - before
        lines = self.log(name) or [""]
        text, last = "\n".join(lines), lines[-1][:200]
        refusal = REFUSAL.search(text) if tool and code not in (0, 9) else None
        if code == 0:
            self.note(name, "passed", last, took)
        elif refusal:
            self.note(name, "not run", f"{tool}: {refusal[0].strip('= ')}", took)
        elif code is None and tool and not FINDING.search(text):
            self.note(name, "not run", f"not to its end: it was stopped after {took:.0f} s", took)
        elif code == 3 and "pytest" not in command:
            self.note(name, "not run", f"not all of it: {last}", took)
        else:
            how = "as it was stopped" if code is None else f"with exit status {code}"
            self.note(name, "failed", f"{how} after {took:.0f} s", took)

    def facts(self) -> dict[str, Any]:
        """The devices that torch sees and the versions of what is needed, also in the report."""
        facts: dict[str, Any] = {"torch": "", "packages": {}, "path": []}
        facts |= {"devices": [], "architectures": []}
        left = max(self.end - time.monotonic(), 0.0)
        try:
            done = subprocess.run([self.python, "-"], input=FACTS, env=self.environment,
                                  capture_output=True, text=True, timeout=left / 2)  # fmt: skip
            facts |= json.loads((done.stdout.splitlines() or [""])[-1])
        except subprocess.TimeoutExpired:
            facts["problem"] = "importing torch took too long"
        except ValueError:
            facts["problem"] = (done.stderr.splitlines() or ["python3 said nothing"])[-1]
        query = "nvidia-smi --query-gpu=driver_version --format=csv,noheader"
        self.say(f"# CUDA kernels, checked on {time.strftime('%Y-%m-%d', time.gmtime())}\n")
        self.say(f"- device: {', '.join(facts['devices']) or 'none that torch sees'}")
        self.say(f"- driver: {self.said_by(query)}")
        self.say(f"- torch: {facts['torch'] or 'none: ' + facts['problem']}")
        self.say(f"- nvcc: {self.said_by('nvcc --version', 'release')}")
        versions = (f"{name} {version or 'none'}" for name, version in facts["packages"].items())
        self.say(f"- packages: {', '.join(versions)}\n")
        return facts

    def said_by(self, command: str, word: str = "") -> str:
        """The first line with a word of what a program prints, or none."""
        with contextlib.suppress(OSError, subprocess.TimeoutExpired):
            done = subprocess.run(
                command.split(), env=self.environment, capture_output=True, text=True, timeout=10
            )
            return next((line for line in done.stdout.splitlines() if word in line), "none")
        return "none"

    def build(self, facts: dict[str, Any]) -> bool:
        """Build the package with CUDA kernels into a folder of its own, for the devices here."""
        needed = ("numpy", "scikit-build-core", "pybind11")
        lacking = [name for name in needed if not facts["packages"].get(name)]
        if not facts["torch"] or lacking:
            lacking = lacking if facts["torch"] else ["torch"]
            self.note("build", "not run", f"{self.python} has no {' and no '.join(lacking)}")
            return False
        if not shutil.which("nvcc", path=self.environment["PATH"]):
            self.note("build", "not run", "nvcc is not in PATH; install the CUDA toolkit")
            return False
        architectures = ";".join(facts["architectures"]) or "90"
        # The lines of the source (-lineinfo) are for the sanitizers and ncu.
        flags = f"-DCMAKE_CUDA_ARCHITECTURES={architectures} -DCMAKE_CUDA_FLAGS=-lineinfo"
        self.environment |= {
            "TSLOSS_CUDA": "ON",
            "TSLOSS_WERROR": "OFF",  # a warning of another compiler must not cost the visit
            "CMAKE_ARGS": flags,
            "CMAKE_BUILD_PARALLEL_LEVEL": str(os.cpu_count() or 4),  # make builds one by one
        }
        pip = [self.python, "-m", "pip", "install", "--no-build-isolation", "--no-deps"]
        folder = f"--config-settings=build-dir={self.work}/build"
        self.step("build", [*pip, "--no-index", "--target", f"{self.work}/site", folder, str(ROOT)])
        return self.steps["build"].result == "passed"

    def commands(self) -> dict[str, list[str]]:
        """What each step runs. SECONDS stands for the time that it has."""

        def chosen(variable: str) -> list[str]:
            return shlex.split(os.environ.get(variable, ""))

        # Without site (-S), since an editable installation would come before what was built.
        run = [self.python, "-S"]

        def ours(module: str, *arguments: str) -> list[str]:
            return [*run, "-m", f"tsloss_fast.benchmarks.{module}", "--seconds", "SECONDS",
                    *arguments]  # fmt: skip

        def tests(names: Iterable[str]) -> list[str]:
            """Without options that need plugins: those of the machine are not loaded. pytest prints
            names of tests relative to the folder that it runs in, so what leads to `tests` goes."""
            paths = (f"{ROOT}/{re.sub('^.*?(?=tests/)', '', name)}" for name in names)
            options = ["-v", "-rfEs", "-m", "gpu", "--tb=short", "--maxfail=25",
                       "-p", "no:cacheprovider", "-o", "addopts=", "-o", "faulthandler_timeout=60",
                       "-c", f"{ROOT}/pyproject.toml", "--rootdir", str(ROOT)]  # fmt: skip
            return [*run, "-m", "pytest", *options, *paths]

        rows = chosen("GPU_CHECK_ROWS")
        cases = [word for case in chosen("GPU_CHECK_CASES") for word in ("--case", case)]
        existing = [name for name in TESTS if (ROOT / name).exists()]
        # Our kernels alone, and no cache of memory that would hide what is out of bounds.
        sanitizer = ["env", "PYTORCH_NO_CUDA_MEMORY_CACHING=1", "compute-sanitizer",
                     "--error-exitcode", "9", "--print-limit", "20", "--kernel-name", "kns=tsloss",
                     "--tool"]  # fmt: skip
        ncu = ["ncu", "--clock-control", "none", "--profile-from-start", "off", "--nvtx", "--set",
               "full", "--page", "details", "--export", f"{self.work}/prof"]  # fmt: skip
        table = ours("gpu", "--output")
        return {
            "doctor": [*run, "-c", DOCTOR],
            "small_clouds": ours("gpu_small", *cases, "--output", f"{self.logs}/small.md"),
            "tests": tests(chosen("GPU_CHECK_TESTS") or existing),
            "measure": [*table, f"{self.logs}/gpu.md", *rows],
            **{name: [*sanitizer, name, *ours("gpu_small", "--one-process", *cases)]
               for name in SANITIZERS},
            "ncu": [*ncu, *ours("gpu.prof", *rows)],
            "nccl": tests(["tests/distributed/test_over_nccl.py"]),
            "rehearse_small": ours("gpu_small", "--device", "cpu"),
            "rehearse": [*table, f"{self.logs}/rehearsal.md", "--rehearse"],
            "rehearse_prof": ours("gpu.prof", "--rehearse"),
        }  # fmt: skip

    def all_steps(self) -> None:
        facts = self.facts()
        if not self.build(facts):
            return self.skip(list(self.shares), "there is no build")
        self.environment["PYTHONPATH"] = ":".join([f"{self.work}/site", *facts["path"]])
        if not facts["devices"]:
            names = [name for name in self.shares if name != "doctor"]
            self.skip(names, "torch sees no CUDA device")
            self.shares |= REHEARSALS
        commands = self.commands()
        for name in list(self.shares):
            self.step(name, commands[name])


def parse(arguments: Sequence[str]) -> tuple[Path, dict[str, float]]:
    """The folder, and the shares of the chosen steps. Raises ValueError for anything else."""
    if not arguments or not arguments[0] or arguments[0].startswith("-"):
        raise ValueError(USAGE)
    chosen = {}
    for word in arguments[1:]:
        name, _, share = word.partition("=")
        if name not in SHARES:
            raise ValueError(f"{name!r} is no step; expected some of {', '.join(SHARES)}\n{USAGE}")
        chosen[name] = float(share or SHARES[name])
        if not chosen[name] > 0:
            raise ValueError(f"{name}: got a share of {share}, expected one above 0\n{USAGE}")
    return Path(arguments[0]), {name: chosen[name] for name in SHARES if name in chosen} or USUAL


def main() -> int:
    try:
        out, shares = parse(sys.argv[1:])
        out.mkdir(parents=True, exist_ok=True)
        for name in ("report.md", "report.json", "gpu.md", "logs.tgz", "prof.ncu-rep"):
            (out / name).unlink(missing_ok=True)  # of an earlier run
        check = Check(out, shares, float(os.environ.get("GPU_CHECK_SECONDS") or 460))
    except (ValueError, OSError) as problem:
        print(problem, file=sys.stderr)
        return 2
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    status = None
    verdict = {0: "Everything ran and passed.", 1: "A step failed.",
               3: "Nothing failed, but not everything could run here."}  # fmt: skip
    try:
        check.all_steps()
    except KeyboardInterrupt:
        status = 130
        check.say("- stopped by a signal")
    check.say(f"\n{verdict[check.status]} ({time.monotonic() - check.start:.0f} s)")
    check.save()
    shutil.rmtree(check.work, ignore_errors=True)
    return check.status if status is None else status


if __name__ == "__main__":
    sys.exit(main())
