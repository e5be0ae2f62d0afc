"""benchmarks/gpu_check.sh where steps fail, hang, are skipped or come too late."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time

import pytest
from fake_machine import SCRIPT, STEPS, Machine


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


def test_with_more_time_every_step_has_more(fake: Machine) -> None:
    """The stub of `timeout` notes the limit and runs the command without one."""
    (fake.bin / "timeout").unlink()
    note = 'printf "%s\\n" "$2" >>"$STUB/limits"; shift 2; exec "$@"'
    fake.install("timeout", f"#!/usr/bin/env bash\n{note}\n")
    for seconds in ("460", "4600"):
        assert fake.check(GPU_CHECK_SECONDS=seconds) == 0, fake.report
    limits = [int(line) for line in (fake.folder / "limits").read_text().split()]
    usual, longer = limits[: len(limits) // 2], limits[len(limits) // 2 :]
    assert usual[:2] == [200, 60]
    assert longer == [10 * limit for limit in usual]


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
