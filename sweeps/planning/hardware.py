"""What this machine leaves to this process: CPU cores and memory.

A machine's own counts are too high where a process may use a part of it only: by its CPU affinity
(taskset, Slurm), or by the quotas and limits of its control groups and of those around them
(containers, systemd, Kubernetes), version 1 and 2.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path


def cores() -> int:
    """CPU cores that this process may keep busy, at least 1; a part of one counts as one."""
    if hasattr(os, "sched_getaffinity"):
        count = float(len(os.sched_getaffinity(0)))
    else:
        count = float(os.cpu_count() or 1)
    for group in _groups("cpu"):
        both = _numbers(group / "cpu.max")
        if not both:
            both = _numbers(group / "cpu.cfs_quota_us") + _numbers(group / "cpu.cfs_period_us")
        if len(both) == 2 and min(both) > 0:  # else there is no quota
            count = min(count, both[0] / both[1])
    return max(1, math.ceil(count))


def memory() -> float:
    """Bytes of memory that this process and those below it can still get."""
    left = float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    available = _entry(Path("/proc/meminfo"), "MemAvailable:")  # in KiB
    if available is not None:
        left = available * 1024.0
    for group in _groups("memory"):
        for limit, usage, cache in (
            ("memory.max", "memory.current", "inactive_file"),
            ("memory.high", "memory.current", "inactive_file"),
            ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
        ):
            most, used = _numbers(group / limit), _numbers(group / usage)
            if most and used:  # what is only cache is given back when it is needed
                cached = _entry(group / "memory.stat", cache) or 0
                left = min(left, most[0] - max(0, used[0] - cached))
    return float(max(0.0, left))


def _groups(controller: str) -> Iterator[Path]:
    """Folders of the control groups that hold this process, inner ones first, as far as they are
    to be seen. What isn't there of a folder's files is none of that version."""
    try:
        lines = Path("/proc/self/cgroup").read_text(errors="replace").splitlines()
        mounts = Path("/proc/self/mountinfo").read_text(errors="replace").splitlines()
    except OSError:  # another kind of system
        return
    inside: dict[str, str] = {}  # {controller, "" in version 2: path of the group}
    for line in lines:
        _, names, place = line.split(":", 2)
        inside |= dict.fromkeys(names.split(","), place)
    for mount in mounts:
        before, _, after = mount.partition(" - ")
        kind, _, options = after.split(" ", 2)
        name = "" if kind == "cgroup2" else controller
        if not kind.startswith("cgroup") or name not in inside:
            continue
        if kind == "cgroup" and controller not in options.split(","):
            continue
        root, folder = before.split(" ")[3:5]
        group = Path(inside[name])
        # In a container the path may be the machine's and the mount its end: only that is there.
        below = group.relative_to(root) if group.is_relative_to(root) else Path()
        if ".." in below.parts:
            below = Path()
        group = Path(folder) / below
        while True:
            yield group
            if group == Path(folder):
                break
            group = group.parent


def _numbers(file: Path) -> tuple[int, ...]:
    """The whole numbers in a file; none if it isn't there, or says that there is no limit."""
    try:
        return tuple(int(word) for word in file.read_text().split())
    except (OSError, ValueError):  # "max"
        return ()


def _entry(file: Path, name: str) -> int | None:
    """The number that follows a name at the beginning of a line."""
    try:
        for line in file.read_text().splitlines():
            words = line.split()
            if words[:1] == [name]:
                return int(words[1])
    except (OSError, ValueError, IndexError):
        pass
    return None
