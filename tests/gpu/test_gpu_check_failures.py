"""benchmarks/gpu_check.sh where steps fail, hang, are skipped or come too late."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from fake_machine import SCRIPT, STEPS, Machine
from tsloss_fast.benchmarks import gpu_check


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
    reason = " was not found" if missing == "tool" else ": Error: Device not supported"
    assert f"- memcheck: NOT RUN: compute-sanitizer{reason}\n" in fake.report
    expected = dict.fromkeys(STEPS, "passed") | dict.fromkeys(STEPS[5:9], "not run")
    assert fake.results == expected


@pytest.mark.parametrize("missing", ["tool", "library", "permission"])
def test_a_profiler_that_cannot_run_is_none(fake: Machine, missing: str) -> None:
    said = {
        "tool": "ncu was not found",
        "library": "ncu: Failed to initialize the profiler: LibraryNotLoaded",
        "permission": "ncu: ERROR: ERR_NVGPUCTRPERM - The user does not have permission",
    }[missing]
    fake.install("ncu", f"#!/usr/bin/env bash\necho '==={said.partition(':')[2]}'; exit 1\n")
    if missing == "tool":
        (fake.bin / "ncu").unlink()
    assert fake.check(str(fake.out), "ncu") == 3
    assert f"- ncu: NOT RUN: {said}\n" in fake.report
    assert fake.results == {"build": "passed", "ncu": "not run"}


def test_a_sanitizer_that_is_stopped_has_failed_only_with_a_finding(fake: Machine) -> None:
    hang = 'case "$*" in *memcheck*) echo "========= Invalid __global__ read of size 4" ;; esac; '
    hang += 'case "$*" in *memcheck*|*initcheck*) sleep 1000 ;; esac'
    shares = ("memcheck=2", "racecheck=3", "initcheck=2", "nccl=3")
    environment = {"STUB_SANITIZER": hang, "GPU_CHECK_SECONDS": "15"}
    assert fake.check(str(fake.out), *shares, **environment) == 1
    assert "- memcheck: FAILED as it was stopped after" in fake.report
    assert "- initcheck: NOT RUN: not to its end: it was stopped after" in fake.report
    assert fake.results["racecheck"] == "passed"


def test_whatever_did_not_run_is_named_in_both_reports(fake: Machine) -> None:
    skipped = "SKIPPED [1] test_cuda_device.py:339: needs two devices"
    row = "| (1, 4096, 768) |  |  | NOT RUN: no time was left |"
    case = "float32-matrix-2x70x70: NOT RUN: no time was left"
    environment = {
        "STUB_TESTS": f"echo '{skipped}'; echo 9 passed, 1 skipped",
        "STUB_MEASURE": f"echo '{row}'; echo some >$output; echo 20 rows; exit 3",
        "STUB_SMALL": f"echo '{case}'; echo 132 of 133; exit 3",
    }
    assert fake.check(**environment) == 3
    assert "- tests: passed" in fake.report
    assert "- measure: NOT RUN: not all of it: 20 rows\n" in fake.report
    assert "- small_clouds: NOT RUN: not all of it: 132 of 133\n" in fake.report
    assert "\nsome\n" in fake.report
    record = json.loads((fake.out / "report.json").read_text(encoding="utf-8"))
    named = {(s["name"], s["result"], s["reason"]) for s in record["steps"] if " " in s["name"]}
    wanted = {
        ("of tests", skipped),
        ("of measure", "(1, 4096, 768) NOT RUN: no time was left"),
        ("of small_clouds", case),
    }
    assert named == {(name, "not run", reason) for name, reason in wanted}
    for _, reason in wanted:
        assert f"  - {reason}\n" in fake.report


def test_an_internal_error_of_pytest_is_a_failure(fake: Machine) -> None:
    """Its exit status is that of our programs where something could not run."""
    assert fake.check(STUB_TESTS="echo INTERNALERROR; exit 3") == 1
    assert fake.results["tests"] == "failed"


def test_tables_of_an_earlier_run_are_not_shown(fake: Machine) -> None:
    assert fake.check() == 0
    assert fake.check(STUB_MEASURE="exit 1") == 1
    assert "| a table |" not in fake.report
    assert not (fake.out / "gpu.md").exists()


def test_without_time_every_step_is_named(fake: Machine) -> None:
    assert fake.check(GPU_CHECK_SECONDS="0") == 3
    assert fake.results == dict.fromkeys(STEPS, "not run")
    for step in STEPS:
        assert f"- {step}: NOT RUN: " in fake.report


def test_a_step_that_hangs_is_stopped_and_starves_no_other(fake: Machine) -> None:
    hang = "echo begun; sleep 1000 & echo $! >$STUB/child; wait"
    assert fake.check(GPU_CHECK_SECONDS="40", STUB_TESTS=hang) == 1
    assert "- tests: FAILED as it was stopped after" in fake.report
    assert "begun" in fake.report
    assert fake.results == dict.fromkeys(STEPS, "passed") | {"tests": "failed"}
    record = json.loads((fake.out / "report.json").read_text(encoding="utf-8"))
    assert record["seconds"] < 40
    child = Path("/proc", (fake.folder / "child").read_text().strip(), "stat")
    assert not child.exists() or child.read_text().split()[2] == "Z"  # dead, if not yet waited for


@pytest.mark.parametrize("seconds", [290.0, 460.0])
def test_limits_fit_into_the_time_and_every_step_has_its_share(
    seconds: float, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Every step, the build as well, is stopped at its limit."""
    now, limits = [0.0], {}
    monkeypatch.setattr(gpu_check, "time", SimpleNamespace(monotonic=lambda: now[0]))
    check = gpu_check.Check(tmp_path, gpu_check.USUAL, seconds)
    for name in STEPS:
        limits[name] = check.limit(name)
        now[0] += limits[name]
        check.note(name, "failed", "")
    assert sum(limits.values()) == pytest.approx(seconds - gpu_check.PACKING_SECONDS)
    assert limits["build"] > seconds * 0.4
    usual = sum(gpu_check.USUAL.values())
    for name, share in gpu_check.USUAL.items():
        assert limits[name] == pytest.approx(share / usual * (seconds - 5) / 2)


