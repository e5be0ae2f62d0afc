"""benchmarks/gpu_check.sh and the measurement in it, as far as they run without a device: what a
machine with one will show must not be lost to a mistake of ours. Nothing here is about speed."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tsloss_fast.benchmarks import gpu, gpu_small
from tsloss_fast.benchmarks.gpu import Kernels, Row

from tsloss_fast import _core

ROOT = Path(__file__).resolve().parent.parent
SCRIPT = ROOT / "benchmarks/gpu_check.sh"
HAVE_DEVICE = torch.cuda.is_available()

needs_script = pytest.mark.skipif(
    not SCRIPT.exists() or not shutil.which("bash") or not shutil.which("timeout"),
    reason="needs the source tree, bash and timeout",
)

# What was hoped for, in the words of the table.
GOALS = {
    "(1, 20, 2048), graph replay": "≤ 2.5 ×",
    "(1, 100, 4096) forward + backward, graph replay": "≤ 25.0 µs",
    "(1, 100, 4096) forward + backward, eager": "≤ 80.0 µs",
    "(1, 100, 4096) forward + backward, graph replay | GUDHI": "≤ 0.002 ×",
    "(1024, 20, 2048) float32": "≤ 1.3 ×",
    "(1024, 20, 2048) bfloat16": "≤ 0.65 ×",
    "(2048, 100, 128)": "≤ 1 ×",
    "(1, 4096, 768)": "≤ 0.4 ×",
    "(1, 49152, 576)": "≤ 2 ×",
    "host synchronisations": "≤ 0 waits",
}


# --- rows and what is written of them


def cells(row: Row) -> list[str]:
    return [cell.strip() for cell in gpu.line(row).strip("|").split("|")]


def test_a_ratio_is_held_to_its_goal() -> None:
    row = Row("work", 3e-6, "other", 2e-6, goal=2.0)
    assert row.value == pytest.approx(1.5)
    assert row.met
    assert cells(row) == ["work", "3.00 µs", "other", "2.00 µs", "1.5", "≤ 2 ×", "yes"]
    row.goal = 1.2
    assert row.met is False
    assert cells(row)[-1] == "no, 1.25 × the goal"


def test_seconds_and_counts_are_held_to_theirs() -> None:
    assert cells(Row("work", 3e-5, goal=2.5e-5))[1:] == [
        "30.0 µs", "", "", "", "≤ 25.0 µs", "no, 1.20 × the goal",
    ]  # fmt: skip
    assert cells(Row("work", 2e-5, goal=2.5e-5))[-1] == "yes"
    assert cells(Row("work", 0, goal=0, unit="waits"))[1:] == [
        "0 waits", "", "", "", "≤ 0 waits", "yes",
    ]  # fmt: skip
    assert cells(Row("work", 3, goal=0, unit="waits"))[-1] == "no"
    without = Row("work", 2.5)
    assert without.met is None
    assert cells(without) == ["work", "2.50 s", "", "", "", "", ""]


def test_what_was_not_measured_says_why_and_meets_no_goal() -> None:
    missing = Row("work", 1e-6, "GUDHI", None, 0.002, reason="GUDHI is not installed")
    assert missing.missing
    assert missing.met is None
    assert cells(missing) == [
        "work", "1.00 µs", "GUDHI", "", "", "≤ 0.002 ×", "NOT RUN: GUDHI is not installed",
    ]  # fmt: skip
    failed = Row("work", reason="a | pipe", failed=True)
    assert not failed.missing
    assert cells(failed)[-1] == "FAILED: a / pipe"


def test_the_status_tells_failures_from_what_could_not_run() -> None:
    missed, missing, failed = Row("a", 2, goal=1), Row("b"), Row("c", failed=True)
    assert gpu.Report(False, rows=[Row("a", 1.0), missed]).status == 0
    assert gpu.Report(False, rows=[missed, missing]).status == 3
    assert gpu.Report(False, rows=[missing, failed]).status == 1


def test_kernels_are_listed_with_their_times() -> None:
    name = "void tsloss::cuda::distance_tiles<float, (tsloss::cuda::Term)0>(float const*)"
    found = Kernels("some work", [(name, 2, 30.0), ("x" * 300, 1, 1.5), ("a|b", 1, 0.5)])
    text = gpu.Report(False, kernels=[found]).kernels_markdown()
    assert "## some work: 4 launches, 32.0 µs" in text
    assert "| `distance_tiles<float, (Term)0>(float const*)` | 2 | 30.0 | 15.0 |" in text
    assert f"| `{'x' * 99}…` |" in text
    assert "| `a/b` |" in text
    assert "rehearsal" not in text
    assert gpu._REHEARSAL in gpu.Report(True, kernels=[found]).kernels_markdown()


# --- the rehearsal

WORKING_GUDHI = """
class RipsComplex:
    def __init__(self, points): pass
    def create_simplex_tree(self, max_dimension): return self
    def compute_persistence(self): pass
