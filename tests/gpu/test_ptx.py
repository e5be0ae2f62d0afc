"""Small kernels in PTX, run on the host executor: results are those of the PTX ISA, and an opcode
that the translator does not know is an error that names it."""

from __future__ import annotations

import ctypes
import math
import struct
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import ptx
import ptx_build
import pytest
from native_builds import HAVE_SOURCES, build
from ptx_opcodes import OPCODES
from source_tree import ROOT

needs_compiler = pytest.mark.skipif(not HAVE_SOURCES, reason="needs the source tree and g++")


def f(x: float) -> int:
    return struct.unpack("<I", struct.pack("<f", x))[0]


def d(x: float) -> int:
    return struct.unpack("<Q", struct.pack("<d", x))[0]


NAN32, NAN64 = 0x7FFFFFFF, d(math.nan)
INF, TINY = math.inf, 2.0**-149


class Case(NamedTuple):
    """An instruction on bits: its result, then what it takes, have these types."""

    opcode: str
    types: str
    given: tuple[int, ...]
    result: int


# Numbers of floating point are their bits; a negative integer stands for its two's complement.
CASES = [
    Case(opcode, types, tuple(row[:-1]), row[-1])
    for opcode, types, rows in [
        ("add.s32", "u32 u32 u32", [(2**31 - 1, 1, 2**31), (2**32 - 1, 1, 0)]),
        ("sub.s64", "u64 u64 u64", [(0, 1, 2**64 - 1)]),
        ("add.s16", "u16 u16 u16", [(2**16 - 1, 2, 1)]),
        ("mul.lo.s32", "u32 u32 u32", [(-3, 5, -15), (2**16, 2**16, 0)]),
        ("mul.lo.s64", "u64 u64 u64", [(-3, 5, -15), (2**33, 2**31, 0)]),
        ("mul.hi.u32", "u32 u32 u32", [(2**31, 6, 3)]),
        ("mul.hi.s32", "u32 u32 u32", [(-1, 1, -1), (2**31, 2**31, 2**30)]),
        ("mul.hi.u64", "u64 u64 u64", [(2**63, 6, 3)]),
        ("mul.hi.s64", "u64 u64 u64", [(-1, 1, -1)]),
        ("mul.wide.s32", "u64 u32 u32", [(-2, 3, -6), (2**31, 2**31, 2**62)]),
        ("mul.wide.u32", "u64 u32 u32", [(2**32 - 1, 2**32 - 1, 2**64 - 2**33 + 1)]),
        ("mul.wide.u16", "u32 u16 u16", [(2**16 - 1, 2, 2**17 - 2)]),
        ("mad.lo.s32", "u32 u32 u32 u32", [(-3, 5, 16, 1)]),
        ("mad.wide.s32", "u64 u32 u32 u64", [(-3, 5, 2**40, 2**40 - 15)]),
        ("div.s32", "u32 u32 u32", [(-7, 2, -3), (7, -2, -3), (2**31, -1, 2**31)]),
        ("rem.s32", "u32 u32 u32", [(-7, 2, -1), (7, -2, 1)]),
        ("div.u64", "u64 u64 u64", [(2**64 - 1, 2, 2**63 - 1)]),
        ("rem.u32", "u32 u32 u32", [(2**32 - 1, 10, 5)]),
        ("min.s32", "u32 u32 u32", [(-1, 1, -1)]),
        ("min.u32", "u32 u32 u32", [(-1, 1, 1)]),
        ("max.s64", "u64 u64 u64", [(-1, 1, 1)]),
        ("max.u64", "u64 u64 u64", [(-1, 1, -1)]),
        ("abs.s32", "u32 u32", [(-5, 5), (2**31, 2**31)]),
        ("neg.s64", "u64 u64", [(5, -5), (2**63, 2**63)]),
        ("not.b32", "u32 u32", [(0xF0F0F0F0, 0x0F0F0F0F)]),
        ("xor.b64", "u64 u64 u64", [(0xFF, 0x0F, 0xF0)]),
        ("shl.b32", "u32 u32 u32", [(1, 31, 2**31), (1, 32, 0), (1, 2**31, 0)]),
        ("shl.b64", "u64 u64 u32", [(1, 63, 2**63), (1, 64, 0)]),
        ("shr.u32", "u32 u32 u32", [(2**31, 31, 1), (2**31, 32, 0)]),
        ("shr.s32", "u32 u32 u32", [(2**31, 31, -1), (2**31, 99, -1), (7, 99, 0)]),
        ("shr.s64", "u64 u64 u32", [(2**63, 64, -1), (2**62, 62, 1)]),
        ("shr.u64", "u64 u64 u32", [(2**63, 64, 0)]),
        ("popc.b32", "u32 u32", [(0xF0000001, 5)]),
        ("popc.b64", "u32 u64", [(2**64 - 1, 64)]),
        ("clz.b32", "u32 u32", [(0, 32), (1, 31), (2**31, 0)]),
        ("clz.b64", "u32 u64", [(0, 64), (1, 63)]),
        ("brev.b32", "u32 u32", [(1, 2**31), (0xF0, 0x0F000000)]),
        ("brev.b64", "u64 u64", [(2, 2**62)]),
        ("bfind.u32", "u32 u32", [(0, 2**32 - 1), (1, 0), (2**31, 31)]),
        ("bfind.s32", "u32 u32", [(-1, 2**32 - 1), (-2, 0), (5, 2)]),
        ("bfind.shiftamt.u32", "u32 u32", [(0, 2**32 - 1), (1, 31), (2**31, 0)]),
        ("bfind.u64", "u32 u64", [(2**40, 40)]),
        ("bfe.u32", "u32 u32 u32 u32", [(0xABCD, 4, 8, 0xBC), (0xABCD, 28, 8, 0), (7, 0, 0, 0)]),
        ("bfe.s32", "u32 u32 u32 u32", [(0x80, 4, 4, -8), (2**31, 30, 9, -2), (2**31, 40, 1, -1)]),
        ("bfe.s64", "u64 u64 u32 u32", [(2**63, 60, 4, -8)]),
        ("bfi.b32", "u32 u32 u32 u32 u32", [(0xF, 0, 4, 4, 0xF0), (0xF, 0, 30, 4, 3 << 30)]),
        ("bfi.b64", "u64 u64 u64 u32 u32", [(0, 2**64 - 1, 32, 8, 2**64 - 1 - (255 << 32))]),
        # ---- floating point ----
        ("add.f32", "f32 f32 f32", [(f(1), f(2**-24), f(1)), (f(1), f(3 * 2**-24), f(1 + 2**-22))]),
        ("add.rn.f32", "f32 f32 f32", [(f(INF), f(-INF), NAN32), (0x7FC00001, f(1), NAN32)]),
        ("sub.f32", "f32 f32 f32", [(f(TINY * 3), f(TINY), f(TINY * 2)), (f(1), f(1), 0)]),
        ("mul.rn.f32", "f32 f32 f32", [(f(2**-100), f(2**-49), f(TINY)), (f(-1), 0, f(-0.0))]),
        ("mul.f64", "f64 f64 f64", [(d(1 + 2**-52), d(1 - 2**-52), d(1))]),
        ("fma.rn.f32", "f32 f32 f32 f32", [(f(1 + 2**-23), f(1 - 2**-23), f(-1), f(-(2**-46)))]),
        ("fma.rn.f64", "f64 f64 f64 f64", [(d(1 + 2**-52), d(1 - 2**-52), d(-1), d(-(2**-104)))]),
        ("div.rn.f32", "f32 f32 f32", [(f(1), f(3), f(1 / 3)), (f(-1), 0, f(-INF)), (0, 0, NAN32)]),
        ("sqrt.rn.f64", "f64 f64", [(d(2), d(math.sqrt(2))), (d(-0.0), d(-0.0))]),
        ("sqrt.rn.f32", "f32 f32", [(f(-1), NAN32)]),
        ("rcp.rn.f64", "f64 f64", [(d(3), d(1 / 3))]),
        ("rcp.approx.ftz.f32", "f32 f32", [(f(4), f(0.25)), (f(-TINY), f(-INF)), (f(2**127), 0)]),
        (
            "min.f32",
            "f32 f32 f32",
            [(NAN32, f(1), f(1)), (f(1), NAN32, f(1)), (NAN32, 0xFFC00000, NAN32)],
        ),
        ("max.f32", "f32 f32 f32", [(NAN32, f(-1), f(-1)), (f(1), f(2), f(2))]),
        ("min.f32", "f32 f32 f32", [(0, f(-0.0), f(-0.0)), (f(-0.0), 0, f(-0.0))]),
        ("max.f64", "f64 f64 f64", [(0, d(-0.0), 0), (d(-0.0), 0, 0), (NAN64, d(2), d(2))]),
        ("abs.f32", "f32 f32", [(f(-0.0), 0), (f(-2), f(2))]),
        ("neg.f64", "f64 f64", [(0, d(-0.0))]),
        # ---- comparisons ----
        ("setp.lt.s32", "pred u32 u32", [(-1, 1, 1)]),
        ("setp.lt.u32", "pred u32 u32", [(-1, 1, 0)]),
        ("setp.hs.u32", "pred u32 u32", [(-1, 1, 1)]),
        ("setp.ge.s64", "pred u64 u64", [(-1, 1, 0), (1, 1, 1)]),
        ("setp.gt.u64", "pred u64 u64", [(-1, 1, 1)]),
        ("setp.eq.s16", "pred u16 u16", [(5, 5, 1)]),
        ("setp.ne.f32", "pred f32 f32", [(f(1), f(2), 1), (f(1), NAN32, 0)]),
        ("setp.neu.f32", "pred f32 f32", [(f(1), f(1), 0), (f(1), NAN32, 1)]),
        ("setp.equ.f64", "pred f64 f64", [(d(1), NAN64, 1), (d(1), d(2), 0), (d(0), d(-0.0), 1)]),
        ("setp.lt.f32", "pred f32 f32", [(f(1), NAN32, 0), (f(-0.0), 0, 0)]),
        ("setp.ltu.f32", "pred f32 f32", [(f(1), NAN32, 1), (f(2), f(1), 0)]),
        ("setp.geu.f64", "pred f64 f64", [(d(1), NAN64, 1), (d(1), d(2), 0)]),
        ("setp.num.f32", "pred f32 f32", [(f(1), NAN32, 0), (f(1), f(INF), 1)]),
        ("setp.nan.f64", "pred f64 f64", [(d(1), NAN64, 1), (d(1), d(2), 0)]),
        ("selp.f32", "f32 f32 f32 pred", [(f(1), f(2), 1, f(1)), (f(1), f(2), 0, f(2))]),
        # ---- conversions ----
        ("cvt.s64.s32", "u64 u32", [(-5, -5)]),
        ("cvt.u64.u32", "u64 u32", [(-5, 2**32 - 5)]),
        ("cvt.u32.u64", "u32 u64", [(2**32 + 7, 7)]),
        ("cvt.s32.s8", "u32 u32", [(0x1FF, -1), (0x7F, 127)]),
        ("cvt.u32.u16", "u32 u16", [(2**16 - 1, 2**16 - 1)]),
        ("cvt.sat.s16.s32", "u16 u32", [(40000, 32767), (-40000, -32768), (5, 5)]),
        ("cvt.sat.u8.s32", "u16 u32", [(-1, 0), (256, 255)]),
        ("cvt.rn.f32.s32", "f32 u32", [(2**24 + 1, f(2**24)), (-3, f(-3))]),
        ("cvt.rn.f32.u64", "f32 u64", [(2**64 - 1, f(2**64))]),
        ("cvt.rn.f64.s64", "f64 u64", [(2**53 + 1, d(2**53))]),
        ("cvt.rn.f32.f64", "f32 f64", [(d(1 + 2**-24), f(1)), (d(1e39), f(INF)), (NAN64, NAN32)]),
        ("cvt.f64.f32", "f64 f32", [(f(TINY), d(TINY))]),
        ("cvt.rni.s32.f32", "u32 f32", [(f(2.5), 2), (f(3.5), 4), (f(-2.5), -2)]),
        ("cvt.rzi.s32.f32", "u32 f32", [(f(-2.9), -2), (f(3e9), 2**31 - 1), (f(-INF), 2**31)]),
        ("cvt.rzi.u32.f32", "u32 f32", [(f(-5), 0), (f(5e9), 2**32 - 1), (NAN32, 0)]),
        ("cvt.rmi.s32.f64", "u32 f64", [(d(-2.1), -3), (NAN64, 2**31)]),
        ("cvt.rpi.s64.f32", "u64 f32", [(f(2.1), 3), (NAN32, 2**63), (f(1e30), 2**63 - 1)]),
        ("cvt.rmi.f32.f32", "f32 f32", [(f(-0.5), f(-1)), (f(1e30), f(1e30))]),
        (
            "cvt.rn.f16.f32",
            "u16 f32",
            [(f(65520), 0x7C00), (f(1 + 2**-11), 0x3C00), (NAN32, 0x7FFF)],
        ),
        ("cvt.f32.f16", "f32 u16", [(0x0001, f(2**-24)), (0xFC00, f(-INF)), (0x7E01, NAN32)]),
        ("mov.b32", "f32 u32", [(f(1.5), f(1.5))]),
    ]
    for row in rows
]
REGISTER = {"u16": "b16", "u32": "b32", "u64": "b64"}


