"""C++ that is compiled for this machine's processor when it is first asked for, and kept in a cache."""

from __future__ import annotations

import ctypes
import hashlib
import struct
import subprocess
import tempfile
from contextlib import suppress
from functools import cache
from pathlib import Path

import torch

from ..files import cache_folder
from ..machine import compiler, processor_features

HERE = Path(__file__).parent
FLAGS = ("-std=c++17", "-O3", "-shared", "-fPIC", "-w", "-fno-math-errno", "-march=native")
GCC_FLAGS = ("-fno-tree-loop-distribute-patterns",)  # else it calls memset for loops over tiles of registers
DEFINED = {torch.float32: (), torch.bfloat16: ("-DBF16",)}
HEADERS = ("vectors.h", "products.h", "residual.h", "attention.h")


class NotCompiled(RuntimeError):
    """The compiler's own words, in one line."""


@cache
def library(source: str, dtype: torch.dtype, *defined: str) -> ctypes.CDLL:
    """`source` of this folder for activations of `dtype`: from $XDG_CACHE_HOME/sixnd/native (~/.cache by default) if it is there.

    Raises:
        NotCompiled: there is no C++ compiler, or it fails.
    """
    path = compiler()
    if path is None:
        raise NotCompiled("no C++ compiler")
    version = subprocess.run([path, "--version"], capture_output=True, text=True, check=False).stdout
    flags = FLAGS if "clang" in version else FLAGS + GCC_FLAGS
    # Linux gives a process AMX where it asks, which is what the second call does.
    tiles = ("-DAMX",) if DEFINED[dtype] and torch.cpu._is_amx_tile_supported() and torch.cpu._init_amx() else ()
    command = [path, *flags, *DEFINED[dtype], *tiles, *defined, str(HERE / source)]
    texts = ((HERE / name).read_text() for name in (source, *HEADERS))
    parts = (*texts, *command[1:-1], version, processor_features())
    name = f"{hashlib.sha256(chr(0).join(parts).encode()).hexdigest()[:20]}.so"
    folder = cache_folder() / "native"
    with suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True)
        if not (folder / name).exists():
            _compile(command, folder / name)
        return ctypes.CDLL(str(folder / name))
    with tempfile.TemporaryDirectory() as elsewhere:  # a cache that cannot be written or read
        _compile(command, Path(elsewhere) / name)
        return ctypes.CDLL(str(Path(elsewhere) / name))


def packed(code: str, *values: torch.Tensor | float | None) -> bytes:
    """A C struct of numbers of one type ("l", "f"), or of the addresses of tensors ("P")."""
    numbers = (0 if x is None else x.data_ptr() if isinstance(x, torch.Tensor) else x for x in values)
    return struct.pack(f"{len(values)}{code}", *numbers)


def address(x: torch.Tensor) -> ctypes.c_void_p:
    return ctypes.c_void_p(x.data_ptr())


def _compile(command: list[str], to: Path) -> None:
    with tempfile.TemporaryDirectory(dir=to.parent) as folder:
        part = Path(folder) / to.name
        done = subprocess.run([*command, "-o", str(part)], capture_output=True, text=True, check=False)
        if done.returncode:
            said = [line for line in done.stderr.splitlines() if "error" in line] or [f"exit code {done.returncode}"]
            raise NotCompiled(said[0])
        part.replace(to)  # whole or not there, whoever else compiles it now
