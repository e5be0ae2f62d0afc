"""benchmarks/gpu_check.sh on a machine of stubs: what its report says of whatever may happen."""

from __future__ import annotations

import json
import re
import subprocess
import tarfile
from pathlib import Path

import pytest
from fake_machine import SCRIPT, STEPS, Machine, facts, needs_script
from source_tree import ROOT
from tsloss_fast.benchmarks import gpu_check


def test_where_everything_passes_the_report_says_so(fake: Machine) -> None:
    assert fake.check() == 0, fake.errors
    assert fake.errors == ""
    assert fake.report == fake.printed
    assert "Everything ran and passed." in fake.report
    assert "- device: H100 (sm_90)" in fake.report
    assert "- nvcc: release 13.0, V13" in fake.report
    assert fake.report.index("| a map |") < fake.report.index("| a table |")
    assert fake.results == dict.fromkeys(STEPS, "passed")
    for step in STEPS:
        assert f"- {step}: passed (" in fake.report
        assert fake.log(step).endswith("\n")
    assert "- tests: passed (0 s). 150 passed\n" in fake.report
    assert "- packages: numpy 2.5, scikit-build-core 1.1, pybind11 3.1, gudhi none\n" in fake.report
    record = json.loads((fake.out / "report.json").read_text(encoding="utf-8"))
    assert record["status"] == 0


def test_everything_is_in_one_archive_beside_three_files_to_read(fake: Machine) -> None:
    write = 'for k in 1 2 3; do echo $k >"${output%/*}/kernels$k.md"; done; cp=1; echo x >"$output"'
    fake.check(STUB_MEASURE=write)
    names = {path.name for path in fake.out.iterdir()}
    assert names == {"report.md", "report.json", "gpu.md", "logs.tgz"}
    with tarfile.open(fake.out / "logs.tgz") as archive:
        packed = set(archive.getnames())
    assert {f"logs/{step}.log" for step in STEPS} < packed
    assert {"logs/small.md", "logs/gpu.md", "logs/kernels3.md"} < packed
    assert (fake.out / "gpu.md").read_text(encoding="utf-8") == "x\n"


def test_no_source_tree_hides_what_was_built(fake: Machine) -> None:
    fake.check(STUB_SMALL="pwd; echo $PYTHONPATH")
    folder, path = fake.log("small_clouds").splitlines()
    assert path == f"{folder}/site:/a path"
    assert not Path(folder).is_relative_to(ROOT)
    assert not Path(folder).exists()
    for word in ("-m pytest", "gpu_small", "benchmarks.gpu "):
        assert all(call.startswith("-S ") for call in fake.calls(word))


def test_small_clouds_come_first_and_nccl_alone_and_last(fake: Machine) -> None:
    fake.check()
    assert list(fake.results) == list(STEPS)
    in_order = [fake.report.index(f"- {step}: ") for step in STEPS]
    assert in_order == sorted(in_order)
    tests, nccl = fake.calls("-m pytest")
    assert "test_cuda_hardware.py" in tests
    assert "nccl" not in tests
    assert nccl.endswith("/tests/distributed/test_over_nccl.py")
    assert nccl.count("/test_") == 1


def test_named_steps_run_alone_after_the_build(fake: Machine) -> None:
    chosen = {
        "GPU_CHECK_TESTS": "../work/tests/gpu/test_a.py::test_x[2-y] tests/test_b.py",
        "GPU_CHECK_ROWS": "1x100x4096 '(1, 20, 2048)'",
        "GPU_CHECK_CASES": "3 float32-matrix-2x70x70",
    }
    named = ("nccl", "ncu=70", "tests", "measure=5.5", "memcheck")
    assert fake.check(str(fake.out), *named, **chosen) == 0, fake.report
    assert list(fake.results) == ["build", "tests", "measure", "memcheck", "ncu", "nccl"]
    assert (fake.out / "prof.ncu-rep").read_text(encoding="utf-8") == "a profile\n"
    assert fake.calls("-m pytest")[0].endswith(
        f" {ROOT}/tests/gpu/test_a.py::test_x[2-y] {ROOT}/tests/test_b.py"
    )
    assert fake.calls("benchmarks.gpu ")[0].endswith("/gpu.md 1x100x4096 (1, 20, 2048)")
    assert fake.calls("gpu.prof")[0].endswith(" 1x100x4096 (1, 20, 2048)")
    sanitized = (fake.folder / "sanitized").read_text(encoding="utf-8")
    assert sanitized.endswith(" --one-process --case 3 --case float32-matrix-2x70x70\n")


def test_the_build_is_for_the_devices_and_fetches_nothing(fake: Machine) -> None:
    show = "echo $CMAKE_ARGS $TSLOSS_CUDA $TSLOSS_WERROR; test $CMAKE_BUILD_PARALLEL_LEVEL -gt 0"
    fake.check(STUB_BUILD=show, STUB_FACTS=facts(architectures=["80", "90"]))
    flags = "-DCMAKE_CUDA_ARCHITECTURES=80;90 -DCMAKE_CUDA_FLAGS=-lineinfo"
    assert fake.log("build") == f"{flags} ON OFF\n"
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
    assert fake.log("build").startswith("-DCMAKE_CUDA_ARCHITECTURES=80;90 ")