def entry_of_case(number: int, case: Case) -> str:
    """Loads what the instruction takes, 8 bytes apart, and stores its result."""
    types = case.types.split()
    loads, names = [], []
    for k, t in enumerate(types):
        loads.append(f".reg .{REGISTER.get(t, t)} %x{k};")
        names.append(f"%x{k}")
        if k > 0 and t == "pred":
            loads += [f"ld.global.u32 %r1, [%rd2+{8 * k - 8}];", f"setp.ne.s32 %x{k}, %r1, 0;"]
        elif k > 0:
            loads.append(f"ld.global.{t} %x{k}, [%rd2+{8 * k - 8}];")
    store = f"st.global.{types[0]} [%rd1], %x0;"
    if types[0] == "pred":
        store = "selp.u32 %r1, 1, 0, %x0; st.global.u32 [%rd1], %r1;"
    return entry(f"case_{number}", f"{' '.join(loads)}\n{case.opcode} {', '.join(names)};\n{store}")


def entry(name: str, body: str, parameters: int = 2, head: str = "") -> str:
    """A kernel whose parameters are in %rd1, %rd2, ..."""
    names = [f"{name}_param_{k}" for k in range(parameters)]
    declared = ",\n".join(f"\t.param .u64 {n}" for n in names)
    loads = "\n".join(f"ld.param.u64 %rd{k + 1}, [{n}];" for k, n in enumerate(names))
    return f""".visible .entry {name}(
{declared}
)
.maxntid 128, 1, 1
{{
.reg .pred %p<9>; .reg .b16 %rs<9>; .reg .b32 %r<9>; .reg .b64 %rd<9>; .reg .f32 %f<9>;
{head}
{loads}
{body}
ret;
}}
"""


