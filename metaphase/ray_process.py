"""`metaphase run` in a process of its own: Ray wants signals and environment for itself."""

from __future__ import annotations

import signal
import subprocess
import sys
import tempfile
import threading
from collections import deque
from typing import Any

from metaphase.core.cell import ConfigError
from metaphase.sweeps.store import sweepfile
from metaphase.sweeps.store.storage import Storage

INTERRUPTED = 130  # the command's exit status
_KEEP: dict[bool | str, str] = {True: "--keep-models", "evaluations": "--keep-evaluations"}
# It stops, with checkpoints, if this process dies: PR_SET_PDEATHSIG is 1 (Linux alone has it).
_CHILD = """
import ctypes, signal, sys
if sys.platform == "linux":
    ctypes.CDLL(None).prctl(1, signal.SIGTERM)
from metaphase.sweeps.run import main
sys.exit(main(sys.argv[1:]))
"""


def run(
    settings: dict[str, Any],
    root: str,
    *,
    data_root: str,
    pack_size: int | None,
    keep_models: bool | str,
    boundary: bool | None,
    retry_failed: bool,
    other_numerics: str,
    time_limit: float | None,
    shown: bool,
) -> None:
    """Runs the command to its end. Arguments as for `metaphase.run`; `settings` are the sweep's.

    Raises:
        ConfigError: the command ended with an error, which is this one's line.
        KeyboardInterrupt: an interrupt came; the command has stopped, with checkpoints.
        RuntimeError: the command died.
    """
    with tempfile.TemporaryDirectory(prefix="metaphase-") as folder:
        stored = Storage(folder, "sweep")
        sweepfile.write_settings(stored, settings)  # with the code of plug-ins
        path = f"{stored}/{sweepfile.NAME}"
        command = [sys.executable, "-c", _CHILD, path, f"--root={root}"]
        command += [f"--data-root={data_root}", f"--other-numerics={other_numerics}"]
        command += [] if pack_size is None else [f"--pack-size={pack_size}"]
        command += ["--retry-failed"] * retry_failed
        command += [] if boundary is None else ["--boundary" if boundary else "--no-boundary"]
        command += [_KEEP[keep_models]] if keep_models else []
        child = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,  # a terminal's Ctrl-C comes to this process alone
        )
        limit = threading.Timer(time_limit or 0, child.send_signal, [signal.SIGINT])
        limit.daemon = True
        if time_limit is not None:
            limit.start()
        try:
            _follow(child, shown)
        finally:
            limit.cancel()


def _follow(child: subprocess.Popen[str], shown: bool) -> None:
    """Shows what the command prints, and raises what it came to."""
    assert child.stdout is not None
    interrupted = False
    last: deque[str] = deque(maxlen=5)
    error = ""
    while True:
        try:
            for line in child.stdout:
                if " has no effect: " in line:  # the sweep has warned of it
                    continue
                last.append(line.rstrip())
                if line.startswith("error: "):
                    error = line.removeprefix("error: ").strip()
                elif shown:  # "This continues: ..." names a file that is about to go
                    stopped = "Stopped. The same call continues.\n"
                    print(stopped if line.startswith("Stopped. ") else line, end="", flush=True)
            status = child.wait()
            break
        except KeyboardInterrupt:
            if interrupted:
                child.kill()
                raise
            interrupted = True
            child.send_signal(signal.SIGINT)
    if interrupted:
        raise KeyboardInterrupt
    if error:
        raise ConfigError(error)
    if status not in (0, 1, INTERRUPTED):  # 1: cells failed
        raise RuntimeError(f"metaphase run ended with status {status}: {' '.join(last)}")
