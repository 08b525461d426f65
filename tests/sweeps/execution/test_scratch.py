"""The scratch folder: what runs that were killed leave is cleaned, and nothing else."""

import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from metaphase.sweeps.execution.scratch import SOCKET_BYTES, scratch_folder
from tests.tools.namespaces import OWN_MOUNTS, needs_mounts, python

pytestmark = pytest.mark.skipif(not Path("/proc").exists(), reason="reads /proc")
# A run: its folder, a process that writes into it, and one that reads from there.
RUN = """
import subprocess, sys, time
from metaphase.sweeps.execution.scratch import scratch_folder
with scratch_folder() as folder:
    (folder / "r").mkdir()
    (folder / "r" / "read").write_text("x")
    written = (folder / "r" / "log").open("w")
    writer = subprocess.Popen(["sleep", "100"], stdout=written)
    reader = subprocess.Popen(["sleep", "100"], stdin=(folder / "r" / "read").open())
    print(folder, writer.pid, reader.pid, flush=True)
    time.sleep(100)
"""


@pytest.fixture
def start(short_folder, monkeypatch):
    """Starts a run: (process, its folder, pid of its writer, pid of its reader)."""
    monkeypatch.setenv("RAY_TMPDIR", str(short_folder))
    started = []

    def run():
        process = subprocess.Popen([sys.executable, "-c", RUN], stdout=subprocess.PIPE, text=True)
        folder, *pids = process.stdout.readline().split()
        started.extend([process.pid, *map(int, pids)])
        return process, Path(folder), *map(int, pids)

    yield run
    for pid in started:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def lives(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_it_is_ours_alone_and_gone_afterwards(short_folder, monkeypatch):
    monkeypatch.setenv("RAY_TMPDIR", str(short_folder))
    with scratch_folder() as folder:
        assert folder.parent == short_folder
        assert folder.stat().st_mode & 0o777 == 0o700
        (folder / "r").mkdir()
        (folder / "r" / "file").write_text("x")
        with scratch_folder() as other:  # of another run at the same time
            assert (folder / "r" / "file").exists()
            assert other != folder
    assert list(short_folder.iterdir()) == []


def test_what_a_killed_run_left_is_cleaned_by_the_next_one(start):
    process, folder, writer, reader = start()
    process.kill()
    process.wait()
    assert folder.exists()
    assert lives(writer)
    with scratch_folder():
        assert not folder.exists()
        assert not lives(writer)
        assert lives(reader)  # as who looks at a log there


def test_what_lives_stays(start):
    process, folder, writer, _ = start()
    with scratch_folder():
        assert (folder / "r" / "log").exists()
        assert lives(writer)
        assert process.poll() is None


def test_what_is_not_ours_stays(short_folder, start, tmp_path):
    (short_folder / "metaphase-kernels-0").mkdir()
    (short_folder / "metaphase-notes").write_text("")
    (tmp_path / "lock").write_text("")
    (short_folder / "metaphase-link").symlink_to(tmp_path)
    foreign = short_folder / "metaphase-foreign1"
    foreign.mkdir()
    (foreign / "lock").write_text("")
    if os.geteuid() == 0:
        os.chown(foreign, 54321, 54321)
    else:
        foreign.rmdir()
    before = sorted(short_folder.iterdir())
    with scratch_folder():
        pass
    assert sorted(short_folder.iterdir()) == before
    assert (tmp_path / "lock").exists()


def test_a_long_path_is_passed_over(tmp_path, monkeypatch):
    long = tmp_path / ("x" * 100)
    long.mkdir()
    monkeypatch.setenv("TMPDIR", str(long))
    monkeypatch.delenv("RAY_TMPDIR", raising=False)
    with scratch_folder() as folder:
        socket = folder / "r" / "session_2026-11-28_01-09-48_123456_4194304/sockets/plasma_store"
        assert len(os.fsencode(socket)) <= SOCKET_BYTES
        assert list(long.iterdir()) == []


@needs_mounts
def test_where_nothing_can_be_written_one_line_says_what_to_set():
    read_only = " && ".join(f"mount -t tmpfs -o ro none {p}" for p in ("/tmp", "/var/tmp"))
    code = (
        "from metaphase.sweeps.execution.scratch import scratch_folder\n"
        "try: scratch_folder().__enter__()\n"
        "except Exception as error: print(type(error).__name__, error)"
    )
    prefix = (*OWN_MOUNTS, "sh", "-c", f'{read_only} && mount -t tmpfs -o ro none /dev/shm && "$@"')
    done = python("-c", code, prefix=(*prefix, "sh"), TMPDIR="/proc/nowhere", RAY_TMPDIR=None)
    assert done.stdout.startswith("ConfigError RAY_TMPDIR: set it to a folder that can be written")
    assert done.stdout.count("\n") == 1, done.stderr
