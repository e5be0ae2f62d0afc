"""The native module as built: stub, objects and hardening."""

import ast
import os
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from native_build import KERNELS, kernel_source
from python_process import run_python
from torch.utils.dlpack import to_dlpack

import tsloss_fast
from tsloss_fast import _core, _ops_cpu, h0_persistence, h0_persistence_from_distances

ROOT = Path(__file__).resolve().parent.parent
STUB = Path(tsloss_fast.__file__).with_name("_core.pyi")


def arguments_of(body: list[ast.stmt]) -> dict[str, list[str]]:
    """Of the functions in a stub; for a property, none."""
    return {
        node.name: [a.arg for a in node.args.args if a.arg != "self"]
        for node in body
        if isinstance(node, ast.FunctionDef)
    }


def test_the_stub_names_exactly_the_functions_and_arguments_of_the_module() -> None:
    tree = ast.parse(STUB.read_text(encoding="utf-8"))
    functions = {
        name: arguments
        for name, arguments in arguments_of(tree.body).items()
        if _core.has_cuda or not name.startswith("cuda_")
    }
    classes = {node.name: node.body for node in tree.body if isinstance(node, ast.ClassDef)}
    values = {
        node.target.id
        for node in tree.body
        if isinstance(node, ast.AnnAssign)
        if isinstance(node.target, ast.Name)
    }
    public = {name for name in vars(_core) if not name.startswith("_")}
    assert public == functions.keys() | classes.keys() | values
    assert_arguments(_core, functions)
    for name, body in classes.items():
        methods, native = arguments_of(body), getattr(_core, name)
        assert {m for m in vars(native) if not m.startswith("_")} == methods.keys() - {"__init__"}
        assert_arguments(native, methods)


def assert_arguments(native: object, functions: dict[str, list[str]]) -> None:
    for name, arguments in functions.items():
        function = getattr(native, name)
        if isinstance(function, property):
            assert arguments == []
            continue
        signature = (function.__doc__ or "").splitlines()[0]
        assert re.findall(r"(\w+): (?!tsloss_fast)", signature) == arguments, signature


@pytest.mark.skipif(
    not (ROOT / "csrc").is_dir() or not shutil.which("g++") or not shutil.which("nm"),
    reason="needs the source tree, g++ and nm",
)
@pytest.mark.parametrize(
    ("isa", "arch"),
    [
        ("avx2", "x86-64-v3"),
        ("avx512", "x86-64-v4"),
        ("byte_codes", "x86-64-v4"),
        ("baseline", "x86-64"),
    ],
)
def test_kernel_objects_share_no_weak_symbol(tmp_path: Path, isa: str, arch: str) -> None:
    """A template compiled for AVX-512 could become the copy that a processor without it runs."""
    if os.uname().machine != "x86_64":
        pytest.skip("needs x86-64")
    target = tmp_path / "isa.o"
    command = ["g++", "-std=gnu++17", "-O1", "-fopenmp-simd", "-Wno-psabi", f"-march={arch}"]
    command += ["-mavx512vnni"] if isa == "byte_codes" else []
    command += ["-DTSLOSS_X86", "-I", str(ROOT / "csrc"), "-c", "-o", str(target)]
    source = ROOT / "csrc/cpu/kernels/byte_codes.cpp"
    if isa in KERNELS:
        source = kernel_source(isa, tmp_path)
    subprocess.run([*command, str(source)], check=True)
    symbols = subprocess.run(["nm", str(target)], capture_output=True, text=True, check=True).stdout
    defined = re.findall(r"^\w+ (\w) (\S+)$", symbols, re.M)
    assert any((isa if isa in KERNELS else "avx512vnni") in name for _, name in defined), symbols
    assert [s for s in defined if s[0] in "VWu"] == []


