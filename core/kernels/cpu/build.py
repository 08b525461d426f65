"""Builds the CPU's kernels with the C compiler at hand when they are first used.

The built file is kept in the user's cache, named by all that went into it; where the home can't be
written, among the temporary files.
"""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import os
import platform
import shlex
import subprocess
import tempfile
from functools import lru_cache
from pathlib import Path

from metaphase.core import caches, fast_paths

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
    """The built kernels, or None where they can't be built or are switched off."""
    if os.environ.get("METAPHASE_NATIVE") == "0":
        fast_paths.switch_off(fast_paths.CPU, "METAPHASE_NATIVE=0", asked=True)
        return None
    try:
        kernels = _build()
        kernels.attention_kept.restype = ctypes.c_int64
        return kernels
    except (OSError, subprocess.SubprocessError) as error:
        fast_paths.switch_off(fast_paths.CPU, str(error))
        return None


def _build() -> ctypes.CDLL:
    """Loads the kernels, built before or now.

    Raises:
        OSError: they can't be built, or what was built can't be loaded from any place.
    """
    try:  # it may come with options, or behind ccache
        compiler = shlex.split(os.environ.get("CC", "")) or ["cc"]
    except ValueError as error:
        raise OSError(f"CC: {error}") from None
    cpu = platform.processor() + platform.machine()
    if os.path.exists("/proc/cpuinfo"):  # -march=native means another thing on another machine
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        cpu += "".join(sorted({line for line in lines if line.startswith(("flags", "Features"))}))
    code = b"".join(source.read_bytes() for source in _SOURCES + _HEADERS)
    key = hashlib.sha256(code + repr((compiler, cpu, _FLAGS)).encode())
    name = f"kernels-{key.hexdigest()[:16]}.so"
    why = "no folder for them can be written; set XDG_CACHE_HOME to one"
    for cache in caches.folders():
        if (cache / name).exists():
            with contextlib.suppress(OSError):  # it is cut, say: it is built again
                return ctypes.CDLL(str(cache / name))
        try:
            folder = tempfile.TemporaryDirectory(dir=cache)
        except OSError:  # it can't be written
            continue
        with folder:
            made = Path(folder.name) / "making.so"
            _compile(compiler, made)
            with made.open("rb") as file:
                os.fsync(file.fileno())  # else a crash may leave the name and nothing in it
            os.replace(made, cache / name)  # whole or not at all, whoever else builds it now
        try:
            return ctypes.CDLL(str(cache / name))
        except OSError as error:  # of a file system from which nothing is run, say
            why = str(error)
    raise OSError(why)


def _compile(compiler: list[str], made: Path) -> None:
    for number, extra in enumerate(_FOR_THIS_CPU, start=1):
        command = [*compiler, *_FLAGS, *extra, "-o", str(made), *map(str, _SOURCES), "-lm"]
        try:
            subprocess.run(command, check=True, capture_output=True, timeout=_SECONDS)
            break
        except OSError as error:
            missing = isinstance(error, FileNotFoundError)
            what = "no C compiler" if missing else f"{error.strerror}: C compiler"
            raise OSError(f"{what} {compiler[0]!r}") from None
        except subprocess.CalledProcessError as error:
            if number == len(_FOR_THIS_CPU):
                said = error.stderr.decode(errors="replace")[:300] or f"status {error.returncode}"
                raise OSError(f"{shlex.join(compiler)}: {said}") from None
