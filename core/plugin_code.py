"""Code that a user names, by a file, `./file.py:Name`, or an installed package's entry point: what
such a name is, and how it is read and run."""

from __future__ import annotations

import ast
import contextlib
import hashlib
import importlib.metadata
import re
import sys
import sysconfig
import threading
import types
from collections.abc import Iterator
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

from metaphase.core.settings import ConfigError, as_line

ENTRY_POINTS = "metaphase.plugins"  # their group; they are called <kind>.<name>
MAX_BYTES = 1_000_000  # of a file
REFERENCE = re.compile(r"(?P<path>.*\.py):(?P<name>[A-Za-z_]\w*)", re.DOTALL)


def read(kind: str, path: Path) -> bytes:
    """The content of a file of code.

    Args:
        kind: what it is for, with which messages begin.

    Raises:
        ConfigError: it can't be read, or is too large.
    """
    try:
        if path.exists() and not (path.is_file() or path.is_dir()):  # a pipe would never end
            raise ConfigError(f"{kind}: {path} is not a regular file")
        with open(path, "rb") as file:
            source = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"{kind}: can't read {path}: {error.strerror or error}") from None
    if len(source) > MAX_BYTES:
        raise ConfigError(f"{kind}: {path} is larger than {MAX_BYTES} bytes")
    return source


_lock = threading.RLock()


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Inside, no other thread runs a user's file or makes a plug-in known."""
    with _lock:
        yield


@one_thread()
def run(said: str, source: bytes, path: str) -> types.ModuleType:
    """The module that a file's content makes; the same content is run once, to its end.

    Args:
        said: what messages begin with.
        path: where it is, for tracebacks.

    Raises:
        ConfigError: it fails; one line.
    """
    module_name = f"metaphase_plug_in_{hashlib.sha256(source).hexdigest()[:16]}"
    module = sys.modules.get(module_name)
    if module is None:
        module = types.ModuleType(module_name)
        module.__file__ = path
        sys.modules[module_name] = module  # before it runs: dataclasses look there
        try:
            exec(compile(source, path, "exec", dont_inherit=True), module.__dict__)
        except BaseException as error:
            del sys.modules[module_name]  # half-made
            if not isinstance(error, (Exception, SystemExit)):
                raise
            raise ConfigError(f"{said} can't be imported: {as_line(error)}") from None
    return module


def require_one_file(said: str, source: bytes, path: Path) -> None:
    """Raises ConfigError if a file that was run imports another one of its folder: neither results
    trees nor workers would have it, and no name would tell its contents.

    Args:
        said: what messages begin with.
        path: of the file.
    """
    nodes = list(ast.walk(ast.parse(source)))
    names = [alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names]
    names += [node.module or "" for node in nodes if isinstance(node, ast.ImportFrom)]
    folder = path.resolve().parent
    installed = [Path(sysconfig.get_path(key)).resolve() for key in ("purelib", "stdlib")]
    for name in dict.fromkeys(name.partition(".")[0] for name in names):
        file = getattr(sys.modules.get(name), "__file__", None)
        if not file or not (where := Path(file).resolve()).is_relative_to(folder):
            continue
        if any(where.is_relative_to(one) for one in installed):
            continue
        if name not in importlib.metadata.packages_distributions():
            raise ConfigError(f"{said} imports {name} of {where}; a plug-in has to be one file")


@contextlib.contextmanager
def failures_told(said: str) -> Iterator[None]:
    """Whatever a user's code raises becomes a ConfigError of one line that begins with `said`; what
    is a device's fault stays as it is."""
    try:
        yield
    except Exception as error:
        from metaphase.core.devices import is_of_a_device  # imports PyTorch

        if isinstance(error, ConfigError) or is_of_a_device(error):
            raise
        raise ConfigError(f"{said} fails: {as_line(error)}") from error


def of_entry_point(kind: str, name: str) -> tuple[Any, EntryPoint] | None:
    """What an installed package's entry point stands for, and the entry point; None if there is
    none.

    Raises:
        ConfigError: it can't be imported; one line.
    """
    for entry in importlib.metadata.entry_points(group=ENTRY_POINTS):
        if entry.name == f"{kind}.{name}":
            try:
                return entry.load(), entry
            except (Exception, SystemExit) as error:
                said = f"{kind}: {name} (of {entry.value}) can't be imported"
                raise ConfigError(f"{said}: {as_line(error)}") from None
    return None
