"""The core under many callers: threads, forks in the middle of calls, workers of data loaders; and
what a hundred thousand calls leave behind."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import sysconfig
import threading
from collections.abc import Callable

import pytest
import torch
from python_process import run_python

import tsloss_fast
from tsloss_fast import (
    TSLoss,
    h0_persistence,
    h0_persistence_from_distances,
    h0_persistence_varlen,
    progress,
)

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")

SEED = torch.Generator().manual_seed(0)
LONG = torch.randn(5000, 96, generator=SEED)
SMALL = torch.randn(60, 8, generator=SEED)


def bits(points: torch.Tensor, metric: str = "euclidean") -> bytes:
    got = h0_persistence(points, metric)
    return got.deaths.numpy().tobytes() + got.edges.numpy().tobytes()


def what_it_says(child: int, read: int, write: int, seconds: float = 60) -> bytes:
    """All that a child writes until it ends; a child that hangs is killed, and is a failure."""
    os.close(write)
    got: list[bytes] = []
    reader = threading.Thread(target=lambda: got.append(os.fdopen(read, "rb").read()))
    reader.start()
    reader.join(seconds)
    if reader.is_alive():
        os.kill(child, 9)
        reader.join()
    _, status = os.waitpid(child, 0)
    assert status == 0, f"the child ended with status {status}: it hung or crashed"
    return got[0]


def in_child(work: Callable[[], bytes]) -> bytes:
    """What `work` returns in a forked child, or "raised: ..."."""
    read, write = os.pipe()
    child = os.fork()
    if child:
        return what_it_says(child, read, write)
    try:
        answer = work()
    except BaseException as error:
        answer = f"raised: {type(error).__name__}: {error}".encode()
    os.write(write, answer)
    os._exit(0)


@pytest.mark.parametrize("metric", ["euclidean", "manhattan"])
def test_a_fork_in_the_middle_of_another_threads_call_leaves_both_processes_whole(
    metric: str,
) -> None:
    expected_long, expected_small = bits(LONG, metric), bits(SMALL, metric)
    calls: list[bytes] = []
    inside = threading.Event()

    def call() -> None:
        with progress(lambda fraction: inside.set()):
            for _ in range(3):
                calls.append(bits(LONG, metric))

    tsloss_fast._core.set_overrides(poll_milliseconds=0)
    worker = threading.Thread(target=call)
    try:
        worker.start()
        assert inside.wait(60)
        forked_within = 0
        for _ in range(4):
            forked_within += worker.is_alive()
            assert in_child(lambda: bits(SMALL, metric) + bits(LONG, metric)) == (
                expected_small + expected_long
            )
    finally:
        worker.join()
        tsloss_fast._core.set_overrides()
    assert forked_within > 0
    assert calls == [expected_long] * 3


@pytest.mark.parametrize("threads", [1, 2, 4])
def test_a_fork_within_the_call_itself_ends_it_in_the_child_and_not_in_the_parent(
    threads: int,
) -> None:
    """With one thread the child has all it needs and finishes; with more it says what lacks."""
    expected, small = bits(LONG, "manhattan"), bits(SMALL)
    parent = os.getpid()
    answers: list[bytes] = []

    def fork(fraction: float) -> None:
        if fraction > 0.2 and os.getpid() == parent and not answers:
            answers.append(b"")
            read, write = os.pipe()
            child = os.fork()
            if child == 0:
                children.append(write)
                return
            answers[0] = what_it_says(child, read, write)

    children: list[int] = []
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    tsloss_fast._core.set_overrides(poll_milliseconds=0)
    try:
        with progress(fork):
            got = bits(LONG, "manhattan")
        answer = b"finished" if got == expected else b"wrong"
    except RuntimeError as error:
        answer = str(error).encode()
    finally:
        torch.set_num_threads(before)
        tsloss_fast._core.set_overrides()
        if children:  # this is the child; the pool that it has now must work too
            answer += b", then right" if bits(SMALL) == small else b", then wrong"
            os.write(children[0], answer)
            os._exit(0)
    assert answer == b"finished"
    if threads == 1:
        assert answers == [b"finished, then right"]
    else:
        assert answers[0].startswith(b"the process was forked within this call")
        assert answers[0].endswith(b", then right")


class Barcodes(torch.utils.data.Dataset[torch.Tensor]):
    """Points are sent to the workers as they are, or made there."""

    def __len__(self) -> int:
        return 8

    def __getitem__(self, index: int) -> torch.Tensor:
        points = torch.randn(200, 16, generator=torch.Generator().manual_seed(index))
        leaf = points.requires_grad_()
        loss = TSLoss()(leaf)
        loss.backward()  # type: ignore[no-untyped-call]
        assert leaf.grad is not None
        return torch.cat([h0_persistence(points).deaths.detach(), leaf.grad.flatten()])


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_workers_of_a_data_loader_compute_what_the_process_itself_does(method: str) -> None:
    h0_persistence(LONG)  # the pool has threads now, which a fork does not have
    loader = torch.utils.data.DataLoader(
        Barcodes(), num_workers=2, multiprocessing_context=method, batch_size=None
    )
    rows = list(loader)
    assert len(rows) == len(Barcodes())
    for index, row in enumerate(rows):
        assert torch.equal(row, Barcodes()[index])


def test_calls_of_all_kinds_from_many_threads_do_not_meet() -> None:
    """Different sizes, metrics and functions at once, each against what it gives alone."""
    generator = torch.Generator().manual_seed(1)
    clouds = [torch.randn(n, d, generator=generator) for n, d in [(3, 2), (90, 20), (700, 33)]]
    batch = torch.randn(4, 60, 8, generator=generator)
    matrix = torch.cdist(clouds[1], clouds[1]).fill_diagonal_(0)
    ragged = torch.randn(100, 4, generator=generator)
    offsets = torch.tensor([0, 7, 7, 60, 100])

    def gradient(points: torch.Tensor) -> torch.Tensor:
        leaf = points.clone().requires_grad_()
        TSLoss()(leaf).backward()  # type: ignore[no-untyped-call]
        assert leaf.grad is not None
        return leaf.grad

    jobs: list[Callable[[], torch.Tensor]] = [
        *(lambda x=x, m=m: h0_persistence(x, m).edges  # type: ignore[misc]
          for x in clouds for m in ("euclidean", "cosine", "manhattan", "sqeuclidean")),
        lambda: h0_persistence(batch, lengths=torch.tensor([0, 1, 60, 30])).deaths,
        lambda: h0_persistence_from_distances(matrix).deaths,
        lambda: h0_persistence_varlen(ragged, offsets).deaths,
        *(lambda x=x: gradient(x) for x in [*clouds, batch]),  # type: ignore[misc]
    ]  # fmt: skip
    expected = [job() for job in jobs]
    wrong: list[str] = []

    def work(first: int) -> None:
        for turn in range(3 * len(jobs)):
            index = (first + turn) % len(jobs)
            try:
                if not torch.equal(jobs[index](), expected[index]):
                    wrong.append(f"job {index} gave other bits")
            except Exception as error:
                wrong.append(f"job {index}: {error!r}")

    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        workers = [threading.Thread(target=work, args=(first,)) for first in range(12)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
    finally:
        sys.setswitchinterval(before)
    assert wrong == []


WRITTEN_TO = '''
import sys, threading
import numpy as np, torch
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components
from torch.utils.dlpack import to_dlpack
from tsloss_fast import _core, h0_persistence, h0_persistence_from_distances

def while_written(write, call, times):
    """Calls while another thread writes to what is read."""
    done = threading.Event()
    def run():
        while not done.is_set():
            write()
    writer = threading.Thread(target=run)
    writer.start()
    try:
        for _ in range(times):
            try:
                call()
            except (ValueError, IndexError):  # what was found wrong meanwhile
                pass
    finally:
        done.set()
        writer.join()

def check(h0, n):
    i, j = h0.edges.numpy().T
    assert (0 <= i).all() and (i < j).all() and (j < n).all(), h0.edges
    assert connected_components(coo_matrix((np.ones(n - 1), (i, j)), (n, n)))[0] == 1

torch.set_num_threads(2)
torch.manual_seed(0)
'''

POINTS = """
writes = [
    lambda: x.normal_(),
    lambda: x.add_(torch.randn_like(x), alpha=0.01),
    lambda: (x.round_(), x.normal_(0, 3)),
    lambda: (x.fill_(float("nan")), x.normal_()),
]
for path, n, d, metric, dtype in [
    (3, 300, 64, "euclidean", torch.float32), (3, 300, 128, "sqeuclidean", torch.float64),
    (3, 400, 20, "euclidean", torch.float32), (3, 300, 16, "manhattan", torch.float64),
    (3, 300, 64, "cosine", torch.float32), (0, 80, 64, "euclidean", torch.float32),
    (0, 150, 128, "euclidean", torch.float64),
]:
    _core.set_overrides(path=path)
    x = torch.randn(n, d, dtype=dtype)
    for write in writes:
        while_written(write, lambda: check(h0_persistence(x, metric, check_finite=False), n), 8)
