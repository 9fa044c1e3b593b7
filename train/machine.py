"""This machine without torch: its processor, its compiler, and the environment of its workers."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from pathlib import Path

from ..models.config import ModelConfig

BROKEN_COMPILER = "the C++ compiler fails on a program of one line: training runs eagerly, 1.6 to 4 times as long"
NO_COMPILER = "no C++ compiler found (g++ or clang++): training runs eagerly, 1.6 to 4 times as long"
FUSED_MULTIPLE = 16  # of head_dim and d_ff: so many fp32 or, widened, bf16 fill the largest register


def cpu_name() -> str:
    """The processor's own name."""
    info = Path("/proc/cpuinfo")
    names = (
        [line.split(":", 1)[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")]
        if info.exists()
        else []
    )
    return names[0] if names else platform.processor() or platform.machine()


def processor_features() -> str:
    """The processor's name, and the instruction sets that Linux says it has: code compiled for one may crash another."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    flags = next((line for line in lines if line.lower().startswith(("flags", "features"))), "")
    return f"{cpu_name()} {flags}"


def usable_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def how_trained(device: str, compiled: bool, precision: str) -> str:
    """What a record says of the device of a run: "AMD EPYC, compiled bf16". Speeds of other ways are not this one's."""
    return f"{device}, {'compiled' if compiled else 'eager'} {precision}"


def environment() -> dict[str, str]:
    """Version of Python, and the machine, for the report."""
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "processor": cpu_name(),
        "cores": str(os.cpu_count()),
    }


def compiler() -> str | None:
    """The C++ compiler that torch.compile would use for CPU code."""
    named = os.environ.get("CXX")
    return next(
        (path for name in ([named] if named else ["g++", "clang++", "c++"]) if (path := shutil.which(name))), None
    )


def has_compiler() -> bool:
    """Whether torch.compile finds the C++ compiler that it needs for CPU code."""
    return compiler() is not None


def compiler_works() -> bool:
    """Whether the compiler takes a program that needs its standard library."""
    path, program = compiler(), "#include <vector>\n"
    command = [path or "", "-x", "c++", "-fsyntax-only", "-"]
    return path is not None and subprocess.run(command, input=program, capture_output=True, text=True).returncode == 0


def fuses(model: ModelConfig) -> bool:
    """Whether this machine trains a model with our own C++ (`train/native`): on x86-64, with a compiler, where its dimensions fit.

    On ARM nothing was measured, and a system's own products may be many times as fast as ours.
    """
    fits = model.head_dim % FUSED_MULTIPLE == 0 and model.d_ff % FUSED_MULTIPLE == 0
    return fits and platform.machine() in ("x86_64", "AMD64") and has_compiler()


def compiler_version() -> int:
    """Major version of the C++ compiler, 0 where it does not say."""
    asked = subprocess.run([os.environ.get("CXX", "g++"), "-dumpversion"], capture_output=True, text=True, check=False)
    major = asked.stdout.strip().split(".")[0]
    return int(major) if major.isdigit() else 0


def worker_environment() -> dict[str, str]:
    """Environment of a worker that keeps to one core; must be set before its process starts.

    The allocator's settings (glibc only) keep freed activations instead of returning them to the system at every step,
    which cost a quarter of the speed in page faults (LOG.md).
    """
    one_thread = ["OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "TORCHINDUCTOR_COMPILE_THREADS"]
    keep_memory = {
        "MALLOC_MMAP_THRESHOLD_": str(32 << 20),  # the largest that glibc takes
        "MALLOC_TRIM_THRESHOLD_": str(512 << 20),
        "MALLOC_TOP_PAD_": str(64 << 20),
    }
    return dict.fromkeys(one_thread, "1") | keep_memory
