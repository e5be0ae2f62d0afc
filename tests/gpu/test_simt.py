"""The host executor of CUDA kernels sees what is wrong with a kernel, and names the place."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from native_builds import ADDRESS, HAVE_SOURCES, ORDERS, PLAIN, UNDER_ADDRESS, UNDER_THREAD, build
from source_tree import ROOT

SOURCE = ROOT / "tests/native/simt_defects.cpp"
# What the kernels are compiled with, and what the executor.
KINDS: dict[str, tuple[list[str], list[str]]] = {
    "plain": ([], PLAIN),
    "contexts": (["-DSIMT_UCONTEXT"], [*PLAIN, "-DSIMT_UCONTEXT"]),
    "address": (ADDRESS, UNDER_ADDRESS),
    "thread": (["-fsanitize=thread"], UNDER_THREAD),
    "preempt": (["-fsanitize-coverage=trace-pc"], PLAIN),
}

pytestmark = pytest.mark.skipif(not HAVE_SOURCES, reason="needs the source tree and g++")


@pytest.fixture(scope="module")
def programs(build_folder: Path) -> dict[str, Path]:
    return {
        kind: build(
            build_folder, f"simt_defects-{kind}", SOURCE, ["-O1", *kernels], executor, kernels
        )
        for kind, (kernels, executor) in KINDS.items()
    }


def run(program: Path, *arguments: object) -> tuple[int, str]:
    done = subprocess.run(
        [str(program), *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


def line_of(text: str, after: str) -> int:
    """The line of the first `text` in the kernel `after`."""
    lines = SOURCE.read_text(encoding="utf-8").splitlines()
    begin = next(k for k, line in enumerate(lines) if f"void {after}(" in line)
    return next(k for k in range(begin, len(lines)) if text in lines[k]) + 1


@pytest.mark.parametrize("kind", ["plain", "contexts"])
@pytest.mark.parametrize(
    ("kernel", "message", "place"),
    [
        ("divergent_barrier", "divergent barrier", "__syncthreads"),
        ("deadlock", "deadlock", "__syncwarp"),
        ("livelock", "livelock", None),
        ("shuffle_from_inactive_lane", "lane 15 reads lane 16", "__shfl_down_sync"),
        ("lane_outside_its_mask", "not in the mask", "__reduce_add_sync"),
        ("divergent_warp", "divergent warp", "__shfl_xor_sync"),
        ("misaligned_copy", "misaligned copy", "copy_later"),
    ],
)
def test_what_a_gpu_leaves_undefined_is_an_error(
    programs: dict[str, Path], kind: str, kernel: str, message: str, place: str | None
) -> None:
    for order in ORDERS.values():
        code, said = run(programs[kind], kernel, 1, order)
        assert code == 3
        assert message in said
        if place is not None:
            assert f"{SOURCE.name}:{line_of(place, kernel)}" in said


@pytest.mark.sanitizer
@pytest.mark.parametrize(
    ("kernel", "message", "place"),
    [
        ("shared_overrun", "out of bounds", "s[t + (t == 31)]"),
        ("shared_overrun_by_pointer", "use-after-poison", "end[threadIdx.x"),
        ("dynamic_overrun", "heap-buffer-overflow", "s[threadIdx.x + 1]"),
        ("global_overrun", "heap-buffer-overflow", "out[threadIdx.x"),
        ("misaligned_vector", "misaligned address", "float4"),
    ],
)
def test_every_access_is_checked(
    programs: dict[str, Path], kernel: str, message: str, place: str
) -> None:
    code, said = run(programs["address"], kernel)
    assert code == 1
    assert message in said
    assert f"{SOURCE.name}:{line_of(place, kernel)}" in said


@pytest.mark.sanitizer
@pytest.mark.parametrize(
    "kernel",
    [
        "missing_syncwarp",
        "missing_barrier",
        "update_without_atomic",
        "race_of_blocks",
        "no_fence_before_flag",
    ],
)
def test_races_are_seen_whatever_the_schedule(programs: dict[str, Path], kernel: str) -> None:
    first = line_of("{", kernel)
    for order in ORDERS.values():
        code, said = run(programs["thread"], kernel, 1, order)
        assert code == 66
        assert "data race" in said
        assert any(f"{SOURCE.name}:{first + k}" in said for k in range(12))


@pytest.mark.sanitizer
@pytest.mark.parametrize("kernel", ["fence_before_flag", "everything"])
def test_good_kernels_pass_under_every_sanitizer_and_schedule(
    programs: dict[str, Path], kernel: str
) -> None:
    seen = set()
    for program in programs.values():
        for order in ORDERS.values():
            for seed, preempt in ((1, 0), (2, 50)):
                code, said = run(program, kernel, seed, order, preempt)
                assert code == 0, said
                assert said.count("\n") == 1
                seen.add(said)
    assert len(seen) == 1
    if kernel == "everything":
        # Three blocks add sum(0..31) each, and all votes and shuffles were right.
        assert seen == {"ran: 1488 1, 0\n"}


def test_shared_memory_is_junk_at_first(programs: dict[str, Path]) -> None:
    runs = [run(programs["plain"], "junk_is_read", 1, 3, 0, fill) for fill in (0, 63)]
    assert runs[0] != runs[1]


def test_asynchronous_copies_arrive_when_they_are_waited_for(programs: dict[str, Path]) -> None:
    for kernel, arrived in (
        ("copy_that_is_waited_for", True),
        ("copy_that_nobody_waits_for", False),
    ):
        code, said = run(programs["plain"], kernel, 1, 3, 0, 63)
        assert code == 0
        assert (said == "ran: 0 0, 0\n") == arrived


def test_a_race_shows_in_the_result_of_some_schedule(programs: dict[str, Path]) -> None:
    results = {
        run(programs["preempt"], "missing_barrier", seed, order, 3)[1]
        for order in ORDERS.values()
        for seed in range(3)
    }
    assert len(results) > 1
