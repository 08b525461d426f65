"""Which Ray a run uses. What can't be used is found out within seconds and said in one line."""

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import venv
from pathlib import Path

import pytest

from metaphase.core.cell import ConfigError
from metaphase.sweeps.execution import cluster
from tests.tools.processes import kill

RAY = (sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--num-cpus=1", "--block")
# In a Ray that runs: it was started by another version, so far as it says.
ANOTHER = """
import json, sys
from ray._raylet import GcsClient
client = GcsClient(address=sys.argv[1])
key, space = b"CLUSTER_METADATA", b"cluster"
said = json.loads(client.internal_kv_get(key, space))
client.internal_kv_put(key, json.dumps({**said, "ray_version": "2.7.0"}).encode(), True, space)
"""


@pytest.fixture
def noted(short_folder, monkeypatch):
    """Writes a note as `ray start` leaves it, and returns what `find_cluster` finds."""
    monkeypatch.setenv("RAY_TMPDIR", str(short_folder))
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    note = short_folder / "ray" / "ray_current_cluster"
    note.parent.mkdir()

    def find(text, owner=None):
        note.write_text(text)
        if owner is not None:
            os.chown(note, owner, owner)
        return cluster.find_cluster()

    return find


@pytest.fixture
def dumb():
    """An address where connections are taken and nothing is ever said."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        taken = []

        def accept():
            with contextlib.suppress(OSError):
                while True:
                    taken.append(listening.accept()[0])

        threading.Thread(target=accept, daemon=True).start()
        yield f"127.0.0.1:{listening.getsockname()[1]}"
        listening.shutdown(socket.SHUT_RDWR)


def nobody():
    with socket.socket() as once:
        once.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{once.getsockname()[1]}"


def one_line(capsys, pattern):
    err = capsys.readouterr().err
    assert err.count("\n") == 1, err
    assert re.search(pattern, err), err


def test_a_note_of_a_ray_that_is_gone_costs_no_time(noted, capsys):
    address, started = nobody(), time.monotonic()
    assert noted(address) is None
    assert time.monotonic() - started < 60
    one_line(capsys, rf"Ray at {address} \(so says .*/ray_current_cluster\) is not used: nothing ")


def test_a_note_of_what_is_no_ray_costs_seconds(noted, dumb, capsys, monkeypatch):
    monkeypatch.setattr(cluster, "TRY_SECONDS", 3.0)
    assert noted(dumb) is None
    one_line(capsys, "is not used: it doesn't answer as a Ray within 3 s")


ODD_NOTES = (
    "",
    "nonsense",
    "127.0.0.1:x",
    "127.0.0.1:99999",
    ":6379",
    "\x1b[2J\n\nx\x07",
    "x" * 10**6,
)


@pytest.mark.parametrize("text", ODD_NOTES, ids=range(len(ODD_NOTES)))
def test_a_note_that_says_nothing_is_not_followed(noted, capsys, text):
    assert noted(text) is None
    err = capsys.readouterr().err
    assert len(err) < 1000
    assert err.removesuffix("\n").isprintable()
    assert "is not used: that is no address" in err


def test_a_pipe_in_the_note_s_place_is_not_waited_for(short_folder, monkeypatch):
    monkeypatch.setenv("RAY_TMPDIR", str(short_folder))
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    (short_folder / "ray").mkdir()
    os.mkfifo(short_folder / "ray" / "ray_current_cluster")
    assert cluster.find_cluster() is None


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_a_note_of_another_user_is_not_followed(noted, dumb, capsys):
    assert noted(dumb, owner=54321) is None
    one_line(capsys, f"it is another user's; RAY_ADDRESS={dumb} uses it all the same")


def test_an_address_that_the_user_names_must_be_good(noted, dumb, monkeypatch, capsys):
    monkeypatch.setattr(cluster, "ANSWER_SECONDS", 0.2)
    monkeypatch.setattr(cluster, "TRY_SECONDS", 3.0)
    gone = nobody()
    for address, why in (
        (gone, "nothing answers there"),
        (f"ray://{gone}", "nothing answers there"),
        (dumb, "it doesn't answer as a Ray within 3 s"),
    ):
        monkeypatch.setenv("RAY_ADDRESS", address)
        with pytest.raises(ConfigError, match=rf"^RAY_ADDRESS: .* at {address}: {why}.*$") as error:
            cluster.find_cluster()
        assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "address",
    ["ray://u:CANARY@127.0.0.1:9", "CANARY@127.0.0.1:9", "ray://127.0.0.1:9?token=CANARY"],
)
def test_credentials_in_an_address_are_refused_unseen(address, monkeypatch, caplog):
    monkeypatch.setenv("RAY_ADDRESS", address)
    with pytest.raises(ConfigError, match=r"^RAY_ADDRESS: .*; allowed: HOST:PORT, ") as error:
        cluster.find_cluster()
    assert "CANARY" not in str(error.value) + caplog.text


def test_an_empty_address_is_none(noted, monkeypatch, capsys):
    for address in ("", " ", "local"):
        monkeypatch.setenv("RAY_ADDRESS", address)
        assert cluster.find_cluster() is None
    assert capsys.readouterr().err == ""


def test_what_ray_start_left_under_tmpdir(short_folder, monkeypatch, capsys):
    """Found while it lives and is of our version; not used of another, nor when it was killed."""
    monkeypatch.setenv("TMPDIR", str(short_folder))
    for name in ("RAY_ADDRESS", "RAY_TMPDIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(cluster, "TRY_SECONDS", 60.0)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [*RAY, f"--port={port}", "--include-dashboard=false", "--disable-usage-stats"]
    process = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    note = short_folder / "ray" / "ray_current_cluster"
    try:
        while not note.exists() or not note.read_text():
            assert process.poll() is None
            time.sleep(0.2)
        address = note.read_text()
        assert address.endswith(f":{port}")
        assert cluster.find_cluster() == address
        assert capsys.readouterr().err == ""

        subprocess.run([sys.executable, "-c", ANOTHER, address], check=True)
        assert cluster.find_cluster() is None
        one_line(capsys, r"is not used: Version mismatch: .*Ray: 2\.7\.0")
        monkeypatch.setenv("RAY_ADDRESS", address)
        with pytest.raises(ConfigError, match=r"^RAY_ADDRESS: .*Version mismatch: .*2\.7\.0"):
            cluster.find_cluster()
        monkeypatch.delenv("RAY_ADDRESS")
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        for other in Path("/proc").glob("[0-9]*"):  # what Ray put into groups of their own
            with contextlib.suppress(OSError):
                if str(short_folder) in (other / "cmdline").read_text(errors="replace"):
                    kill(int(other.name))
    assert note.exists()
    assert cluster.find_cluster() is None
    one_line(capsys, "is not used: nothing answers there")


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_real_ray_of_another_version(tmp_path, short_folder, monkeypatch, capsys):
    other = tmp_path / "other"
    venv.create(other, with_pip=False)
    pip = [sys.executable, "-m", "pip", "--python", str(other / "bin" / "python"), "install", "-q"]
    if subprocess.run([*pip, "--no-deps", "ray==2.55.1"]).returncode:
        pytest.skip("no package registry here")
    [place] = other.glob("lib/python*/site-packages")  # what Ray needs comes from ours
    paths = [path for path in sys.path if path.endswith("site-packages")]
    (place / "base.pth").write_text("\n".join(paths))
    monkeypatch.setenv("TMPDIR", str(short_folder))
    for name in ("RAY_ADDRESS", "RAY_TMPDIR"):
        monkeypatch.delenv(name, raising=False)
    command = [other / "bin" / "python", *RAY[1:], "--port=0", "--include-dashboard=false"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    note = short_folder / "ray" / "ray_current_cluster"
    try:
        while not note.exists() or not note.read_text():
            assert process.poll() is None
            time.sleep(0.2)
        assert cluster.find_cluster() is None
        one_line(capsys, r"is not used: Version mismatch: .*Ray: 2\.55\.1")
    finally:
        process.terminate()
        process.wait()
