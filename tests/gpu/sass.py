"""Read the machine code of CUDA kernels (SASS) as nvdisasm prints it, and find in it what the
kernels must not do and how they spend their instructions.

The text has one section for each kernel, with labels and lines such as
``/*0090*/  @!P0 LDG.E.64 R8, desc[UR6][R10.64] ;``. Subroutines that ptxas adds, for divisions and
square roots, follow their kernel in its section."""

from __future__ import annotations

import importlib.util
import itertools
import re
import shutil
from collections import Counter
from pathlib import Path
from typing import NamedTuple

# Floating-point arithmetic in single and in double precision: sums, products, comparisons, minima
# and maxima. Loads, conversions, addresses, integer keys, moves and branches are overhead.
ARITHMETIC = {"FADD", "FMUL", "FFMA", "FSETP", "FMNMX", "FADD2", "FMUL2", "FFMA2", "FMNMX3"}
ARITHMETIC |= {"DADD", "DMUL", "DFMA", "DSETP"}
# Widths that a load may name. Without one it loads 4 bytes.
BYTES = {"U8": 1, "S8": 1, "U16": 2, "S16": 2, "64": 8, "128": 16, "256": 32}
# The last step of the reciprocal of an integer in a division.
DIVISION = "F2I.FTZ.U32.TRUNC.NTZ"


class Instruction(NamedTuple):
    guard: str  # the predicate under which it is executed, "" for always
    opcode: str
    operands: str

    @property
    def modifiers(self) -> list[str]:
        return self.opcode.split(".")[1:]

    @property
    def name(self) -> str:
        return self.opcode.partition(".")[0]

    def __str__(self) -> str:
        return f"{self.guard} {self.opcode} {self.operands}".strip()