# %rd3 becomes the place of the thread's own number in the output.
MINE = "mov.u32 %r8, %tid.x; mul.wide.u32 %rd8, %r8, 4; add.s64 %rd3, %rd1, %rd8;"
KERNELS = {
    "branches": """
        mov.u32 %r1, %ntid.x; mov.u32 %r2, %ctaid.x; mov.u32 %r3, %tid.x;
        mad.lo.s32 %r4, %r1, %r2, %r3; mul.wide.u32 %rd4, %r4, 4; add.s64 %rd4, %rd1, %rd4;
        mov.u32 %r5, 0; mov.u32 %r6, 0;
        $L_again:
        setp.ge.u32 %p1, %r5, %r4;
        @%p1 bra $L_end;
        and.b32 %r7, %r5, 1; setp.eq.s32 %p2, %r7, 0;
        @!%p2 add.s32 %r6, %r6, %r5;
        add.s32 %r5, %r5, 1;
        bra.uni $L_again;
        $L_end:
        st.global.u32 [%rd4], %r6;""",
    "vectors": """
        ld.global.v4.f32 {%f1, %f2, _, %f3}, [%rd2];
        st.global.v2.f32 [%rd1+8], {%f3, %f1};
        ld.global.v2.u32 {%r1, %r2}, [%rd2+8];
        st.global.v4.u32 [%rd1+16], {%r2, %r1, 7, -1};
        ld.global.u16 %rs1, [%rd2+2];
        st.global.v4.u8 [%rd1], {%rs1, 1, 2, 3};""",
    "packs": """
        ld.global.u64 %rd4, [%rd2]; mov.b64 {%r1, %r2}, %rd4; mov.b64 %rd5, {%r2, %r1};
        st.global.u64 [%rd1], %rd5;
        mov.b32 {%rs1, %rs2}, %r1; mov.b32 %r3, {%rs2, %rs1}; st.global.u32 [%rd1+8], %r3;
        { .reg .b16 %rs1; mov.b32 {_, %rs1}, %r2; st.global.u16 [%rd1+12], %rs1; }
        st.global.u16 [%rd1+14], %rs1;""",
    "reverse_in_shared": f"""{MINE}
        mov.u32 %r1, numbers; shl.b32 %r2, %r8, 2; add.s32 %r3, %r1, %r2;
        st.shared.u32 [%r3], %r8; st.shared.u32 [numbers+512], %r8;
        bar.sync 0;
        sub.s32 %r4, %r1, %r2; ld.shared.u32 %r5, [%r4+252];
        mov.u32 %r6, dynamic; add.s32 %r7, %r6, %r2; st.shared.u32 [%r7+4], %r5;
        bar.sync 0;
        cvt.u64.u32 %rd4, %r7; cvta.shared.u64 %rd5, %rd4; ld.u32 %r5, [%rd5+4];
        cvta.to.shared.u64 %rd6, %rd5; ld.shared.u32 %r6, [%rd6+4];
        add.s32 %r5, %r5, %r6;
        st.global.u32 [%rd3], %r5;""",
    "shuffles": f"""{MINE}
        shfl.sync.bfly.b32 %r1, %r8, 5, 31, -1;
        shfl.sync.idx.b32 %r2, %r8, 3, 6175, -1;
        shfl.sync.up.b32 %r3|%p1, %r8, 1, 6144, -1;
        shfl.sync.down.b32 %r4|%p2, %r8, 2, 31, -1;
        st.global.u32 [%rd3], %r1; st.global.u32 [%rd3+128], %r2;
        st.global.u32 [%rd3+256], %r3; st.global.u32 [%rd3+384], %r4;
        selp.u32 %r5, 1, 0, %p1; selp.u32 %r6, 2, 0, %p2; add.s32 %r5, %r5, %r6;
        st.global.u32 [%rd3+512], %r5;""",
    "odd_shuffle": "shfl.sync.bfly.b32 %r1, %r1, 1, 15, -1;",
    "votes": f"""{MINE}
        and.b32 %r1, %r8, 3; setp.eq.s32 %p1, %r1, 1;
        vote.sync.ballot.b32 %r2, %p1, -1;
        match.any.sync.b32 %r3, %r1, -1;
        vote.sync.any.pred %p2, %p1, -1; vote.sync.all.pred %p3, %p1, -1;
        selp.u32 %r4, 1, 0, %p2; selp.u32 %r5, 2, 0, %p3; add.s32 %r4, %r4, %r5;
        st.global.u32 [%rd3], %r2; st.global.u32 [%rd3+128], %r3; st.global.u32 [%rd3+256], %r4;
        sub.s32 %r6, %r8, 9;
        redux.sync.min.s32 %r1, %r6, -1; redux.sync.min.u32 %r2, %r6, -1;
        redux.sync.max.u32 %r3, %r6, -1; redux.sync.max.s32 %r4, %r6, -1;
        redux.sync.add.s32 %r5, %r6, -1; redux.sync.or.b32 %r7, %r8, -1;
        @%p1 bra $L_done;
        st.global.u32 [%rd3+384], %r1; st.global.u32 [%rd3+512], %r2;
        st.global.u32 [%rd3+640], %r3; st.global.u32 [%rd3+768], %r4;
        st.global.u32 [%rd3+896], %r5; st.global.u32 [%rd3+1024], %r7;
        $L_done:
        bar.warp.sync -1;""",
    "block_votes": f"""{MINE}
        setp.eq.s32 %p1, %r8, 77;
        {{ .reg .pred %p1; .reg .pred %p2; setp.ne.u32 %p1, %r8, 77;
        bar.red.and.pred %p2, 0, %p1; selp.u32 %r1, 1, 0, %p2; }}
        bar.red.or.pred %p3, 0, %p1; selp.u32 %r2, 2, 0, %p3;
        bar.red.popc.u32 %r3, 0, %p1; shl.b32 %r3, %r3, 2;
        add.s32 %r4, %r1, %r2; add.s32 %r4, %r4, %r3; st.global.u32 [%rd3], %r4;""",
    "atomics": """
        mov.u32 %r1, %tid.x; cvt.u64.u32 %rd4, %r1;
        atom.global.add.u32 %r2, [%rd1], 1;
        atom.global.min.u32 %r2, [%rd1+4], %r1; atom.global.max.s32 %r2, [%rd1+8], %r1;
        atom.global.min.u64 %rd5, [%rd1+16], %rd4; red.global.max.u64 [%rd1+24], %rd4;
        mov.f32 %f1, 0f3F000000; atom.global.add.f32 %f2, [%rd1+12], %f1;
        atom.shared.add.u32 %r2, [total], %r1;
        bar.sync 0;
        ld.shared.u32 %r3, [total]; st.global.u32 [%rd1+32], %r3;
        atom.global.cas.b32 %r4, [%rd1+36], 0, 5; atom.global.exch.b32 %r4, [%rd1+40], 9;
        atom.global.or.b32 %r4, [%rd1+44], %r1;
        membar.gl; ld.volatile.global.u32 %r5, [%rd1+36]; st.volatile.global.u32 [%rd1+48], %r5;""",
    "copies": f"""{MINE}
        mov.u32 %r1, numbers; shl.b32 %r2, %r8, 4; add.s32 %r1, %r1, %r2; cvt.u64.u32 %rd4, %r2;
        add.s64 %rd4, %rd2, %rd4;
        mov.u32 %r7, 5; st.shared.u32 [%r1], %r7;
        cp.async.cg.shared.global [%r1], [%rd4], 16;
        ld.shared.u32 %r3, [%r1];
        cp.async.wait_all;
        ld.shared.u32 %r4, [%r1]; ld.shared.u32 %r5, [%r1+12];
        st.global.u32 [%rd3], %r3; st.global.u32 [%rd3+128], %r4; st.global.u32 [%rd3+256], %r5;""",
    "misaligned_load": "ld.global.u32 %r1, [%rd2+2];",
    "misaligned_vector": "st.global.v4.f32 [%rd1+8], {%f1, %f1, %f1, %f1};",
    "misaligned_atomic": "atom.global.add.u64 %rd4, [%rd1+4], 1;",
    "misaligned_copy": "mov.u32 %r1, numbers; cp.async.ca.shared.global [%r1+4], [%rd2], 8;",
    "no_divisor": "mov.u32 %r1, 0; div.s32 %r2, %r1, %r1;",
    "divergent": """
        mov.u32 %r1, %tid.x; setp.eq.s32 %p1, %r1, 0; @%p1 bra $L_other;
        bar.sync 0;
        ret;
        $L_other:
        bar.sync 0;""",
    "trapped": "trap;",
}
STATIC = {
    "reverse_in_shared": ".shared .align 4 .b8 first[4]; .shared .align 4 .b8 numbers[516];",
    "atomics": ".shared .align 4 .b8 total[4];",
    "copies": ".shared .align 16 .b8 numbers[512];",
    "misaligned_copy": ".shared .align 16 .b8 numbers[512];",
}
HEADER = ".version 9.0\n.target sm_90\n.address_size 64\n"
TEXT = (
    HEADER
    + ".extern .shared .align 16 .b8 dynamic[];\n"
    + "".join(entry_of_case(number, case) for number, case in enumerate(CASES))
    + "".join(entry(name, body, head=STATIC.get(name, "")) for name, body in KERNELS.items())
)