"""

MATRICES = """
for n in (90, 300):
    x = torch.ones(n, n).fill_diagonal_(0)
    for write in (
        lambda: (x[1].neg_(), x[1].neg_()),
        lambda: (x[:, 1:].fill_(float("nan")), x.fill_(1).fill_diagonal_(0)),
        lambda: (x.uniform_(), x.fill_(1).fill_diagonal_(0)),
    ):
        while_written(
            write, lambda: check(h0_persistence_from_distances(x, check_finite=False), n), 40)
"""

EDGES = """
x = torch.randn(3000, 4, requires_grad=True)
for metric in ("euclidean", "cosine"):
    h0 = h0_persistence(x, metric)
    right = h0.edges.clone()
    edges = torch.from_numpy(h0.edges.detach().numpy())
    def write():
        edges.fill_(0)
        edges.copy_(right)
        edges[1000:].fill_(2**40)
        edges.copy_(right)
    while_written(
        write, lambda: torch.autograd.grad(h0.deaths.sum(), x, retain_graph=True), 30)
    merges = torch.empty(2999, 3, dtype=torch.int64)
    while_written(
        write, lambda: _core.single_linkage(to_dlpack(edges), to_dlpack(merges)), 30)
"""

LENGTHS = """
x, lengths = torch.randn(2000, 9, 3), torch.full((2000,), 9)
d = torch.zeros(2000, 9, 9)
def write():
    lengths.fill_(2**40)
    lengths.fill_(9)