def test_what_a_step_leaves_is_for_those_after_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(gpu_check, "time", SimpleNamespace(monotonic=lambda: 0.0))
    check = gpu_check.Check(tmp_path, {"tests": 60.0, "measure": 40.0, "nccl": 10.0}, 115.0)
    assert check.limit("tests") == pytest.approx(60)
    check.note("tests", "passed", "")
    assert check.limit("measure") == pytest.approx(88)
    check.note("measure", "passed", "")
    assert check.limit("nccl") == pytest.approx(110)


def test_programs_of_ours_end_before_they_are_stopped(fake: Machine) -> None:
    fake.check(str(fake.out), "measure=50", "memcheck=50", GPU_CHECK_SECONDS="105")
    (call,) = fake.calls("benchmarks.gpu ")
    assert 38 <= int(call.partition("--seconds ")[2].split()[0]) <= 48
    (sanitized,) = (fake.folder / "sanitized").read_text(encoding="utf-8").splitlines()
    assert 70 <= int(sanitized.partition("--seconds ")[2].split()[0]) <= 85


def test_a_check_that_is_killed_leaves_what_it_knew(fake: Machine) -> None:
    assert fake.check(STUB_MEASURE="echo more; kill -9 $PPID; sleep 1") == -9
    assert fake.results == dict.fromkeys(STEPS, "not run") | dict.fromkeys(STEPS[:4], "passed")
    assert "the check ended before this step" in (fake.out / "report.json").read_text()
    assert fake.log("tests") == "150 passed\n"


def test_a_signal_stops_the_step_and_leaves_an_honest_report(fake: Machine) -> None:
    process = subprocess.Popen(
        [str(fake.bin / "bash"), str(SCRIPT), str(fake.out)],
        env=fake.environment | {"STUB_BUILD": "echo $$ >$STUB/build; exec sleep 1000"},
        stdout=subprocess.PIPE,
    )
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith(b"- nvcc"):
            break
    written = fake.folder / "build"
    while not written.exists() or not written.read_text(encoding="utf-8").endswith("\n"):
        assert process.poll() is None
        time.sleep(0.01)
    build = int(written.read_text(encoding="utf-8"))
    process.terminate()
    assert process.wait(60) == 130
    assert "- stopped by a signal" in fake.report
    assert fake.results == dict.fromkeys(STEPS, "not run")
    try:
        for _ in range(1000):
            os.kill(build, 0)
            time.sleep(0.01)
    except ProcessLookupError:
        return
    os.kill(build, signal.SIGKILL)
    pytest.fail("the step still ran")
