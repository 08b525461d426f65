"""Commands whose output nobody takes, or can't take, and processes without a home or a name."""

import os
import signal
import subprocess
import sys
import time

import pytest

from tests.tools.namespaces import NOBODY, needs_nobody, python

LIST = (sys.executable, "-m", "metaphase.sweeps.run", "--list")


def test_a_reader_that_is_gone_ends_nothing():
    process = subprocess.Popen(LIST, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    process.stdout.close()  # as `| true` does
    assert process.stderr.read() == b""
    assert process.wait() == 0


def test_closed_streams_end_nothing():
    for closed in (">&-", ">&- 2>&-", "<&- >&- 2>&-"):
        done = subprocess.run(["sh", "-c", f'"$@" {closed}', "sh", *LIST], capture_output=True)
        assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full")
def test_output_that_is_lost_on_a_full_disk_is_said():
    with open("/dev/full", "w") as full:
        done = subprocess.run(LIST, stdout=full, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 1
    assert done.stderr == "error: standard output: No space left on device\n"


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_other_encodings_get_all_that_they_can_write(encoding):
    code = "print('1 \\u00b1 2 \\u2192 \\u221e') or 0"
    done = python(
        "-c",
        f"from metaphase.core.process import as_command; as_command(lambda: {code})()",
        PYTHONIOENCODING=encoding,
        LC_ALL="C",
        PYTHONCOERCECLOCALE="0",
        PYTHONUTF8="0",
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("1 ")
    assert done.stdout.endswith(r" 2 \u2192 \u221e" + "\n")


@needs_nobody
def test_who_has_no_home_and_no_name_gets_them():
    code = (
        "import getpass, pathlib; from metaphase.core.process import prepare; prepare(); "
        "print(pathlib.Path.home(), getpass.getuser()); import ray.tune"
    )
    nothing = dict.fromkeys(("HOME", "USER", "LOGNAME", "LNAME", "USERNAME"))
    done = python("-c", code, prefix=NOBODY, **nothing)
    assert (done.stdout, done.returncode) == ("/ 54321\n", 0), done.stderr


def test_the_end_of_the_terminal_ends_neither_the_process_nor_what_it_starts():
    code = (
        "import subprocess, sys; from metaphase.core.process import outlived\n"
        "with outlived():\n"
        "    child = subprocess.Popen(['sleep', '60'])\n"
        "    print(child.pid, flush=True)\n"
        "    input()\n"
        "    print(child.poll()); child.kill()"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    child = int(process.stdout.readline())
    for pid in (process.pid, child):
        os.kill(pid, signal.SIGHUP)
    time.sleep(0.2)
    out, _ = process.communicate("\n", timeout=60)
    assert (out, process.returncode) == ("None\n", 0)
