"""Loads, stores and calls at raw addresses, for numba functions that run without the GIL.

Addresses and values are int64 throughout: numba turns ``int64 op uint64`` into float64. Each function is
one LLVM instruction (or two), so that the functions which use it stay cacheable and allocate nothing.
"""

from __future__ import annotations

import hashlib
import os
import re
from pathlib import Path

import numba
from llvmlite import ir
from numba import int64, types
from numba.extending import intrinsic

from live4d_ophyd.folders import FOLDERS

_IMPORT = re.compile(r"^from (live4d_ophyd[\w.]*) import (?:\(([^)]*)\)|(.*))$", re.MULTILINE)


def compiled_sources(package: Path) -> list[Path]:
    """Files of the package with compiled functions, and those whose constants and functions they take, in order."""
    texts = {path: path.read_text() for path in package.rglob("*.py")}
    waiting = [path for path, text in texts.items() if "@njit" in text or "@intrinsic" in text]
    found: set[Path] = set()
    while waiting:
        path = waiting.pop()
        if path in found:
            continue
        found.add(path)
        for module, several, one in _IMPORT.findall(texts[path]):
            home = package.parent / module.replace(".", "/")
            names = [name.split(" as ")[0].strip() for name in (several or one).split(",")]
            files = [home.with_suffix(".py"), home / "__init__.py", *(home / f"{name}.py" for name in names)]
            waiting += [file for file in files if file in texts]
    return sorted(found)


def _cache_directory() -> Path:
    """Where compiled functions of this very source are kept.

    numba looks only at the file a function stands in: after a change elsewhere (an update of the package, say)
    it would silently run the old code of whatever that function calls.
    """
    sources = compiled_sources(Path(__file__).resolve().parents[1])
    digest = hashlib.sha256(b"".join(path.read_bytes() for path in sources)).hexdigest()[:16]
    return FOLDERS.user_cache_path / digest


if not os.environ.get("NUMBA_CACHE_DIR"):
    numba.config.CACHE_DIR = str(_cache_directory())

I8, I16, I32, I64 = ir.IntType(8), ir.IntType(16), ir.IntType(32), ir.IntType(64)

# Module-level numba functions only: closures are recompiled in every process in spite of cache=True.
NOGIL = {"nogil": True, "cache": True, "boundscheck": False, "error_model": "numpy"}


def pointer(builder, address, kind):
    return builder.inttoptr(address, kind.as_pointer())


def load(builder, address, kind, align=1):
    value = builder.load(pointer(builder, address, kind))
    value.align = align
    return value


def store(builder, value, address, align=1):
    instruction = builder.store(value, pointer(builder, address, value.type))
    instruction.align = align


def _widen(builder, value):
    return value if value.type == I64 else builder.zext(value, I64)


def _loader(kind, swap=False):
    @intrinsic
    def load_at(typingctx, address):
        def codegen(context, builder, signature, args):
            value = load(builder, args[0], kind)
            return _widen(builder, builder.bswap(value) if swap else value)

        return int64(int64), codegen

    return load_at


load_u8, load_u16, load_u32, load_i64 = _loader(I8), _loader(I16), _loader(I32), _loader(I64)
load_u16_be, load_u32_be, load_i64_be = _loader(I16, True), _loader(I32, True), _loader(I64, True)


def _storer(kind):
    @intrinsic
    def store_at(typingctx, address, value):
        def codegen(context, builder, signature, args):
            value = args[1] if kind == I64 else builder.trunc(args[1], kind)
            store(builder, value, args[0])
            return context.get_dummy_value()

        return types.void(int64, int64), codegen

    return store_at


store_u8, store_u16, store_u32, store_i64 = _storer(I8), _storer(I16), _storer(I32), _storer(I64)


def _copier(function):
    @intrinsic
    def copy(typingctx, destination, source, size):
        def codegen(context, builder, signature, args):
            byte = I8.as_pointer()
            called = builder.module.declare_intrinsic(function, [byte, byte, I64])
            target, origin = (builder.inttoptr(a, byte) for a in args[:2])
            builder.call(called, [target, origin, args[2], ir.Constant(ir.IntType(1), 0)])
            return context.get_dummy_value()

        return types.void(int64, int64, int64), codegen

    return copy


