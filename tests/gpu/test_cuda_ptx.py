"""The PTX that nvcc writes for the kernels, executed: single clouds that are measured on a GPU and
smaller clouds on the paths of the others, sanitizers, and defects seeded in the PTX, each of which
must show.

The host tests of the kernels run on the PTX as well, by the fixture `kernels`. TSLOSS_PTX=all
(`make ptx`) runs the longest cases too."""

from __future__ import annotations

import os
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import ptx_build
import pytest
import torch
from cuda_checks import HALVES, SCHEDULES, on_cpu, same
from cuda_host import METRICS, HostKernels, barriers, each_case, run

from tsloss_fast import _ops

ALL = os.environ.get("TSLOSS_PTX") == "all"
PROCESSORS = 132  # of an H100 or H200
NUMBERS = (torch.float32, torch.float64, torch.bfloat16)
# The cases of the program that need no other entries than those of FLOAT32. Under ThreadSanitizer
# the last two take most of a minute.
FLOAT32_CASES = (0, 1, 8, 9, 12, 13, 14, 15, 18, 19)
LONG_CASES = (18, 19)

pytestmark = pytest.mark.slow
long = pytest.mark.skipif(not ALL, reason="takes a minute: TSLOSS_PTX=all or make ptx runs it")


# ---- the shapes of the goals ----