@pytest.mark.skipif(
    sys.platform != "linux" or not shutil.which("readelf"), reason="needs Linux and readelf"
)
def test_the_module_is_hardened() -> None:
    """Relocations are read-only after loading, the stack is not executable, and overruns of stack
    arrays are noticed."""
    text = subprocess.run(
        ["readelf", "-lWd", "--dyn-syms", _core.__file__],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert "GNU_RELRO" in text
    assert re.search(r"BIND_NOW|FLAGS.*NOW", text)
    assert re.search(r"GNU_STACK\s+\S+ \S+ \S+ \S+ \S+ RW ", text)
    assert "__stack_chk_fail" in text


def test_import_is_light() -> None:
    code = """
import sys, time, torch
before = set(sys.modules); start = time.process_time()
import tsloss_fast
seconds = time.process_time() - start
new = {m.split('.')[0] for m in set(sys.modules) - before}
heavy = new & {'transformers', 'peft', 'gudhi', 'matplotlib', 'scipy', 'accelerate'}
print(seconds, sorted(heavy))
"""
    results = []
    for _ in range(3):
        done = run_python(code)
        assert done.returncode == 0, done.stderr
        seconds, heavy = done.stdout.split(maxsplit=1)
        assert heavy.strip() == "[]"
        results.append(float(seconds))
    assert min(results) < 0.3


def test_an_unknown_instruction_set_is_one_clear_error_at_first_use() -> None:
    code = """
import torch, tsloss_fast
try:
    tsloss_fast.h0_persistence(torch.zeros(3, 2))
except ValueError as error:
    print(error)
print(tsloss_fast.doctor.report()['instruction set'] if hasattr(tsloss_fast, 'doctor') else '')
"""
    done = run_python(code, TSLOSS_ISA="sse9")
    assert done.returncode == 0, done.stderr
    assert "unknown instruction set 'sse9'" in done.stdout
    assert "baseline" in done.stdout


def test_a_large_cloud_has_the_edges_of_its_matrix_on_a_grid_of_ties() -> None:
    n = 6000
    generator = torch.Generator().manual_seed(0)
    points = torch.randint(0, 12, (n, 5), generator=generator).float()
    large = h0_persistence(points, "sqeuclidean")
    matrix = _ops_cpu.pairwise_keys(points[None])[0]
    dense = h0_persistence_from_distances(matrix)
    assert torch.equal(large.edges, dense.edges)
    assert torch.equal(large.deaths, dense.deaths)


@pytest.mark.usefixtures("core_defaults")
def test_the_gil_is_released_during_a_long_call() -> None:
    """Between two reports of one call another thread runs. A thread in Python keeps the GIL for ten
    seconds here, so the other one gets in because the call has released it."""
    points = torch.randn(4000, 64)
    done = threading.Event()
    ticks = 0
    seen: set[int] = set()  # by the reports of one call

    def call() -> None:
        try:
            for _ in range(100):  # on a busy machine the other thread may come too late
                seen.clear()
                with tsloss_fast.progress(lambda _: seen.add(ticks)):
                    h0_persistence(points)
                if len(seen) > 1:
                    break
        finally:
            done.set()

    _core.set_overrides(poll_milliseconds=0)
    interval = sys.getswitchinterval()
    sys.setswitchinterval(10.0)
    try:
        worker = threading.Thread(target=call)
        worker.start()
        while not done.wait(1e-4):
            ticks += 1
        worker.join()
    finally:
        sys.setswitchinterval(interval)
    assert len(seen) > 1


def native_calls() -> dict[str, tuple[Callable[..., object], dict[str, torch.Tensor]]]:
    """Functions of the native module, and arrays that they take."""
    x, d = torch.randn(2, 5, 3), torch.zeros(2, 5, 5)
    lengths, offsets = torch.tensor([5, 4]), torch.tensor([0, 3, 5])
    deaths, edges = h0_persistence(x)
    rows = torch.zeros(4, 16)
    keys, ends = torch.arange(3, dtype=torch.float64), torch.tensor([[0, 1], [1, 2], [2, 3]])
    places = torch.arange(4, dtype=torch.int32)
    bars = {"deaths": deaths, "edges": edges}
    loss = {"connectivity": 1.0, "redundancy": 1.0, "rho": 0.5}
    loss |= {"metric": 0, "terms": True, "threads": 1}
    fused = _core.fused_loss(points=x, lengths=None, deaths=None, edges=None, **loss)[0]
    filtered = _core.ShardFilter(0, 0, 3, 1.0, False, False, 1)
    return {
        "h0_forward": (
            partial(_core.h0_forward, metric=0, offsets=None, threads=1),
            {"points": x, "lengths": lengths},
        ),
        "h0_forward, ragged": (
            partial(_core.h0_forward, metric=0, lengths=None, threads=1),
            {"points": x[0], "offsets": offsets},
        ),
        "h0_backward": (
            partial(_core.h0_backward, metric=0, offsets=None, threads=1),
            {"grad_deaths": deaths, "points": x, **bars},
        ),
        "h0_from_distances": (
            partial(_core.h0_from_distances, symmetry_tolerance=0.0, threads=1),
            {"distances": d, "lengths": lengths},
        ),
        "fused_loss": (
            partial(_core.fused_loss, **loss, deaths=None, edges=None),
            {"points": x, "lengths": lengths},
        ),
        "fused_loss, of a barcode": (
            partial(_core.fused_loss, **loss, points=x),
            {"lengths": lengths, **bars},
        ),
        "gradient": (
            lambda points, upstream: fused.gradient(points, (None, upstream, None), threads=1),
            {"points": x, "upstream": torch.zeros(())},
        ),
        "single_linkage": (
            _core.single_linkage,
            {"edges": edges, "merges": torch.zeros(2, 4, 3, dtype=torch.int64)},
        ),
        "pairwise_keys": (
            partial(_core.pairwise_keys, metric=0, threads=1),
            {"points": x, "keys": d},
        ),
        "filter_keeps": (
            partial(_core.filter_keeps, factor=1.0),
            {"points": x[0], "kept": torch.zeros(5, 5, dtype=torch.uint8)},
        ),
        "check_lengths": (partial(_core.check_lengths, points=5), {"lengths": lengths}),
        "check_offsets": (partial(_core.check_offsets, rows=5, bars=3), {"offsets": offsets}),
        "spanning_forest": (
            partial(_core.spanning_forest, n=4),
            {"keys": keys, "edges": ends},
        ),
        "exact_keys": (
            partial(_core.exact_keys, metric=0, robust=False),
            {"rows": rows, "a": ends[:, 0].clone(), "b": ends[:, 1].clone(), "keys": keys},
        ),
        "merge_order": (
            _core.merge_order,
            {"edges": ends, "order": places, "rank": places},
        ),
        "keys_in_range": (partial(_core.keys_in_range, dtype=0, metric=0, dim=3), {"keys": keys}),
        "finish_tree": (
            partial(_core.finish_tree, metric=0, robust=False),
            {"keys": keys, "edges": ends, "deaths": deaths[0, :3], "sorted_edges": ends.clone()},
        ),
        "load_shard": (
            partial(_core.load_shard, metric=0, threads=1),
            {
                "points": x[0],
                "rows": torch.zeros(5, 16),
                "ids": torch.zeros(5, dtype=torch.int64),
                "joined": torch.zeros(4, 2, dtype=torch.int64),
            },
        ),
        "set_forest": (filtered.set_forest, {"keys": keys, "edges": ends}),
        "load": (
            partial(filtered.load, slot=0),
            {"rows": rows, "ids": torch.arange(4)},
        ),
    }


# Arguments that the core makes a tensor from, which no capsule can be.
LIKE = {"gradient": {"points"}, "h0_backward": {"points"}}
ANY_LAYOUT = [("h0_backward", "grad_deaths")]


def capsule(value: object) -> object:
    return to_dlpack(value) if isinstance(value, torch.Tensor) else value


@pytest.mark.parametrize("way", ["tensors", "capsules"])
@pytest.mark.parametrize("name", native_calls())
def test_every_array_is_checked_before_its_memory_is_touched(name: str, way: str) -> None:
    """Each argument in turn has a wrong type, shape or layout, has no memory, or is a string."""
    call, arrays = native_calls()[name]

    def called(**changed: object) -> object:
        given = {k: v.clone() for k, v in arrays.items()} | changed
        if way == "tensors":
            return call(**given)
        kept = given.keys() & LIKE.get(name, set())
        return call(**{k: v if k in kept else capsule(v) for k, v in given.items()})

    called()
    for argument, good in arrays.items():
        # Where any batch is taken, a longer one does not fit to the other arguments.
        emptied = good.clone()
        emptied.untyped_storage().resize_(0)
        wrong: list[object] = [good.to(torch.int16), emptied, "no capsule"]
        if good.dim() and (name, argument) not in ANY_LAYOUT:
            wrong.append(torch.stack([good, good], -1)[..., 0])
        if (name, argument) != ("exact_keys", "rows"):  # any block of rows will do
            if good.dim() > 1 and good.shape[-1] != good.shape[-2]:
                wrong.append(good.mT.contiguous())
            if len(arrays) > 1 and good.dim():
                wrong.append(torch.cat([good, good, good]))
        for bad in wrong:
            # Some versions of torch refuse to make a capsule of a tensor without memory.
            errors = (TypeError, ValueError, *(RuntimeError,) * (bad is emptied))
            with pytest.raises(errors, match=rf"^{argument}|expected|out of bounds"):
                called(**{argument: bad})


def test_a_gradient_is_expected_for_each_output_of_the_loss_and_may_be_none() -> None:
    x = torch.randn(5, 3)
    fused = _core.fused_loss(0, x, None, None, None, 1.0, 1.0, 0.5, terms=True, threads=1)[0]
    assert fused.gradient(x, (None, None, None), 1) is None
    for given in ((), (torch.ones(()),), (None,) * 4):
        with pytest.raises(ValueError, match=rf"expected 3 gradients.*got {len(given)}"):
            fused.gradient(x, given, 1)


def test_addresses_come_from_no_other_place() -> None:
    """A tensor reaches the native code itself or as a capsule, which the binding checks, and never
    as a number."""
    package = Path(tsloss_fast.__file__).parent
    named = [p for p in package.rglob("*.py") if ".data_ptr" in p.read_text(encoding="utf-8")]
    assert [p.name for p in named] == []
    if (ROOT / "csrc").is_dir():
        for file in (ROOT / "csrc/bindings").iterdir():
            taken = re.findall(r"reinterpret_cast<([^>]*)>", file.read_text(encoding="utf-8"))
            assert taken == (["void*"] if file.name == "cuda.cpp" else []), file  # the stream


def test_a_version_of_torch_without_a_table_for_other_libraries_gives_the_same_bits() -> None:
    """The core then makes a capsule of each tensor."""
    code = """
import torch
from tsloss_fast import TSLoss, _core, h0_persistence, h0_persistence_from_distances

def results():
    generator = torch.Generator().manual_seed(0)
    points = torch.randn(2, 9, 5, generator=generator, requires_grad=True)
    found = [*h0_persistence(points.detach()), *h0_persistence(points, lengths=[9, 4])]
    found += h0_persistence_from_distances(torch.cdist(points.detach(), points.detach()))
    barcode = h0_persistence(points, lengths=[9, 4])
    terms = TSLoss()(points, [9, 4], return_terms=True, h0=barcode)[1]
    deaths = h0_persistence(points, "manhattan").deaths
    for loss in (TSLoss()(points), terms["redundancy"], deaths.square().sum()):
        found += [loss.detach(), *torch.autograd.grad(loss, points)]
    return found

expected = results()
_core.use_torch(table=None)
print(all(map(torch.equal, results(), expected)), len(expected))
"""
    if not hasattr(torch.Tensor, "__dlpack_c_exchange_api__"):
        pytest.skip("this version of torch has no table, and every test runs without")
    assert run_python(code).stdout.split() == ["True", "12"]


def everyday_inputs() -> dict[str, tuple[object, object]]:
    short = torch.zeros(3, 2)
    short.untyped_storage().resize_(16)
    points = torch.zeros(3, 2)
    return {
        "no tensor": ([[0.0]], "euclidean"),
        "an array": (points.numpy(), "euclidean"),
        "half type": (points.half(), "euclidean"),
        "integers": (points.long(), "euclidean"),
        "one dimension": (points[0], "euclidean"),
        "not contiguous": (points.mT, "euclidean"),
        "a storage too short": (short, "euclidean"),
        "no memory": (torch.zeros(3, 2, device="meta"), "euclidean"),
        "a negative view": (torch._neg_view(points), "euclidean"),
        "not finite": (points.log(), "euclidean"),
        "an overflow": (torch.tensor([[-3e38], [3e38]]), "euclidean"),
        "another metric": (points, "chebyshev"),
        "no name": (points, []),
    }


@pytest.mark.parametrize("kind", everyday_inputs())
def test_the_short_way_leaves_all_that_is_unusual_to_the_general_one(kind: str) -> None:
    assert _core.everyday_h0(*everyday_inputs()[kind]) is None


@pytest.mark.parametrize("metric", ["euclidean", "manhattan"])
def test_the_gradient_of_the_deaths_may_have_any_layout(metric: str) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 3, 9, 4, generator=generator, requires_grad=True)
    deaths = h0_persistence(x, metric).deaths
    wide = torch.randn(2, 4, 3, 24, generator=generator)
    layouts = (
        torch.ones(()).expand(2, 3, 8),
        wide[:, 0, :, :8],
        wide[:, 1, :, ::3],
        wide[:, :3, 0, 0:8],
        wide[0, :3, :2, :8].transpose(0, 1),
        torch.randn(8, 3, 2, generator=generator).permute(2, 1, 0),
        wide[:, 0, :1, 1:2].expand(2, 3, 8),
    )
    for grad in layouts:
        assert not grad.is_contiguous()
        (got,) = torch.autograd.grad(deaths, x, grad, retain_graph=True)
        (expected,) = torch.autograd.grad(deaths, x, grad.contiguous(), retain_graph=True)
        assert torch.equal(got, expected)
        assert got.any()


