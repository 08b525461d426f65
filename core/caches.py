"""Folders of this user for what is built, or found out, on this machine."""

from __future__ import annotations

import contextlib
import os
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path


def folders() -> Iterator[Path]:
    """In the home, else among the temporary files. The first may not be there, or not be writable.

    Only a folder of our own is taken, so that others can't write what is loaded from there.
    """
    home = os.path.expanduser("~")  # stays as it is where nobody knows
    cache = Path(os.environ.get("XDG_CACHE_HOME") or f"{home}/.cache") / "metaphase"
    if cache.is_absolute():
        with contextlib.suppress(OSError):
            cache.mkdir(parents=True, exist_ok=True)
        yield cache
    cache = Path(tempfile.gettempdir()) / f"metaphase-kernels-{os.geteuid()}"
    with contextlib.suppress(OSError):
        cache.mkdir(mode=0o700, exist_ok=True)
        found = cache.lstat()
        ours = stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid()
        if ours and not found.st_mode & 0o022:
            yield cache


def read(name: str) -> str | None:
    """The content of a file in one of them; None if none has it."""
    for folder in folders():
        with contextlib.suppress(OSError, UnicodeDecodeError):
            return (folder / name).read_text(encoding="utf-8")
    return None


def write(name: str, text: str) -> Path | None:
    """Makes a file in the first that can be written hold this, at once for every reader. Returns
    where it is; None if none can be written."""
    for folder in folders():
        with contextlib.suppress(OSError):
            handle, made = tempfile.mkstemp(dir=folder)
            with open(handle, "w", encoding="utf-8") as file:
                file.write(text)
            os.replace(made, folder / name)
            return folder / name
    return None


def for_triton() -> Path | None:
    """The folder where Triton keeps what it has compiled. It has one in the home; where that can't
    be written it is told another one, before it is imported. None: it has none."""
    name = "TRITON_CACHE_DIR"
    home = os.environ.get("TRITON_HOME") or os.path.expanduser("~")
    for folder in (Path(os.environ.get(name) or f"{home}/.triton/cache"), *folders()):
        with contextlib.suppress(OSError):
            folder.mkdir(parents=True, exist_ok=True)
            if os.access(folder, os.W_OK):
                os.environ[name] = str(folder)
                return folder
    return None