class Kernel:
    """A kernel's instructions, and where its labels stand among them."""

    def __init__(self, symbol: str) -> None:
        self.symbol = symbol
        self.code: list[Instruction] = []
        self.labels: dict[str, int] = {}

    def local_memory(self) -> list[str]:
        """Return the instructions that use local memory: its loads and stores, and those that read
        or move the stack pointer R1, because generic loads can reach the stack through it. A kernel
        without a stack only sets R1, from the constants of the launch."""
        set_only = re.compile(r"R1, (RZ, RZ, )?c\[0x0\]\[0x\w+\]")
        return [
            str(one)
            for one in self.code
            if one.name in {"LDL", "STL"}
            or (re.search(r"\bR1\b", one.operands) and not set_only.fullmatch(one.operands))
        ]

    def flushes(self, inverse_of_normal: bool = False) -> list[str]:
        """Return the instructions that take a subnormal float32 for 0: those with the modifier FTZ,
        and the approximations of the special function unit, which flush without that modifier.

        A division of integers contains one of each kind, but their arguments are never subnormal:
        they are an integer and an estimate of 2^32 divided by it, so both are allowed.
        `inverse_of_normal` allows MUFU.RCP everywhere, for kernels whose source guarantees that
        the argument and the result are normal numbers."""
        found = []
        for at, one in enumerate(self.code):
            if "FTZ" in one.modifiers:
                division = one.opcode == DIVISION and "0xffffffe" in self.writer(at).operands
                if not division:
                    found.append(str(one))
            elif one.name == "MUFU" and not one.opcode.endswith("64H"):
                inverse = one.opcode == "MUFU.RCP"
                of_integer = self.writer(at).name in {"I2F", "UI2F", "I2FP", "UI2FP"}
                if not (inverse and (of_integer or inverse_of_normal)):
                    found.append(str(one))
        return found

    def writer(self, at: int) -> Instruction:
        """Return the last instruction before `at`, in the order of the text, that wrote the last
        operand of the one there."""
        register = self.code[at].operands.rpartition(",")[2].strip(" |-")
        for one in reversed(self.code[:at]):
            if re.match(rf"{register}\b", one.operands):
                return one
        return Instruction("", "", "")

    def incoherent_loads(self) -> list[str]:
        """Return the loads through the read-only cache, which may miss what the same launch has
        written, and the loads of textures, which use the same cache."""
        return [
            str(one)
            for one in self.code
            if one.name.startswith(("LD", "TEX", "TLD"))
            and ({"CONSTANT", "NC"} & set(one.modifiers) or one.name.startswith("T"))
        ]

    def loads(self) -> Counter[int]:
        """Return the number of instructions that load from global memory, by the bytes they load.
        Copies to shared memory count, and so do generic loads, whose address may be in either."""
        return Counter(
            next((BYTES[m] for m in one.modifiers if m in BYTES), 4)
            for one in self.code
            if one.name in {"LDG", "LD", "LDGSTS"}
        )

    def _graph(self) -> dict[int, tuple[range, list[int]]]:
        """Return each basic block that can be reached, by the place of its first instruction, with
        the blocks that may follow it. A call counts as one instruction. The targets of BRA.DIV are
        left out: they are a slow path for warps that have diverged before a shuffle or a vote."""
        ends = {"BRA", "EXIT", "RET"}
        if unknown := [one for one in self.code if one.name in {"BRX", "BRXU", "JMX", "JMXU"}]:
            raise ValueError(f"{self.symbol} has a branch to a computed place: {unknown[0]}")
        starts = {0, *self.labels.values()}
        starts |= {at + 1 for at, one in enumerate(self.code) if one.name in ends}
        bounds = sorted({*starts, len(self.code)})
        stop = dict(itertools.pairwise(bounds))
        graph: dict[int, tuple[range, list[int]]] = {}
        left = [0]
        while left:
            start = left.pop()
            if start in graph:
                continue
            last = self.code[stop[start] - 1]
            follow = []
            if last.name == "BRA" and "DIV" not in last.modifiers:
                follow.append(self.labels[re.findall(r"`\((.*)\)", last.operands)[0]])
            conditional = last.guard or (last.name == "BRA" and not last.operands.startswith("`"))
            if last.name not in ends or conditional:
                follow.append(stop[start])
            graph[start] = range(start, stop[start]), follow
            left += follow
        return graph

    def inner_loops(self) -> list[list[Instruction]]:
        """Return the instructions of each natural loop that contains no other. A loop's header
        dominates a block that branches back to it, which a jump back from cold code does not."""
        graph = self._graph()
        before: dict[int, list[int]] = {start: [] for start in graph}
        for start, (_, follow) in graph.items():
            for to in follow:
                before[to].append(start)
        # The dominators of all blocks are the largest solution of these equations.
        dominators = {start: set(graph) for start in graph}
        dominators[0] = {0}
        changed = True
        while changed:
            changed = False
            for start in sorted(set(graph) - {0}):
                new = {start}.union(set.intersection(*(dominators[b] for b in before[start])))
                changed |= new != dominators[start]
                dominators[start] = new
        loops: dict[int, set[int]] = {}
        for start, (_, follow) in graph.items():
            for header in set(follow) & dominators[start]:
                body, left = loops.setdefault(header, {header}), [start]
                while left:
                    block = left.pop()
                    if block not in body:
                        body.add(block)
                        left += before[block]
        return [
            [self.code[at] for block in sorted(body) for at in graph[block][0]]
            for header, body in loops.items()
            if not body & (set(loops) - {header})
        ]

    def hottest_loop(self) -> tuple[int, int]:
        """Return two numbers of instructions of the inner loop with most arithmetic: those that are
        arithmetic, and all."""
        counts = [
            (sum(one.name in ARITHMETIC for one in loop), len(loop)) for loop in self.inner_loops()
        ]
        return max(counts, default=(0, 0))


def read(text: str) -> list[Kernel]:
    """Return the kernels of a listing."""
    kernels: list[Kernel] = []
    for line in text.splitlines():
        if section := re.match(r"\.text\.(\w+):", line):
            kernels.append(Kernel(section[1]))
        elif label := re.match(r"(\.L\w+):", line):
            kernels[-1].labels[label[1]] = len(kernels[-1].code)
        elif said := re.match(r"\s+/\*[0-9a-f]+\*/\s+(?:(@!?U?P\w+)\s+)?(\S+)\s*(.*?)\s*;", line):
            kernels[-1].code.append(Instruction(said[1] or "", said[2], said[3]))
    return kernels


def disassembler() -> str | None:
    """Return nvdisasm: from PATH, from beside nvcc, or from the package nvidia-cuda-nvdisasm."""
    folders = []
    if nvcc := shutil.which("nvcc"):
        folders.append(Path(nvcc).resolve().parent)
    if package := importlib.util.find_spec("nvidia"):
        folders += [Path(p) / "cu13/bin" for p in package.submodule_search_locations or []]
    found = (shutil.which("nvdisasm", path=str(folder)) for folder in folders)
    return shutil.which("nvdisasm") or next(filter(None, found), None)