class Runner:
    """The entries of TEXT, as functions of arrays."""

    def __init__(self, library: Path) -> None:
        self._library = ctypes.CDLL(str(library))
        self._library.last_message.restype = ctypes.c_char_p

    def run(
        self,
        name: str,
        out: np.ndarray[Any, Any],
        given: np.ndarray[Any, Any] | None = None,
        grid: int = 1,
        block: int = 1,
        shared: int = 0,
        drop: str = "",
    ) -> np.ndarray[Any, Any]:
        arrays = (out, out if given is None else given)
        parameters = (ctypes.c_uint64 * 2)(*(a.ctypes.data for a in arrays))
        if self._library.run_entry(
            name.encode(), grid, block, ctypes.c_int64(shared), parameters, drop.encode()
        ):
            raise RuntimeError(self._library.last_message().decode())
        return out


@pytest.fixture(scope="module")
def runner(build_folder: Path) -> Runner:
    sources = ptx_build.translate(build_folder, "small_ptx", TEXT, parts=1)
    flags = ["-O1", *ptx_build.TRANSLATED]
    library = build(
        build_folder,
        "small_ptx.so",
        ROOT / "tests/native/ptx_runner.cpp",
        ["-O1", "-fPIC"],
        link=["-shared"],
        further=[(source, flags) for source in sources],
    )
    return Runner(library)


