"""Builds the CPU's kernels with the C compiler at hand, when they are first used.

The built file is kept in the user's cache, named by all that went into it.
"""

from __future__ import annotations

import ctypes
import hashlib
import logging
import os
import platform
import subprocess
import tempfile
from functools import lru_cache
from pathlib import Path

logger = logging.getLogger(__name__)

_SOURCES = sorted(Path(__file__).parent.glob("*.c"))
_HEADERS = sorted(Path(__file__).parent.glob("*.h"))
_FLAGS = [
    *("-O3", "-std=gnu11", "-fopenmp-simd", "-fPIC", "-shared"),
    "-ffp-contract=off",  # which sums are fused is said in the code, as it decides the last bits
    "-fno-math-errno",  # else a loop with a square root isn't vectorized
]
# The first of these that the compiler takes.
_FOR_THIS_CPU: tuple[list[str], ...] = (["-march=native"], ["-mcpu=native"], [])
_SECONDS = 300  # a compiler that takes longer is given up


@lru_cache(maxsize=1)
def library() -> ctypes.CDLL | None:
    """The built kernels, or None where they can't be built."""
    if os.environ.get("PHASESWEEP_NATIVE") == "0":
        return None
    try:
        kernels = ctypes.CDLL(str(_build()))
        kernels.attention_kept.restype = ctypes.c_int64
        return kernels
    except (OSError, subprocess.SubprocessError) as error:
        logger.warning("no CPU kernels, plain PyTorch instead: %s", error)
        return None


def _build() -> Path:
    compiler = os.environ.get("CC", "cc")
    cpu = platform.processor() + platform.machine()
    if os.path.exists("/proc/cpuinfo"):  # -march=native means another thing on another machine
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        cpu += "".join(sorted({line for line in lines if line.startswith(("flags", "Features"))}))
    code = b"".join(source.read_bytes() for source in _SOURCES + _HEADERS)
    key = hashlib.sha256(code + repr((compiler, cpu, _FLAGS)).encode())
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "phasesweep"
    built = cache / f"kernels-{key.hexdigest()[:16]}.so"
    if built.exists():
        return built
    try:
        cache.mkdir(parents=True, exist_ok=True)
        folder = tempfile.mkdtemp(dir=cache)
    except OSError:  # a home that can't be written
        folder = tempfile.mkdtemp()
        built = Path(folder) / built.name
    made = Path(folder) / "making.so"
    for number, extra in enumerate(_FOR_THIS_CPU, start=1):
        command = [compiler, *_FLAGS, *extra, "-o", str(made), *map(str, _SOURCES), "-lm"]
        try:
            subprocess.run(command, check=True, capture_output=True, timeout=_SECONDS)
            break
        except subprocess.CalledProcessError as error:
            if number == len(_FOR_THIS_CPU):
                raise OSError(
                    f"{compiler}: {error.stderr.decode(errors='replace')[:300]}"
                ) from None
    os.replace(made, built)  # whole or not at all, whoever else builds it now
    if built.parent != Path(folder):
        os.rmdir(folder)
    return built