def test_the_sanitizers_look_at_our_kernels_alone(fake: Machine) -> None:
    fake.check()
    lines = (fake.folder / "sanitized").read_text(encoding="utf-8").splitlines()
    assert len(lines) == 4
    for line, tool in zip(lines, STEPS[5:9], strict=True):
        assert line.startswith("caching off: 1; --error-exitcode 9 ")
        assert f"--kernel-name kns=tsloss --tool {tool} " in line
        assert "-S -m tsloss_fast.benchmarks.gpu_small --seconds " in line
        assert line.endswith(" --one-process")
    symbols = (ROOT / "csrc/cuda/launch.h").read_text(encoding="utf-8")
    assert "namespace tsloss" in symbols


@pytest.mark.parametrize(
    "arguments",
    [("a", "b"), ("a", "build"), ("a", "ncu=0"), ("a", "ncu=x"), ("--help",), ("",), ("file/out",)],
)
def test_wrong_usage_has_the_exit_code_2(fake: Machine, arguments: tuple[str, ...]) -> None:
    (fake.folder / "file").write_text("", encoding="utf-8")
    assert fake.check(*arguments) == 2
    assert fake.errors
    assert fake.printed == ""
    assert len(fake.calls("")) == 1  # of the script itself


@needs_script
def test_no_arguments_are_wrong_usage_too() -> None:
    done = subprocess.run(["bash", str(SCRIPT)], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr == "usage: benchmarks/gpu_check.sh OUT_DIR [STEP[=SHARE] ...]\n"


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
    for name in ("nvcc", "compute-sanitizer", "ncu"):
        (fake.bin / name).rename(toolkit / name)
    assert fake.check() == 0


def test_without_torch_nothing_runs_and_everything_is_named(fake: Machine) -> None:
    (fake.folder / "torch.py").write_text("raise ImportError('no libcudart')", encoding="utf-8")
    ask = 'PYTHONPATH="$STUB" exec "$STUB_REAL" -'
    assert fake.check(STUB_FACTS=ask) == 3
    assert "- torch: none: ImportError: no libcudart" in fake.report
    assert "stub python has no torch\n" in fake.report
    assert fake.results == dict.fromkeys(STEPS, "not run")
    assert fake.check(STUB_FACTS="echo Illegal instruction >&2; exit 132") == 3
    assert "- torch: none: Illegal instruction" in fake.report
    assert fake.check(PYTHON="no-such-python") == 2
    assert fake.errors.startswith("gpu_check.sh: no-such-python was not found; set PYTHON")


def test_a_build_that_lacks_a_package_says_which(fake: Machine) -> None:
    packages = {"numpy": "2.5", "scikit-build-core": None, "pybind11": None}
    assert fake.check(STUB_FACTS=facts(packages=packages)) == 3
    assert "stub python has no scikit-build-core and no pybind11\n" in fake.report
    assert not fake.calls("pip")


def test_a_build_that_fails_shows_the_end_of_its_log(fake: Machine) -> None:
    build = "for k in {1..40}; do echo line $k; done; echo error: no such kernel >&2; exit 7"
    assert fake.check(STUB_BUILD=build) == 1
    assert "- build: FAILED with exit status 7" in fake.report
    assert "line 40\nerror: no such kernel\n```" in fake.report
    assert "line 10\n" not in fake.report
    assert fake.log("build").startswith("line 1\n")
    assert fake.results == {"build": "failed"} | dict.fromkeys(STEPS[1:], "not run")
    assert "A step failed." in fake.report


@pytest.mark.parametrize(
    ("variable", "step"),
    [
        ("STUB_DOCTOR", "doctor"),
        ("STUB_TESTS", "tests"),
        ("STUB_SMALL", "small_clouds"),
        ("STUB_MEASURE", "measure"),
        ("STUB_NCCL", "nccl"),
    ],
)
def test_a_step_that_fails_takes_no_other_along(fake: Machine, variable: str, step: str) -> None:
    assert fake.check(**{variable: "echo went wrong; kill -9 $$"}) == 1
    assert f"- {step}: FAILED with exit status -9 after" in fake.report
    assert fake.results == dict.fromkeys(STEPS, "passed") | {step: "failed"}
    assert "went wrong" in fake.report


def test_without_a_device_it_rehearses(fake: Machine) -> None:
    assert fake.check(STUB_FACTS=facts(devices=[], architectures=[])) == 3
    assert "- device: none that torch sees" in fake.report
    for step in STEPS[2:]:
        assert f"- {step}: NOT RUN: torch sees no CUDA device" in fake.report
    rehearsals = ("rehearse_small", "rehearse", "rehearse_prof")
    assert [fake.results[name] for name in rehearsals] == ["passed"] * 3
    assert not (fake.out / "gpu.md").exists()
    assert fake.calls("benchmarks.gpu ")[0].endswith("rehearsal.md --rehearse")
    assert fake.calls("benchmarks.gpu_small")[0].endswith(" --device cpu")
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
    assert fake.check(STUB_TESTS=collect, STUB_NCCL=collect) == 0, fake.report
    collected = fake.log("tests")
    assert "test_the_tree_is_that_of_the_cpu[gaussian-cosine]" in fake.log("nccl")
    for name in ("test_graphs_replay", "test_random_clouds", "test_streams", "[cuda-"):
        assert name in collected
    assert "[host-" not in collected
    assert "Unknown" not in collected  # the marks are those of pyproject.toml


@pytest.mark.skipif(not SCRIPT.exists(), reason="needs the source tree")
def test_every_file_with_tests_for_a_device_is_run() -> None:
    marked = {
        str(path.relative_to(ROOT))
        for path in (ROOT / "tests").rglob("test_*.py")
        if re.search(r"mark[.]gpu", path.read_text("utf-8"))
    }
    assert marked == {*gpu_check.TESTS, "tests/distributed/test_over_nccl.py"}