def made(shape: tuple[int, ...], dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(dtype)


def check(kernels: HostKernels, points: torch.Tensor, metric: str = "euclidean") -> None:
    """Edges and deaths of the CPU core bit for bit, and its gradient but for rounding."""
    got = kernels.forward(points, metric, processors=PROCESSORS)
    expected = on_cpu(points, metric)
    assert same(got.deaths, expected.deaths)
    assert torch.equal(got.edges, expected.edges)
    ones = torch.ones_like(got.deaths)
    gradient = kernels.backward(ones, points, got.deaths, got.edges, metric)
    wide = points.float() if points.dtype in HALVES else points
    wanted = _ops.h0_backward(ones, wide, got.deaths, got.edges, None, metric)
    gap = (gradient.to(wanted) - wanted).abs().max()
    assert gap <= 32 * torch.finfo(points.dtype).eps * wanted.abs().max()


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("dtype", NUMBERS)
@pytest.mark.parametrize("shape", [(1, 20, 2048), (1, 100, 4096)])
def test_small_clouds_of_the_goals(
    ptx_kernels: HostKernels, shape: tuple[int, ...], dtype: torch.dtype, metric: str
) -> None:
    check(ptx_kernels, made(shape, dtype), metric)


def test_a_batch_with_more_clouds_than_processors(ptx_kernels: HostKernels) -> None:
    check(ptx_kernels, made((140, 100, 128)))


def test_the_large_cloud_of_the_goals(ptx_kernels: HostKernels) -> None:
    check(ptx_kernels, made((1, 4096, 768)))


@pytest.mark.parametrize(("n", "dim"), [(8193, 4), pytest.param(9000, 3, marks=long)])
def test_clouds_whose_keys_are_not_stored(ptx_kernels: HostKernels, n: int, dim: int) -> None:
    check(ptx_kernels, made((1, n, dim)))


# ---- sanitizers and dropped barriers ----


@pytest.fixture(scope="module")
def plain(build_folder: Path, ptx_text: str) -> Path:
    return ptx_build.build_program(build_folder, "ptx", "plain", ptx_text)


@pytest.fixture(scope="module")
def watched(build_folder: Path, ptx_text: str) -> dict[str, Path]:
    """Programs of the entries for float32, since sanitizers make their compilation slow."""
    return {
        kind: ptx_build.build_program(
            build_folder, "ptx_float32", kind, ptx_text, ptx_build.FLOAT32, parts=4
        )
        for kind in ("address", "thread")
    }


@pytest.mark.sanitizer
def test_no_address_is_wrong(plain: Path, watched: dict[str, Path]) -> None:
    for case in FLOAT32_CASES:
        expected = run(plain, case=case)
        assert expected[0] == 0, expected[1]
        for order, seed in SCHEDULES[:: 1 if ALL else 3]:
            code, said = run(watched["address"], order, seed, case=case)
            assert code == 0, said
            assert each_case(said) == each_case(expected[1]) != []


@pytest.mark.sanitizer
@pytest.mark.parametrize(
    "case", [pytest.param(k, marks=[long] if k in LONG_CASES else []) for k in FLOAT32_CASES]
)
def test_no_case_has_a_race(plain: Path, watched: dict[str, Path], case: int) -> None:
    code, said = run(watched["thread"], case=case)
    assert code == 0, said
    assert each_case(said) == each_case(run(plain, case=case)[1]) != []


def test_dropped_barriers_show_in_results(plain: Path) -> None:
    """Most of them do; the source-level test looks for a race where none of its cases shows it."""
    cases = [case for case in FLOAT32_CASES if case not in LONG_CASES]
    expected = {case: run(plain, case=case)[1] for case in cases}
    sites = sorted({site for said in expected.values() for site in barriers(said)})
    assert len(sites) >= 60

    def shows(site: str) -> bool:
        for order, seed in SCHEDULES:
            for case in cases:
                if site in barriers(expected[case]):
                    code, said = run(plain, order, seed, drop=site, case=case)
                    if code != 0 or each_case(said) != each_case(expected[case]):
                        return True
        return False

    with ThreadPoolExecutor(2) as pool:
        shown = sum(pool.map(shows, sites))
    assert shown >= 0.6 * len(sites)


@pytest.mark.sanitizer
def test_a_dropped_barrier_is_a_race_that_is_named(watched: dict[str, Path]) -> None:
    case = 1  # the keys are stored by other blocks, and the tree is made by one
    sites = barriers(run(watched["thread"], case=case)[1])
    assert len(sites) >= 10
    with ThreadPoolExecutor(2) as pool:
        runs = list(pool.map(lambda site: run(watched["thread"], drop=site, case=case), sites))
    raced = [said for code, said in runs if code == 66 and "data race" in said]
    assert len(raced) >= 0.5 * len(sites)
    assert all(re.search(r"launch\.ptx:\d+", said) for said in raced)


# ---- wrong opcodes ----


SMALL = r"small_cloudIfLNS0_4TermE0E|gradientIffLb0E"  # the entries of the case below
SMALL_CASE = 9


def mutated(text: str, entry: str, before: str, after: str) -> str:
    """The text with one opcode in place of another throughout an entry."""
    found = re.search(rf"\.entry \w*{entry}.*?\n}}\n", text, re.DOTALL)
    assert found
    body = re.sub(rf"\b{re.escape(before)}(?=\s)", after, found[0])
    assert body != found[0]
    return text[: found.start()] + body + text[found.end() :]


@pytest.mark.parametrize(
    ("entry", "before", "after"),
    [
        ("small_cloud", "min.u32", "max.u32"),
        ("small_cloud", "sub.f32", "add.f32"),
        ("small_cloud", "setp.lt.u64", "setp.gt.u64"),
        ("route_gradient", "sub.f32", "add.f32"),
        ("route_gradient", "mul.f32", "min.f32"),
    ],
)
def test_a_wrong_opcode_shows(
    build_folder: Path, ptx_text: str, plain: Path, entry: str, before: str, after: str
) -> None:
    """The kernels run in a program of their own, since a wrong one may touch any memory."""
    names = re.findall(r"\.entry (\w+)", ptx_text)
    (name,) = (name for name in names if entry in name and re.search(SMALL, name))
    expected = each_case(run(plain, case=SMALL_CASE)[1])
    assert expected
    outcomes = []
    for folder, text, timeout in (
        ("unchanged", ptx_text, 300),
        (f"mutant_{before}_{after}".replace(".", "_"), mutated(ptx_text, name, before, after), 20),
    ):
        program = ptx_build.build_program(build_folder, folder, "plain", text, SMALL, parts=2)
        code, said = run(program, case=SMALL_CASE, timeout=timeout)
        outcomes.append(code == 0 and each_case(said) == expected)
    assert outcomes == [True, False]
