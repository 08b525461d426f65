"""What runs below a process, and ending it: for tests that kill."""

from __future__ import annotations

import contextlib
import os
import signal
from pathlib import Path


def descendants(pid: int) -> dict[int, str]:
    """{pid: command line} of all processes below this one."""
    parents, names = {}, {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                stat = (entry / "stat").read_text().rpartition(")")[2].split()
                line = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            except (OSError, ValueError):
                continue
            parents[int(entry.name)], names[int(entry.name)] = int(stat[1]), line
    below, found = {pid}, {}
    while below:
        below = {child for child, parent in parents.items() if parent in below}
        found |= {child: names[child] for child in below}
    return found


def kill(pid: int) -> bool:
    """Whether it was there to be killed."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
        return True
    return False


def sockets(pids: set[int]) -> set[str]:
    """Inodes of the sockets that these processes have open."""
    found = set()
    for pid in pids:
        with contextlib.suppress(OSError):
            for descriptor in Path(f"/proc/{pid}/fd").iterdir():
                with contextlib.suppress(OSError):
                    name = os.readlink(descriptor)
                    if name.startswith("socket:["):
                        found.add(name[8:-1])
    return found


def tcp() -> list[tuple[str, int, bool, str]]:
    """(address as /proc has it, port, whether it listens, inode) of all TCP sockets."""
    found = []
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            words = line.split()
            address, port = words[1].split(":")
            found.append((address, int(port, 16), words[3] == "0A", words[9]))
    return found
