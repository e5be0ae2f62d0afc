"""The map of small clouds: rehearsed with kernels that fail, and with the CPU as the device."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from cuda_host import build_library
from native_builds import HAVE_SOURCES
from seeded_faults import CUDA_ERROR, FAULTS, KILLED, LIBRARY, WRONG_EDGE, WRONG_GRADIENT
from tsloss_fast.benchmarks import gpu_small
from tsloss_fast.benchmarks.gpu_small import ALL_PATHS, CASES, LARGE, Bars, main

# Cases that the host executor does within seconds, of every path but that of the largest cloud.
REHEARSED = [
    name
    for name, case in CASES.items()
    if case.shape != LARGE
    and (case.kind in ("float32 euclidean", "float32 matrix") or name in FAULTS)
]


@pytest.fixture(scope="module")
def rehearsed(build_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[int, str]:
    """Status and map of a run over kernels with faults."""
    if not HAVE_SOURCES:
        pytest.skip("needs the source tree and g++")
    output = tmp_path_factory.mktemp("small") / "small.md"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(LIBRARY, str(build_library(build_folder)))
        patch.setattr(gpu_small, "CASES", {name: CASES[name] for name in REHEARSED})
        status = main(["--output", str(output)], entry=("seeded_faults", "worker"))
    return status, output.read_text(encoding="utf-8")


def cells(text: str) -> dict[tuple[str, str], str]:
    """The cells of a map, by the kind of case and the path."""
    lines = [line.strip("|").split("|") for line in text.splitlines() if line.startswith("|")]
    paths, _, *rows = ([cell.strip() for cell in line] for line in lines)
    return {
        (row[0], path): cell for row in rows for path, cell in zip(paths[1:], row[1:], strict=True)
    }


def cell(found: dict[tuple[str, str], str], name: str) -> str:
    case = CASES[name]
    (text,) = (v for (kind, path), v in found.items()
               if kind == case.kind and path.endswith(ALL_PATHS[case.shape]))  # fmt: skip
    return text


def detail(text: str, name: str) -> str:
    (line,) = (line for line in text.splitlines() if line.startswith(f"- {name} "))
    return line


def test_the_map_names_each_broken_kernel_and_how_it_is_broken(rehearsed: tuple[int, str]) -> None:
    status, text = rehearsed
    assert status == 1
    found = cells(text)
    assert cell(found, WRONG_EDGE) == "BARS"
    assert cell(found, WRONG_GRADIENT) == "GRADIENT"
    assert cell(found, CUDA_ERROR) == cell(found, KILLED) == "ERROR"


def test_a_wrong_bar_is_shown_with_both_edges_and_both_lengths(rehearsed: tuple[int, str]) -> None:
    wanted = gpu_small.compute(CASES[WRONG_EDGE], "cpu")
    edge, length = tuple(wanted.edges[1, 7].tolist()), wanted.deaths[1, 7].item()
    assert edge != (3, 5)
    assert detail(rehearsed[1], WRONG_EDGE) == (
        f"- {WRONG_EDGE} (slices): BARS: 1 of 2 clouds differ, first cloud 1 in bar 7: edge (3, 5) "
        f"of length {length!r}, where the CPU core has edge {edge} of length {length!r}"
    )


def test_a_wrong_gradient_is_shown_with_both_numbers(rehearsed: tuple[int, str]) -> None:
    wanted = gpu_small.compute(CASES[WRONG_GRADIENT], "cpu").gradient[1, 40, 2].item()
    line = detail(rehearsed[1], WRONG_GRADIENT)
    assert "(stored keys in shared memory): GRADIENT: 1 of 2 clouds differ" in line
    assert (
        f"cloud 1 at (40, 2): {wanted + 0.5!r}, where the CPU core has {wanted!r}; off by 0.5"
        in line
    )


def test_a_process_that_breaks_is_named_with_its_error(rehearsed: tuple[int, str]) -> None:
    line = detail(rehearsed[1], CUDA_ERROR)
    assert "ERROR: its process ended with status 1: RuntimeError: launching kernel" in line
    assert line.endswith("cudaErrorIllegalAddress")
    assert detail(rehearsed[1], KILLED).endswith("ERROR: its process was ended by signal SIGKILL")


def test_all_other_cases_still_run_and_pass(rehearsed: tuple[int, str]) -> None:
    found = cells(rehearsed[1])
    others = [name for name in REHEARSED if name not in FAULTS]
    assert len(others) == 9
    assert {cell(found, name) for name in others} == {"ok"}
    failed = [text for text in found.values() if text in ("BARS", "GRADIENT", "ERROR")]
    assert len(failed) == len(FAULTS)


def test_the_cases_hold_every_type_and_metric_on_every_path() -> None:
    kinds = {(c.dtype, c.metric, c.shape) for c in CASES.values()}
    for dtype in (torch.float16, torch.bfloat16, torch.float32, torch.float64):
        for metric in ("euclidean", "sqeuclidean", "cosine", "manhattan"):
            for shape in gpu_small.PATHS:
                assert (dtype, metric, shape) in kinds
    assert len(kinds) == len(CASES) == 4 * 4 * len(gpu_small.PATHS) + 5
    assert {shape for _, _, shape in kinds} == set(ALL_PATHS)


def test_one_case_runs_alone_by_name_or_number(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(CASES)
    number, name = lines[3].split(":")[0].split(" ")
    for given in (number, name):
        assert main(["--device", "cpu", "--case", given]) == 0
        printed = capsys.readouterr().out
        assert printed.startswith(f"{name}: ok\n")
        assert "1 of 1 cases give what the CPU core gives" in printed


@pytest.mark.parametrize("case", ["float32-euclidean", "133", "-1"])
def test_a_case_that_is_none_is_refused(case: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["--device", "cpu", f"--case={case}"])
    assert f"{case}: no such case; --list names them" in capsys.readouterr().err


def test_without_time_every_case_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--device", "cpu", "--one-process", "--seconds", "0"]) == 3
    printed = capsys.readouterr().out
    (line,) = (
        line for line in printed.splitlines() if line.startswith("NOT RUN: no time was left")
    )
    assert line.partition(": ")[2].partition(": ")[2].split() == list(CASES)
    assert set(cells(printed).values()) == {"NOT RUN", ""}
    assert f"0 of {len(CASES)} cases" in printed


def test_a_nan_in_a_death_or_a_gradient_is_a_difference() -> None:
    wanted = gpu_small.compute(CASES["float32-euclidean-2x20x600"], "cpu")
    assert gpu_small.difference(wanted, wanted) == ""
    for k, word in ((0, "BARS"), (2, "GRADIENT")):
        broken: list[Any] = [t.clone() for t in wanted]
        broken[k].view(-1)[-1] = torch.nan
        assert gpu_small.difference(Bars(*broken), wanted).startswith(word)