while_written(write, lambda: h0_persistence(x, lengths=lengths), 60)
while_written(write, lambda: h0_persistence_from_distances(d, lengths=lengths), 60)
"""


def test_numbers_that_another_thread_writes_meanwhile_are_no_way_out_of_memory() -> None:
    """Training without locks: values may be any, but the edges are a tree of the points."""
    done = run_python(WRITTEN_TO + POINTS + MATRICES + EDGES + LENGTHS)
    assert done.returncode == 0, f"{done.returncode}: {done.stderr[-2000:]}"


def test_all_threads_flush_subnormal_numbers_if_and_only_if_their_caller_does(
    threads: None,
) -> None:
    torch.set_num_threads(2)
    bits(torch.randn(64, 200, 64))  # the threads are there now
    points = torch.randn(300, 40, 8, dtype=torch.float64, generator=SEED) * 1e-310
    for flush in (True, False, True):
        if not torch.set_flush_denormal(flush):
            pytest.skip("this processor cannot flush subnormal numbers")
        try:
            torch.set_num_threads(2)
            together = bits(points)
            torch.set_num_threads(1)
            assert bits(points) == together
        finally:
            torch.set_flush_denormal(False)


def test_the_module_says_that_it_does_not_need_the_gil() -> None:
    """On a free-threaded interpreter its import must not turn the GIL on again."""
    if not sysconfig.get_config_var("Py_GIL_DISABLED"):
        pytest.skip("needs a free-threaded interpreter")
    code = "import sys, tsloss_fast; print(sys._is_gil_enabled())"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True
    )
    assert done.stdout.strip() == "False"
    assert done.stderr == ""


def resident_bytes() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def one_of_each(points: torch.Tensor, matrix: torch.Tensor, offsets: torch.Tensor) -> None:
    """Ten calls: forward, backward, matrices, ragged, losses, and errors on the way."""
    leaf = points.clone().requires_grad_()
    h0_persistence(leaf).deaths.sum().backward()  # type: ignore[no-untyped-call]
    TSLoss()(leaf).backward()  # type: ignore[no-untyped-call]
    h0_persistence(points, "cosine")
    h0_persistence_from_distances(matrix)
    h0_persistence_varlen(points, offsets)
    for bad in (points * float("nan"), points[0], points.to(torch.int64)):
        try:
            h0_persistence(bad)
        except (TypeError, ValueError):
            continue


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_a_hundred_thousand_calls_leave_the_resident_set_as_it_was() -> None:
    points = torch.randn(9, 3, generator=torch.Generator().manual_seed(2))
    matrix = torch.cdist(points, points).fill_diagonal_(0)
    offsets = torch.tensor([0, 4, 9])
    for _ in range(500):
        one_of_each(points, matrix, offsets)
    gc.collect()
    before = resident_bytes()
    for _ in range(10_000):
        one_of_each(points, matrix, offsets)
    gc.collect()
    grown = resident_bytes() - before
    # 10 bytes a call would be a megabyte; the allocator's own pools move by less.
    assert grown < 1 << 20, f"{grown} bytes more after 100000 calls"


def test_a_large_call_gives_its_memory_back() -> None:
    """Scratch memory of a call is not kept: no growth with the number of large calls."""
    if not sys.platform.startswith("linux"):
        pytest.skip("needs /proc")
    h0_persistence(LONG)
    gc.collect()
    before = resident_bytes()
    for _ in range(10):
        h0_persistence(LONG)
        h0_persistence(LONG[:1500], "manhattan")
    gc.collect()
    assert resident_bytes() - before < 4 << 20