"""


def rehearse(folder: Path, gudhi: str, *arguments: str) -> tuple[int, Path]:
    """Status and output of a rehearsal, whose measuring processes find a GUDHI of ours."""
    (folder / "path").mkdir()
    (folder / "path/gudhi.py").write_text(gudhi, encoding="utf-8")
    target = folder / "gpu.md"
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder / "path")
        status = gpu.main(["--rehearse", "--output", str(target), *arguments])
    return status, target


@pytest.fixture(scope="module")
def rehearsal(tmp_path_factory: pytest.TempPathFactory) -> Path:
    status, target = rehearse(tmp_path_factory.mktemp("rehearsal"), WORKING_GUDHI)
    assert status == 0
    return target


def test_a_rehearsal_has_every_row_of_the_goals_and_says_what_it_is(rehearsal: Path) -> None:
    text = rehearsal.read_text(encoding="utf-8")
    assert text.startswith(gpu._REHEARSAL)
    lines = [line for line in text.splitlines() if line.startswith("| (") or "host sync" in line]
    for work, goal in GOALS.items():
        work, _, baseline = work.partition(" | ")
        (found,) = (
            line
            for line in lines
            if f"| {goal} |" in line and line.startswith(f"| {work}") and baseline in line
        )
        assert "NOT RUN" not in found
    assert sum("≤" in line for line in lines) == len(GOALS) + 1  # the edges of the largest
    for measured in ("host until it is queued", "launches |", "of TSLoss, eager"):
        assert measured in text
    assert "- torch: " in text


def test_the_json_of_a_rehearsal_holds_the_same(rehearsal: Path) -> None:
    record = json.loads(rehearsal.with_suffix(".json").read_text(encoding="utf-8"))
    assert record["rehearsal"] is True
    assert record["machine"]["torch"] == torch.__version__
    written = rehearsal.read_text(encoding="utf-8")
    for entry in record["rows"]:
        value, met = entry.pop("value"), entry.pop("met")
        row = Row(**entry)
        assert gpu.line(row) in written
        assert (row.value, row.met) == (value, met)
    works = [found["work"] for found in record["kernels"]]
    assert works == [work.name for work in gpu.WORKS]
    text = rehearsal.with_name("kernels.md").read_text(encoding="utf-8")
    assert [line.split(": ")[0] for line in text.splitlines() if line.startswith("## ")] == [
        f"## {work}" for work in works
    ]


def test_nothing_is_left_beside_what_was_written(rehearsal: Path) -> None:
    names = {path.name for path in rehearsal.parent.iterdir()}
    assert names == {"path", "gpu.md", "gpu.json", "kernels.md"}


@pytest.mark.slow
def test_a_process_that_dies_costs_the_rest_of_its_part_alone(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    kill = "import os, signal\nos.kill(os.getpid(), signal.SIGKILL)\n"
    status, target = rehearse(tmp_path, kill)
    assert status == 1
    text = target.read_text(encoding="utf-8")
    died = "| (1, 100, 4096) |  |  |  |  |  | FAILED: the measuring process was ended by signal"
    assert died in text
    assert text.count("FAILED") == 1
    for work, goal in GOALS.items():
        if "GUDHI" not in work:
            assert f"| {goal} |" in text, work
    record = json.loads(target.with_suffix(".json").read_text(encoding="utf-8"))
    assert sum(row["failed"] for row in record["rows"]) == 1
    assert len(record["kernels"]) == len(gpu.WORKS)


@pytest.mark.slow
def test_a_process_that_hangs_costs_the_rest_of_its_part_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gpu, "PATIENCE_SECONDS", 15.0)
    monkeypatch.setattr(gpu, "PARTS", gpu.PARTS[:1])
    status, target = rehearse(tmp_path, "import time\ntime.sleep(1000)\n")
    assert status == 1
    text = target.read_text(encoding="utf-8")
    assert "| FAILED: the measuring process gave no answer for 15 s |" in text
    assert text.count("FAILED") == 1
    assert "| (1, 49152, 576) |" in text


def test_without_time_every_part_is_named(tmp_path: Path) -> None:
    status, target = rehearse(tmp_path, WORKING_GUDHI, "--seconds", "0")
    assert status == 3
    lines = target.read_text(encoding="utf-8").splitlines()
    late = [line for line in lines if line.endswith("| NOT RUN: no time was left |")]
    assert len(late) == sum(len(group) for group in gpu.PARTS)


def test_arguments_that_cannot_be_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    for bad in (
        ["--seconds", "-1"],
        ["--seconds", "nan"],
        ["--output", str(tmp_path / "file" / "gpu.md")],
    ):
        with pytest.raises(SystemExit) as caught:
            gpu.main(["--rehearse", *bad])
        assert caught.value.code == 2
    assert capsys.readouterr().out == ""
    if not (HAVE_DEVICE and _core.has_cuda):
        assert gpu.main([]) == 2
        assert "needs a CUDA device and a build with CUDA kernels" in capsys.readouterr().err


# --- the supervision of measuring processes


class FakeProcess:
    """Goes through a script of events for the parts that it is asked for."""

    def __init__(self, script: Callable[[list[str]], Iterator[dict[str, Any]]], task: Any) -> None:
        self._script, self._parts = script, list(task["parts"])

    def events(self, patience: Callable[[], float]) -> Iterator[dict[str, Any]]:
        assert patience() > 0
        yield from self._script(self._parts)

    def ending(self) -> str:
        return "ended with status 1: boom"

    def errors(self) -> str:
        return "a traceback"

    def __enter__(self) -> FakeProcess:
        return self

    def __exit__(self, *_: object) -> None:
        pass


def supervised(script: Callable[[list[str]], Iterator[dict[str, Any]]]) -> tuple[list[Any], int]:
    """What `supervise` yields but for machines, and the number of processes."""
    started = []

    def start(task: Any, environment: dict[str, str], module: str, entry: str) -> FakeProcess:
        assert callable(getattr(sys.modules[module], entry))
        started.append(task)
        return FakeProcess(script, task)

    found = list(gpu.supervise(True, 100.0, start))
    return [f for f in found if not isinstance(f, dict)], len(started)


def part_by_part(
    dies_in: str = "", begins: bool = True
) -> Callable[[list[str]], Iterator[dict[str, Any]]]:
    def script(parts: list[str]) -> Iterator[dict[str, Any]]:
        if not begins:
            return
        yield {"machine": {"cores": "2"}}
        for part in parts:
            yield {"row": {"work": part, "measured": 1.0}}
            if part == dies_in:
                return
            yield {"kernels": {"work": part, "found": [["name", 1, 2.0]]}}
            yield {"done": part}

    return script


ALL_PARTS = [name for group in gpu.PARTS for name in group]


def test_every_part_is_measured_once_and_profiled_in_a_process_of_its_own() -> None:
    found, processes = supervised(part_by_part())
    assert [row.work for row in found if isinstance(row, Row)] == ALL_PARTS
    assert [f.work for f in found if isinstance(f, Kernels)] == ALL_PARTS
    assert processes == len(gpu.PARTS)
    assert not any(set(a) & set(b) for a, b in zip(gpu.PARTS, gpu.PARTS[1:], strict=False))


@pytest.mark.parametrize("part", [ALL_PARTS[1], list(gpu.TABLE)[-1]])
def test_after_a_failure_another_process_does_the_rest(
    part: str, capsys: pytest.CaptureFixture[str]
) -> None:
    found, processes = supervised(part_by_part(dies_in=part))
    assert processes == len(gpu.PARTS) + (part != list(gpu.TABLE)[-1])
    lost = [row for row in found if isinstance(row, Row) and row.failed]
    assert [(row.work, row.reason) for row in lost] == [
        (part, "the measuring process ended with status 1: boom")
    ]
    assert {f.work for f in found if isinstance(f, Kernels)} == set(ALL_PARTS) - {part}
    assert "a traceback" in capsys.readouterr().err


def test_a_profiler_that_fails_is_no_failure_of_the_kernels() -> None:
    part = list(gpu.PROFILE)[2]
    found, _ = supervised(part_by_part(dies_in=part))
    lost = [row for row in found if isinstance(row, Row) and row.measured is None]
    assert [(row.work, row.failed, row.missing) for row in lost] == [(part, False, True)]
    assert gpu.Report(False, rows=[row for row in found if isinstance(row, Row)]).status == 3


def test_processes_that_never_begin_are_not_tried_for_every_part() -> None:
    found, processes = supervised(part_by_part(begins=False))
    assert processes == len(gpu.PARTS)
    assert [row.work for row in found] == ALL_PARTS
    assert [row.failed for row in found] == [name in gpu.TABLE for name in ALL_PARTS]


def test_what_the_end_of_the_time_cuts_off_is_not_run(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(gpu, "time", SimpleNamespace(monotonic=lambda: now[0]))

    def script(parts: list[str]) -> Iterator[dict[str, Any]]:
        yield {"machine": {}}
        yield {"done": parts[0]}
        now[0] = 101.0

    found, processes = supervised(script)
    assert processes == 1
    assert [row.work for row in found] == ALL_PARTS[1:]
    assert all(row.missing and row.reason == "no time was left" for row in found)


# --- the path of a device, with a torch.cuda that does everything at once


class OnFakeDevice(gpu.Clock):
    def cloud(self, work: gpu.Work) -> torch.Tensor:
        generator = torch.Generator().manual_seed(0)
        return torch.randn(work.small, generator=generator).to(work.dtype)


class FakeGraph:
    capturing: FakeGraph | None = None

    def replay(self) -> None:
        pass


class FakeEvent:
    def __init__(self, enable_timing: bool) -> None:
        assert enable_timing

    def record(self) -> None:
        pass

    def synchronize(self) -> None:
        pass

    def elapsed_time(self, other: FakeEvent) -> float:
        return 2.0  # ms


class FakeStream:
    def wait_stream(self, other: object) -> None:
        pass

    def synchronize(self) -> None:
        pass


class FakeProfile:
    def __init__(self, activities: list[Any]) -> None:
        assert activities == [torch.profiler.ProfilerActivity.CUDA]

    def __enter__(self) -> FakeProfile:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def key_averages(self) -> list[Any]:
        kinds = torch.autograd.DeviceType
        return [
            SimpleNamespace(key=name, count=6, device_type=kind, self_device_time_total=time)
            for name, kind, time in (
                ("cudaLaunchKernel", kinds.CPU, 99.0),
                ("short", kinds.CUDA, 3.0),
                ("long", kinds.CUDA, 30.0),
            )
        ]


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> gpu.Clock:
    for name, value in {
        "synchronize": lambda: None,
        "current_stream": FakeStream,
        "Stream": FakeStream,
        "stream": lambda stream: contextlib.nullcontext(),
        "CUDAGraph": FakeGraph,
        "graph": lambda graph: contextlib.nullcontext(),
        "Event": FakeEvent,
        "set_sync_debug_mode": lambda mode: None,
    }.items():
        monkeypatch.setattr(torch.cuda, name, value)
    monkeypatch.setattr(torch.profiler, "profile", FakeProfile)
    monkeypatch.setattr(gpu.Clock, "_warm_up", lambda self: None)
    result = OnFakeDevice(False)
    result.device = "cpu"
    return result


def test_on_a_device_every_part_gives_its_rows(
    clock: gpu.Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts = iter([1, 0])
    monkeypatch.setattr(gpu, "_waits", lambda calls: next(counts))
    found = [f for group in gpu.PARTS for part in group.values() for f in part(clock)]
    rows = [f for f in found if isinstance(f, Row)]
    assert not any(row.failed for row in rows)
    labels = {row.work for row in rows}
    assert {work.partition(" | ")[0] for work in GOALS} - labels == {"host synchronisations"}
    kernels = [f for f in found if isinstance(f, Kernels)]
    assert kernels[0].found == [("long", 2, 10.0), ("short", 2, 1.0)]
    (launches,) = (r.measured for r in rows if r.work == "(1, 20, 2048), kernels, copies and fills")
    assert launches == 4


def test_a_time_is_that_of_one_call(clock: gpu.Clock) -> None:
    calls = []
    seconds = clock._groups(lambda: calls.append(1), 4, 3)
    assert len(calls) == 12
    assert seconds == pytest.approx(2e-3 / 4)


def test_wrong_edges_are_found_before_they_are_timed(
    clock: gpu.Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = gpu.h0_persistence
    calls = []

    def wrong(x: torch.Tensor) -> Any:
        calls.append(x)
        deaths, edges = right(x)
        return SimpleNamespace(deaths=deaths, edges=edges.flip(-1) if len(calls) == 1 else edges)

    monkeypatch.setattr(gpu, "h0_persistence", wrong)
    row = next(iter(gpu.TABLE["(2048, 100, 128)"](clock)))
    assert row.failed
    assert row.work == "(2048, 100, 128), edges"
    assert "WRONG: the edges of 4 of 4 clouds" in row.reason


def test_a_baseline_that_fails_leaves_our_time(clock: gpu.Clock) -> None:
    def broken() -> None:
        raise RuntimeError("out of memory\nmore")

    row = clock.against(Row("work", baseline="other", goal=1.0), lambda: None, broken)
    assert row.measured is not None
    assert row.missing
    assert row.reason == "the baseline failed: out of memory"


def test_waiting_calls_are_counted_and_a_counter_that_sees_none_is_an_error(
    clock: gpu.Clock,
) -> None:
    def waits() -> None:
        warnings.warn("called a synchronizing CUDA operation (Triggered at x)", stacklevel=1)

    assert gpu._waits([waits, lambda: warnings.warn("other", stacklevel=1), waits]) == 2
    with pytest.raises(RuntimeError, match="does not say when the host waits"):
        clock.synchronisations([lambda: None])


def test_a_profile_without_kernels_is_an_error(
    clock: gpu.Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(FakeProfile, "key_averages", lambda self: [])
    with pytest.raises(RuntimeError, match="saw no kernel"):
        clock.kernels(gpu.TINY)


# --- the clouds of the sanitizers


def test_small_clouds_run_on_the_cpu_and_a_wrong_result_is_an_error(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(gpu_small, "SIZES", ((2, 5, 3), (4, 8, 2)))
    monkeypatch.setattr(gpu_small, "ABOVE_STORED", 40)
    assert gpu_small.main(["cpu"]) == 0
    assert capsys.readouterr().out.startswith("32 batches, a large cloud and two matrices")
    right, calls = gpu_small.h0_persistence, []

    def wrong(*arguments: Any) -> Any:
        calls.append(arguments)
        deaths, edges = right(*arguments)
        return type(right(*arguments))(deaths, edges.flip(-1) if len(calls) == 2 else edges)

    monkeypatch.setattr(gpu_small, "h0_persistence", wrong)
    with pytest.raises(AssertionError, match=r"float32, 'euclidean', 5, 3.*not what the CPU core"):
        gpu_small.main(["cpu"])


# --- the script

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
  *"-m pytest"*) eval "$STUB_TESTS" ;;
  *benchmarks.gpu_small*) eval "$STUB_SMALL" ;;
  *"benchmarks.gpu "*) eval "$STUB_MEASURE" ;;
  *) exec "$STUB_REAL" "${arguments[@]}" ;;
esac
"""