#: memcpy(destination, source, size), and memmove for memory that overlaps
copy_bytes, move_bytes = _copier("llvm.memcpy"), _copier("llvm.memmove")


def _caller(n_arguments, result, argument_kinds=None):
    """A C function called by address. As a ctypes object in a closure it would make its callers uncacheable."""
    kinds = argument_kinds or [I64] * n_arguments

    def codegen(context, builder, signature, args):
        function = pointer(builder, args[0], ir.FunctionType(result, kinds))
        values = [a if kind == I64 else builder.trunc(a, kind) for a, kind in zip(args[1:], kinds)]
        value = builder.call(function, values)
        return value if result == I64 else builder.sext(value, I64)

    return codegen


@intrinsic
def call_int(typingctx, function):
    """int function(void)"""
    return int64(int64), _caller(0, I32)


@intrinsic
def call_int_int(typingctx, function, a):
    """int function(int)"""
    return int64(int64, int64), _caller(1, I32, [I32])


@intrinsic
def call_int_int_ptr(typingctx, function, a, b):
    """int function(int, void *)"""
    return int64(int64, int64, int64), _caller(2, I32, [I32, I64])


@intrinsic
def call_int_ptr(typingctx, function, a):
    """int function(void *)"""
    return int64(int64, int64), _caller(1, I32)


@intrinsic
def call_word_ptr(typingctx, function, a):
    """size_t function(void *), void *function(void *)"""
    return int64(int64, int64), _caller(1, I64)


@intrinsic
def call_int_ptr_ptr_int(typingctx, function, a, b, flags):
    """int function(void *, void *, int)"""
    return int64(int64, int64, int64, int64), _caller(3, I32, [I64, I64, I32])


@intrinsic
def call_int_ptr_ptr_word_int(typingctx, function, a, b, size, flags):
    """int function(void *, void *, size_t, int)"""
    return int64(int64, int64, int64, int64, int64), _caller(4, I32, [I64, I64, I64, I32])


@intrinsic
def call_word(typingctx, function):
    """void *function(void)"""
    return int64(int64), _caller(0, I64)


@intrinsic
def call_int_ptr_word_int(typingctx, function, a, n, b):
    """int function(void *, unsigned long, int)"""
    return int64(int64, int64, int64, int64), _caller(3, I32, [I64, I64, I32])


@intrinsic
def call_word_int_ptr_word(typingctx, function, a, b, size):
    """ssize_t function(int, void *, size_t)"""
    return int64(int64, int64, int64, int64), _caller(3, I64, [I32, I64, I64])


@intrinsic
def call_word_int_ptr_word_int(typingctx, function, a, b, size, flags):
    """ssize_t function(int, void *, size_t, int)"""
    return int64(int64, int64, int64, int64, int64), _caller(4, I64, [I32, I64, I64, I32])


@intrinsic
def call_int_int_int_int_ptr_int(typingctx, function, a, b, c, d, size):
    """int function(int, int, int, void *, unsigned int)"""
    return int64(*[int64] * 6), _caller(5, I32, [I32, I32, I32, I64, I32])


# One thread fills memory and then says so in a word, another reads the word and then the memory. Compilers and, unlike
# x86, aarch64 may swap two plain stores, or two plain loads: these two instructions forbid it, at no cost on x86.


@intrinsic
def load_acquire(typingctx, address):
    """An aligned int64; what is read after it is at least as new as when the word was stored with `store_release`."""

    def codegen(context, builder, signature, args):
        return builder.load_atomic(pointer(builder, args[0], I64), "acquire", 8)

    return int64(int64), codegen


@intrinsic
def store_release(typingctx, address, value):
    """An aligned int64; all that was read and written before it is done when another thread sees it."""

    def codegen(context, builder, signature, args):
        builder.store_atomic(args[1], pointer(builder, args[0], I64), "release", 8)
        return context.get_dummy_value()

    return types.void(int64, int64), codegen
