"""The CUDA kernels under sanitizers, with each barrier taken away, and how much of them runs."""

from __future__ import annotations

import re
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cuda_host
import pytest
from cuda_checks import SCHEDULES
from cuda_host import barriers, each_case, run
from native_builds import HAVE_SOURCES
from source_tree import ROOT

pytestmark = pytest.mark.skipif(not HAVE_SOURCES, reason="needs the source tree and g++")


@pytest.fixture(scope="module")
def programs(build_folder: Path) -> dict[str, Path]:
    kinds = ["plain", "address", "thread", "coverage"]
    with ThreadPoolExecutor(2) as pool:
        built = pool.map(lambda kind: cuda_host.build_program(build_folder, kind), kinds)
    return dict(zip(kinds, built, strict=True))


@pytest.mark.sanitizer
@pytest.mark.slow
def test_no_address_is_wrong_under_any_schedule(programs: dict[str, Path]) -> None:
    expected = run(programs["plain"])
    assert expected[0] == 0, expected[1]
    for order, seed in SCHEDULES:
        assert run(programs["address"], order, seed) == expected, f"{order} {seed}"


@pytest.mark.sanitizer
@pytest.mark.slow
def test_no_case_has_a_race(programs: dict[str, Path]) -> None:
    """Races are seen whatever the schedule was. A process of its own for each case: what the
    detector remembers of threads is never given back."""
    expected = each_case(run(programs["plain"])[1])
    with ThreadPoolExecutor(2) as pool:
        runs = list(pool.map(lambda k: run(programs["thread"], case=k), range(len(expected))))
    for line, (code, said) in zip(expected, runs, strict=True):
        assert code == 0, said
        assert each_case(said) == [line]


@pytest.mark.sanitizer
@pytest.mark.slow
def test_no_barrier_can_be_dropped_unnoticed(programs: dict[str, Path]) -> None:
    code, said = run(programs["plain"])
    assert code == 0
    expected = each_case(said)
    sites = barriers(said)
    assert len(sites) == len(set(sites)) >= 13

    def shows(site: str) -> bool:
        """Whether a schedule shows it in the results."""
        for order, seed in SCHEDULES:
            code, said = run(programs["plain"], order, seed, drop=site)
            if code != 0 or each_case(said) != expected:
                return True
        return False

    reached = [barriers(run(programs["plain"], case=k)[1]) for k in range(len(expected))]

    def races(site: str) -> bool:
        cases = (k for k, places in enumerate(reached) if site in places)
        runs = (run(programs["thread"], drop=site, case=k) for k in cases)
        return any(code == 66 and "data race" in said for code, said in runs)

    with ThreadPoolExecutor(2) as pool:
        silent = [s for s, seen in zip(sites, pool.map(shows, sites), strict=True) if not seen]
        # What no schedule shows in the results, the race detector sees.
        unseen = [s for s, seen in zip(silent, pool.map(races, silent), strict=True) if not seen]
    assert not unseen
    assert len(silent) <= len(sites) // 4, silent


@pytest.mark.slow
def test_every_line_of_the_kernels_runs(programs: dict[str, Path]) -> None:
    program = programs["coverage"]
    assert run(program)[0] == 0
    (notes,) = program.parent.glob("simt_program-*.gcno")
    said = subprocess.run(
        ["gcov", "-r", "-s", str(ROOT / "csrc"), notes.name],
        cwd=program.parent,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    found = re.findall(r"File 'cuda/(\w+\.cuh)'\nLines executed:([\d.]+)% of (\d+)", said)
    lines = {name: (float(percent), int(count)) for name, percent, count in found}
    print(lines)
    assert {"backward.cuh", "cloud_tree.cuh", "distances.cuh", "prepare.cuh"} <= set(lines)
    total = sum(count for _, count in lines.values())
    run_lines = sum(percent * count for percent, count in lines.values()) / 100
    assert run_lines / total >= 0.95
    assert all(percent >= 90 for percent, _ in lines.values()), lines