def test_the_short_way_tells_where_a_gradient_is_asked_for() -> None:
    points = torch.randn(5, 3, requires_grad=True)
    for shaped in (points, points.mT):
        assert _core.everyday_h0(shaped, "euclidean") is True
        assert h0_persistence(shaped).deaths.requires_grad
    assert _core.everyday_h0(points[0], "euclidean") is None
    with pytest.raises(ValueError, match="NaN"):
        h0_persistence(points.log())
    with torch.no_grad():
        assert not _core.everyday_h0(points, "euclidean").deaths.requires_grad


def test_the_short_way_is_left_under_transforms_tracers_and_modes() -> None:
    points = torch.zeros(3, 2)
    seen: list[object] = []

    def look(x: torch.Tensor) -> torch.Tensor:
        seen.append(_core.everyday_h0(points, "euclidean"))
        return x

    torch.func.vmap(look)(points)
    torch.jit.trace(look, (points,), check_trace=False)
    with torch.autograd.forward_ad.dual_level():
        look(points)
    with torch.utils._python_dispatch.TorchDispatchMode():
        look(points)
    with torch.overrides.TorchFunctionMode():
        look(points)
    assert seen == [None] * 5
    look(points)
    assert seen[-1] is not None


def test_the_short_way_has_the_bits_of_the_general_one() -> None:
    generator = torch.Generator().manual_seed(0)
    for shape in [(0, 3), (1, 3), (5, 0), (7, 3), (2, 3, 9, 20), (0, 4, 2), (3, 0, 2)]:
        for dtype in (torch.float32, torch.float64):
            for metric in ("euclidean", "sqeuclidean", "cosine", "manhattan"):
                points = torch.randn(shape, generator=generator, dtype=dtype)
                if metric == "cosine" and shape[-1] == 0:
                    continue
                short = _core.everyday_h0(points, metric)
                general = h0_persistence(points, metric, check_finite=True)
                assert type(short) is type(general)
                for one, other in zip(short, general, strict=True):
                    assert one.dtype == other.dtype
                    assert one.shape == other.shape
                    assert torch.equal(one, other)


def test_numpy_arrays_of_any_layout_are_taken() -> None:
    x = np.random.default_rng(0).normal(size=(9, 4)).astype(np.float32)
    expected = h0_persistence(np.ascontiguousarray(x[::-1])).deaths
    frozen = x[::-1].copy()
    frozen.flags.writeable = False
    for view in (x[::-1], np.asfortranarray(x[::-1]), x[::-1].astype(">f4"), frozen):
        got = h0_persistence(view)
        assert isinstance(got.deaths, np.ndarray)
        np.testing.assert_array_equal(got.deaths, expected)