SANITIZER = r"""#!/usr/bin/env bash
printf 'caching off: %s; %s\n' "${PYTORCH_NO_CUDA_MEMORY_CACHING:-}" "$*" >>"$STUB/sanitized"
eval "$STUB_SANITIZER"
"""

TOOLS = ("bash", "basename", "cat", "cut", "date", "dirname", "env", "grep", "head", "mkdir",
         "mktemp", "mv", "nproc", "rm", "sleep", "tail", "tee", "timeout")  # fmt: skip

STEPS = ("build", "doctor", "tests", "small_clouds", "measure",
         "memcheck", "racecheck", "synccheck", "initcheck")  # fmt: skip


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
        self.environment = {
            "PATH": str(self.bin),
            "CUDA_HOME": str(folder / "no cuda"),
            "PYTHON": str(self.bin / "stub python"),
            "STUB": str(folder),
            "STUB_REAL": sys.executable,
            "STUB_FACTS": "printf '2.11\\n90\\nH100 (sm_90)\\n'",
            "STUB_BUILD": "echo built",
            "STUB_DOCTOR": "echo CUDA kernels built for sm_90",
            "STUB_TESTS": "echo 150 passed",
            "STUB_SMALL": "echo what the CPU core gives",
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

    def calls(self, word: str) -> list[str]:
        lines = (self.folder / "calls").read_text(encoding="utf-8").splitlines()
        return [line for line in lines if word in line]


@pytest.fixture
def fake(tmp_path: Path) -> Machine:
    if not SCRIPT.exists() or not all(map(shutil.which, TOOLS)):
        pytest.skip("needs the source tree and the tools of the script")
    return Machine(tmp_path)


def test_where_everything_passes_the_report_says_so(fake: Machine) -> None:
    assert fake.check() == 0, fake.errors
    assert fake.errors == ""
    assert fake.report == fake.printed
    assert "Everything ran and passed." in fake.report
    assert "- device: H100 (sm_90)" in fake.report
    assert "- nvcc: release 13.0, V13" in fake.report
    assert "| a table |" in fake.report
    assert fake.results == dict.fromkeys(STEPS, "passed")
    for step in STEPS:
        assert f"- {step}: passed (" in fake.report
        assert (fake.out / f"{step}.log").exists()
    assert "- tests: passed" in fake.report
    assert "s). 150 passed" in fake.report
    record = json.loads((fake.out / "report.json").read_text(encoding="utf-8"))
    assert record["status"] == 0
    assert not list(fake.out.glob("*.new"))


def test_no_source_tree_hides_what_was_built(fake: Machine) -> None:
    fake.check(STUB_SMALL="pwd; echo $PYTHONPATH")
    folder, path = (fake.out / "small_clouds.log").read_text(encoding="utf-8").splitlines()
    assert path.startswith(f"{folder}/site:")
    assert not Path(folder).is_relative_to(ROOT)
    assert not Path(folder).exists()
    for word in ("-m pytest", "gpu_small", "benchmarks.gpu "):
        assert all(call.startswith("-S ") for call in fake.calls(word))


def test_measuring_comes_before_the_sanitizers(fake: Machine) -> None:
    fake.check()
    assert list(fake.results) == list(STEPS)


def test_the_build_is_for_the_devices_and_fetches_nothing(fake: Machine) -> None:
    show = "echo $CMAKE_ARGS $TSLOSS_CUDA $TSLOSS_WERROR; test $CMAKE_BUILD_PARALLEL_LEVEL -gt 0"
    fake.check(STUB_BUILD=show, STUB_FACTS="printf '2\\n80;90\\nA (sm_80), H (sm_90)\\n'")
    log = (fake.out / "build.log").read_text(encoding="utf-8")
    assert log == "-DCMAKE_CUDA_ARCHITECTURES=80;90 ON OFF\n"
    (build,) = fake.calls("pip install")
    for option in ("--no-index", "--no-build-isolation", "--no-deps", f" {ROOT}"):
        assert option in build


def test_devices_are_named_and_each_kind_is_built_for_once(fake: Machine) -> None:
    (fake.folder / "torch.py").write_text(
        "import sys; from types import SimpleNamespace\n"
        "__version__ = '2.11'\n"
        "kinds = [(9, 0), (8, 0), (9, 0)]\n"
        "cuda = SimpleNamespace(is_available=lambda: True, device_count=lambda: 3,\n"
        "    get_device_capability=kinds.__getitem__, get_device_name='ABC'.__getitem__)\n",
        encoding="utf-8",
    )
    ask = 'PYTHONPATH="$STUB" exec "$STUB_REAL" -'
    assert fake.check(STUB_FACTS=ask, STUB_BUILD="echo $CMAKE_ARGS") == 0, fake.report
    assert "- device: A (sm_90), B (sm_80), C (sm_90)\n" in fake.report
    assert "- torch: 2.11\n" in fake.report
    log = (fake.out / "build.log").read_text(encoding="utf-8")
    assert log == "-DCMAKE_CUDA_ARCHITECTURES=80;90\n"


def test_the_sanitizers_look_at_our_kernels_alone(fake: Machine) -> None:
    fake.check()
    lines = (fake.folder / "sanitized").read_text(encoding="utf-8").splitlines()
    assert len(lines) == 4
    for line, tool in zip(lines, STEPS[-4:], strict=True):
        assert f"caching off: 1; --tool {tool} --error-exitcode 9 " in line
        assert "--kernel-name kns=tsloss " in line
        assert line.endswith("-S -m tsloss_fast.benchmarks.gpu_small")
    symbols = (ROOT / "csrc/cuda/launch.h").read_text(encoding="utf-8")
    assert "namespace tsloss" in symbols


@pytest.mark.parametrize("arguments", [("a", "b"), ("--help",), ("",), ("file/out",)])
def test_wrong_usage_has_the_exit_code_2(fake: Machine, arguments: tuple[str, ...]) -> None:
    (fake.folder / "file").write_text("", encoding="utf-8")
    assert fake.check(*arguments) == 2
    assert fake.errors
    assert fake.printed == ""
    assert not (fake.folder / "calls").exists()


@needs_script
def test_no_arguments_are_wrong_usage_too() -> None:
    done = subprocess.run(["bash", str(SCRIPT)], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr == "usage: benchmarks/gpu_check.sh OUT_DIR\n"


def test_without_nvcc_nothing_runs_and_everything_is_named(fake: Machine) -> None:
    (fake.bin / "nvcc").unlink()
    assert fake.check() == 3
    assert "- build: NOT RUN: nvcc is not in PATH; install the CUDA toolkit" in fake.report
    assert fake.results == dict.fromkeys(STEPS, "not run")
    for step in STEPS:
        assert f"- {step}: NOT RUN: " in fake.report
    assert "Nothing failed, but not everything could run here." in fake.report
    assert not fake.calls("pip")


def test_nvcc_is_found_in_the_toolkit_too(fake: Machine) -> None:
    toolkit = fake.folder / "no cuda/bin"
    toolkit.mkdir()
    for name in ("nvcc", "compute-sanitizer"):
        (fake.bin / name).rename(toolkit / name)
    assert fake.check() == 0


def test_without_torch_nothing_runs_and_everything_is_named(fake: Machine) -> None:
    broken = "echo \"ModuleNotFoundError: No module named 'torch'\" >&2; exit 1"
    assert fake.check(STUB_FACTS=broken) == 3
    assert "- torch: none: ModuleNotFoundError: No module named 'torch'" in fake.report
    assert fake.results == dict.fromkeys(STEPS, "not run")
    assert fake.check(PYTHON="no-such-python") == 3
    assert "no-such-python has no torch" in fake.report
    assert not (fake.out / "report.json").exists()


def test_a_build_that_fails_shows_the_end_of_its_log(fake: Machine) -> None:
    build = "for k in {1..40}; do echo line $k; done; echo error: no such kernel >&2; exit 7"
    assert fake.check(STUB_BUILD=build) == 1
    assert "- build: FAILED with exit status 7" in fake.report
    assert "line 40\nerror: no such kernel\n```" in fake.report
    assert "line 15\n" not in fake.report
    assert (fake.out / "build.log").read_text(encoding="utf-8").startswith("line 1\n")
    assert fake.results == {"build": "failed"} | dict.fromkeys(STEPS[1:], "not run")
    assert "A step failed." in fake.report


@pytest.mark.parametrize(
    ("variable", "step"),
    [
        ("STUB_DOCTOR", "doctor"),
        ("STUB_TESTS", "tests"),
        ("STUB_SMALL", "small_clouds"),
        ("STUB_MEASURE", "measure"),
    ],
)
def test_a_step_that_fails_takes_no_other_along(fake: Machine, variable: str, step: str) -> None:
    assert fake.check(**{variable: "echo went wrong; kill -9 $$"}) == 1
    assert f"- {step}: FAILED as it was stopped after" in fake.report
    assert fake.results == dict.fromkeys(STEPS, "passed") | {step: "failed"}
    assert "went wrong" in fake.report


def test_what_a_sanitizer_finds_is_a_failure(fake: Machine) -> None:
    race = 'echo hazard; case "$*" in *racecheck*) exit 9 ;; esac'
    assert fake.check(STUB_SANITIZER=race) == 1
    assert "- racecheck: FAILED with exit status 9" in fake.report
    assert fake.results == dict.fromkeys(STEPS, "passed") | {"racecheck": "failed"}


@pytest.mark.parametrize("missing", ["tool", "device"])
def test_a_sanitizer_that_cannot_run_is_none(fake: Machine, missing: str) -> None:
    if missing == "tool":
        (fake.bin / "compute-sanitizer").unlink()
    refused = "echo '========= Error: Device not supported'; exit 1"
    assert fake.check(STUB_SANITIZER=refused) == 3
    reason = "was not found" if missing == "tool" else "does not support this device"
    assert f"- memcheck: NOT RUN: compute-sanitizer {reason}" in fake.report
    expected = dict.fromkeys(STEPS[:-4], "passed") | dict.fromkeys(STEPS[-4:], "not run")
    assert fake.results == expected


def test_skipped_tests_and_rows_that_were_not_measured_are_named(fake: Machine) -> None:
    skipped = "SKIPPED [1] test_cuda_device.py:339: needs two devices"
    assert fake.check(STUB_TESTS=f"echo '{skipped}'; echo 9 passed, 1 skipped") == 3
    assert f"- a test: NOT RUN: {skipped}" in fake.report
    assert fake.check(STUB_MEASURE='echo "| some |" >"$output"; exit 3') == 3
    assert "- measure: NOT RUN: not all of it: the table says what and why" in fake.report
    assert "| some |" in fake.report


def test_tables_of_an_earlier_run_are_not_shown(fake: Machine) -> None:
    assert fake.check() == 0
    assert fake.check(STUB_MEASURE="exit 1") == 1
    assert "| a table |" not in fake.report
    assert not (fake.out / "gpu.md").exists()


def test_without_time_every_step_is_named(fake: Machine) -> None:
    assert fake.check(GPU_CHECK_SECONDS="0") == 3
    assert "- build: NOT RUN: no time was left" in fake.report
    assert fake.results == dict.fromkeys(STEPS, "not run")


@pytest.mark.slow
def test_a_step_that_hangs_is_stopped_and_what_is_late_is_named(fake: Machine) -> None:
    assert fake.check(GPU_CHECK_SECONDS="20", STUB_TESTS="echo begun; sleep 1000") == 1
    assert "- tests: FAILED as it was stopped after" in fake.report
    assert "begun" in fake.report
    assert fake.results["measure"] == "not run"
    assert "- measure: NOT RUN: no time was left" in fake.report
    record = json.loads((fake.out / "report.json").read_text(encoding="utf-8"))
    assert record["seconds"] < 100  # the limit of the step is 130
    assert not fake.calls("benchmarks.gpu ")


def test_the_measurement_gets_what_time_is_left(fake: Machine) -> None:
    assert fake.check(GPU_CHECK_SECONDS="100") == 0
    (call,) = fake.calls("benchmarks.gpu ")
    assert 0 < int(call.rpartition("--seconds ")[2]) <= 95
    assert fake.check(GPU_CHECK_SECONDS="10000") == 0
    assert fake.calls("benchmarks.gpu ")[-1].endswith("--seconds 150")


def test_a_signal_stops_the_step_and_leaves_an_honest_report(fake: Machine) -> None:
    process = subprocess.Popen(
        [str(fake.bin / "bash"), str(SCRIPT), str(fake.out)],
        env=fake.environment | {"STUB_BUILD": "echo $$; exec sleep 1000"},
        stdout=subprocess.PIPE,
    )
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith(b"- nvcc"):
            break
    log = fake.out / "build.log"
    while not log.exists() or not log.read_text(encoding="utf-8").endswith("\n"):
        assert process.poll() is None
        time.sleep(0.01)
    build = int(log.read_text(encoding="utf-8"))
    process.terminate()
    assert process.wait(60) == 130
    assert "- stopped by a signal" in fake.report
    try:
        for _ in range(1000):
            os.kill(build, 0)
            time.sleep(0.01)
    except ProcessLookupError:
        return
    os.kill(build, signal.SIGKILL)
    pytest.fail("the step still ran")


def test_without_a_device_it_rehearses(fake: Machine) -> None:
    assert fake.check(STUB_FACTS="printf '2.13+cpu\\n\\n\\n'") == 3
    assert "- device: none that torch sees" in fake.report
    for step in STEPS[2:]:
        assert f"- {step}: NOT RUN: torch sees no CUDA device" in fake.report
    assert fake.results["rehearse"] == fake.results["rehearse_small"] == "passed"
    assert (fake.out / "rehearsal.md").exists()
    assert not (fake.out / "gpu.md").exists()
    assert "--rehearse" in fake.calls("benchmarks.gpu ")[0]
    assert fake.calls("benchmarks.gpu_small")[0].endswith(" cpu")
    assert "| a table |" in fake.report


def test_relative_names_of_the_interpreter_and_the_folder_will_do(fake: Machine) -> None:
    assert fake.check("./some/where", PYTHON="bin/stub python") == 0
    assert (fake.folder / "some/where/report.json").exists()


def test_the_tests_of_the_script_need_nothing_but_torch_and_pytest(fake: Machine) -> None:
    program = fake.folder / "collect.py"
    program.write_text(
        "import sys\n"
        "for name in ('hypothesis', 'scipy', 'gudhi', 'ripser', 'sklearn', 'ot',\n"
        "             'pytest_benchmark', 'transformers'):\n"
        "    sys.modules[name] = None\n"
        "import pytest\n"
        "sys.exit(pytest.main([*sys.argv[1:], '--collect-only', '-q']))\n",
        encoding="utf-8",
    )
    # Its own options, without those of the interpreter; the package is that of these tests.
    collect = 'unset PYTHONPATH; exec "$STUB_REAL" "$STUB/collect.py" "${arguments[@]:3}"'
    assert fake.check(STUB_TESTS=collect) == 0, fake.report
    collected = (fake.out / "tests.log").read_text(encoding="utf-8")
    for name in ("test_graphs_replay", "test_random_clouds", "test_streams", "[cuda-"):
        assert name in collected
    assert "[host-" not in collected
    assert "Unknown" not in collected  # the marks are those of pyproject.toml


@pytest.mark.slow
@needs_script
@pytest.mark.skipif(
    not shutil.which("nvcc") or not shutil.which("cmake"), reason="needs nvcc and cmake"
)
def test_it_runs_here(tmp_path: Path) -> None:
    done = subprocess.run(
        ["bash", str(SCRIPT), str(tmp_path)],
        env={**os.environ, "PYTHON": sys.executable},
        capture_output=True,
        text=True,
        check=False,
    )
    report = (tmp_path / "report.md").read_text(encoding="utf-8")
    assert done.returncode in ((0, 3) if HAVE_DEVICE else (3,)), report
    assert "- doctor: passed" in report
    if not HAVE_DEVICE:
        assert "- doctor: passed" in report
        assert "CUDA kernels built for sm_90 and later" in report
        assert "- tests: NOT RUN: torch sees no CUDA device" in report
        assert "- rehearse_small: passed" in report
        assert "- rehearse: passed" in report
        assert gpu._REHEARSAL in report
        record = json.loads((tmp_path / "rehearsal.json").read_text(encoding="utf-8"))
        assert record["machine"]["kernels built for"] == "90"