@needs_compiler
def test_each_instruction_has_the_result_of_the_manual(runner: Runner) -> None:
    wrong = []
    for number, case in enumerate(CASES):
        given = np.array([bits % 2**64 for bits in case.given], dtype=np.uint64)
        out = runner.run(f"case_{number}", np.zeros(1, dtype=np.uint64), given)
        kind = case.types.split()[0]
        width = 32 if kind == "pred" else int(kind[1:])
        if int(out[0]) != case.result % 2**width:
            wrong.append(
                f"{case.opcode} {case.given}: {out[0]:#x}, not {case.result % 2**width:#x}"
            )
    assert not wrong


def u32(count: int) -> np.ndarray[Any, Any]:
    return np.zeros(count, dtype=np.uint32)


@needs_compiler
def test_threads_go_their_own_ways(runner: Runner) -> None:
    out = runner.run("branches", u32(12), grid=3, block=4)
    assert out.tolist() == [sum(range(1, n, 2)) for n in range(12)]


@needs_compiler
def test_vectors_are_loaded_and_stored_in_order(runner: Runner) -> None:
    given = np.array([1, 2, 3, 4], dtype=np.float32)
    out = runner.run("vectors", u32(8), given)
    third, fourth = given.view(np.uint32)[2:].tolist()
    low = f(1) >> 16 & 255
    assert out.tolist() == [
        low | 1 << 8 | 2 << 16 | 3 << 24,
        0,
        fourth,
        f(1),
        fourth,
        third,
        7,
        2**32 - 1,
    ]


@needs_compiler
def test_words_are_packed_with_the_low_half_first(runner: Runner) -> None:
    given = np.array([0x0123456789ABCDEF], dtype=np.uint64)
    out = runner.run("packs", np.zeros(2, dtype=np.uint64), given)
    assert out[0] == 0x89ABCDEF01234567
    # The high half of a scope's own register, then that of the outer one.
    assert out[1] == 0xCDEF_0123_CDEF_89AB


@needs_compiler
def test_shared_memory_is_static_and_dynamic_and_has_generic_addresses(runner: Runner) -> None:
    out = runner.run("reverse_in_shared", u32(64), block=64, shared=260)
    assert out.tolist() == [2 * (63 - k) for k in range(64)]


@needs_compiler
def test_a_dropped_barrier_shows(runner: Runner) -> None:
    first = TEXT[: TEXT.index("reverse_in_shared_param_0];")].count("\n") + 1
    lines = TEXT.splitlines()
    barrier = next(k for k in range(first, len(lines)) if "bar.sync" in lines[k]) + 1
    drop = f"launch.ptx:{barrier}"
    out = runner.run("reverse_in_shared", u32(64), block=64, shared=260, drop=drop)
    assert out.tolist() != [2 * (63 - k) for k in range(64)]


@needs_compiler
def test_lanes_shuffle(runner: Runner) -> None:
    out = runner.run("shuffles", u32(160), block=32).reshape(5, 32)
    lane = np.arange(32)
    assert (out[0] == lane ^ 5).all()
    assert (out[1] == lane // 8 * 8 + 3).all()  # 6175: segments of 8 lanes
    assert (out[2] == np.where(lane % 8, lane - 1, lane)).all()
    assert (out[3] == np.where(lane < 30, lane + 2, lane)).all()
    assert (out[4] == (lane % 8 > 0) + 2 * (lane < 30)).all()
    with pytest.raises(RuntimeError, match=r"operand is 15, which stands for no width .*ptx:\d+"):
        runner.run("odd_shuffle", u32(1), block=32)


@needs_compiler
def test_lanes_vote_match_and_reduce(runner: Runner) -> None:
    out = runner.run("votes", u32(288), block=32).reshape(9, 32)
    lane = np.arange(32)
    assert (out[0] == 0x22222222).all()
    assert (out[1] == 0x11111111 << lane % 4).all()
    assert (out[2] == 1).all()
    others = lane[lane % 4 != 1]
    wanted = [-9, 0, -1, 22, sum(range(-9, 23)), 31]
    for row, value in zip(out[3:], wanted, strict=True):
        assert (row[others] == value % 2**32).all()


@needs_compiler
def test_a_block_votes(runner: Runner) -> None:
    assert (runner.run("block_votes", u32(96), block=96) == 0 + 2 + 4).all()
    assert (runner.run("block_votes", u32(64), block=64) == 1).all()


@needs_compiler
def test_atomics(runner: Runner) -> None:
    out = u32(16)
    out[1] = out[4] = out[5] = 2**32 - 1
    out[2] = 2**31
    out = runner.run("atomics", out, block=100, grid=1)
    assert out[0] == 100
    assert out[1] == 0
    assert out[2] == 99
    assert out[3] == f(50)
    assert out[4:8].tolist() == [0, 0, 99, 0]
    assert out[9:13].tolist() == [5, 9, 127, 5]


@needs_compiler
def test_copies_arrive_when_they_are_waited_for(runner: Runner) -> None:
    given = np.arange(128, dtype=np.uint32)
    out = runner.run("copies", u32(96), given, block=32).reshape(3, 32)
    assert (out[0] == 5).all()
    assert (out[1] == 4 * np.arange(32)).all()
    assert (out[2] == 4 * np.arange(32) + 3).all()


@needs_compiler
@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("misaligned_load", "4 bytes at an address that is 2 more than a multiple"),
        ("misaligned_vector", "16 bytes at an address that is 8 more"),
        ("misaligned_atomic", "8 bytes at an address that is 4 more"),
        ("misaligned_copy", "misaligned copy: 8 bytes"),
        ("no_divisor", "division by zero"),
        ("divergent", "divergent barrier"),
        ("trapped", "trap"),
    ],
)
def test_what_a_gpu_does_not_do_is_an_error_that_names_the_line(
    runner: Runner, name: str, message: str
) -> None:
    first = TEXT[: TEXT.index(f".entry {name}(")].count("\n")
    memory = np.zeros(18, dtype=np.uint64)
    aligned = memory[memory.ctypes.data // 8 % 2 :]
    with pytest.raises(RuntimeError, match=message) as error:
        runner.run(name, aligned, block=2)
    line = int(str(error.value).rpartition("launch.ptx:")[2].split()[0].strip(",)"))
    assert first < line < first + 25


@needs_compiler
def test_launch_bounds_of_an_entry_are_kept(runner: Runner) -> None:
    with pytest.raises(RuntimeError, match=r"129 threads; the launch bounds .* are 128"):
        runner.run("branches", u32(129), block=129)


# ---- what is not understood ----


def refused(tmp_path: Path, text: str) -> str:
    with pytest.raises(ptx.PtxError) as error:
        ptx.write(ptx.parse(HEADER + text, "small.ptx"), tmp_path, 1)
    return str(error.value)


@pytest.mark.parametrize(
    "instruction",
    [
        "add.rz.f32 %f1, %f1, %f1",
        "add.ftz.f32 %f1, %f1, %f1",
        "add.sat.f32 %f1, %f1, %f1",
        "add.sat.s32 %r1, %r1, %r1",
        "fma.rm.f32 %f1, %f1, %f1, %f1",
        "mul.rn.ftz.f32 %f1, %f1, %f1",
        "rcp.approx.f32 %f1, %f1",
        "sqrt.approx.f32 %f1, %f1",
        "div.full.f32 %f1, %f1, %f1",
        "min.NaN.f32 %f1, %f1, %f1",
        "setp.lt.ftz.f32 %p1, %f1, %f1",
        "setp.lt.and.f32 %p1, %f1, %f1, %p1",
        "cvt.rz.f32.f64 %f1, %fd1",
        "cvt.rn.ftz.f32.f64 %f1, %fd1",
        "cvt.f32.f64 %f1, %fd1",
        "mad.hi.s32 %r1, %r1, %r1, %r1",
        "ld.acquire.gpu.global.u32 %r1, [%rd1]",
        "atom.acq_rel.gpu.global.add.u32 %r1, [%rd1], 1",
        "atom.global.cta.add.u32 %r1, [%rd1], 1",
        "cp.async.wait_group 1",
        "call.uni foo, ()",
    ],
)
def test_an_unknown_opcode_or_modifier_is_named(tmp_path: Path, instruction: str) -> None:
    said = refused(tmp_path, entry("kernel", f"\n{instruction};"))
    assert f"unknown opcode {instruction.split()[0]} " in said
    assert "small.ptx:15: entry kernel: " in said


@pytest.mark.parametrize(
    ("instruction", "message"),
    [
        ("mov.u32 %r1, %clock", "unknown special register %clock"),
        ("mov.u32 %r1, %laneid", "unknown special register %laneid"),
        ("add.s32 %r1, %r99, 1", "unknown special register %r99"),
        ("bar.sync 1", "barrier 1: only barrier 0"),
        ("bar.sync 0, 64", "2 operands in 'bar.sync 0, 64', expected 1"),
        ("add.s32 %r1, %r1", "2 operands in 'add.s32 %r1, %r1', expected 3"),
        ("mov.u32 %r1, table", "unknown operand table of type u32"),
        ("add.f32 %f1, %f1, 1", "unknown operand 1 of type f32"),
        ("ld.global.v2.u32 {%r1}, [%rd1]", "1 results in '{%r1}', expected 2"),
        ("ld.param.u64 %rd1, [other_param_0]", "unknown parameter other_param_0"),
        ("ld.global.u32 %r1, [%rd1+%rd2]", "unknown address [%rd1+%rd2]"),
        (".local .align 4 .b8 stack[4]", "unknown opcode .local"),
        ("bra{.uni} $L", "unknown opcode bra{.uni}"),
    ],
)
def test_an_operand_that_is_not_understood_is_named(
    tmp_path: Path, instruction: str, message: str
) -> None:
    said = refused(tmp_path, entry("kernel", f"\n{instruction};"))
    assert message in said
    assert "small.ptx:15: entry kernel: " in said


def test_a_kernel_without_launch_bounds_is_named(tmp_path: Path) -> None:
    text = entry("kernel", "").replace(".maxntid 128, 1, 1\n", "")
    assert "small.ptx:4: entry kernel has no .maxntid" in refused(tmp_path, text)


def test_lines_of_the_translation_are_those_of_the_ptx(tmp_path: Path) -> None:
    module = ptx.parse(TEXT, "small.ptx")
    assert len(module.entries) == len(CASES) + len(KERNELS)
    part, _ = ptx.write(module._replace(entries=module.entries[-1:]), tmp_path, 1)
    lines = part.read_text(encoding="utf-8").splitlines()
    (place,) = (k for k, line in enumerate(lines) if line.startswith("#line"))
    begin = int(lines[place].split()[1])
    trap = next(k for k in range(place, len(lines)) if "trap();" in lines[k]) - place - 1 + begin
    assert TEXT.splitlines()[trap - 1].strip() == "trap;"


def test_the_table_has_no_opcode_with_an_open_place() -> None:
    assert not [opcode for opcode in OPCODES if set(opcode) & set("{}@T*")]
    assert not [f for f in OPCODES.values() if set("@{}") & set(f.function + "".join(f.sources))]
