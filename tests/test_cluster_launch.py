"""A real launch on this machine: an SSH server on loopback, `ray up` of the on-premise file, `ray
submit` of the quickstart, `ray job submit` of some of its cells, `ray down`. All of it in a home of
its own. `ray down` ends every Ray on the machine, other users' too."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest
import yaml

from tests import ROOT

FILES = sorted((ROOT / "cluster").glob("*.yaml"))
CLUSTERS = [path for path in FILES if "kuberay" not in path.name]
SOME = ["--set", "num_tasks=[1,64]", "--set", "model_size=[4,8]", "--set", "seed=0"]


@pytest.mark.parametrize("path", CLUSTERS, ids=lambda path: path.stem)
def test_cluster_files_are_what_ray_takes(path):
    import ray
    from jsonschema import validate

    schema = Path(ray.__file__).parent / "autoscaler" / "ray-schema.json"
    validate(yaml.safe_load(path.read_text()), json.loads(schema.read_text()))


def test_other_cluster_files_parse():
    [job] = yaml.safe_load_all((ROOT / "cluster" / "kuberay-rayjob.yaml").read_text())
    assert job["kind"] == "RayJob"
    subprocess.run(["bash", "-n", ROOT / "cluster" / "slurm.sbatch"], check=True)


def free_port() -> int:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return listening.getsockname()[1]


def may_listen_at_22() -> bool:
    with socket.socket() as listening:
        try:
            listening.bind(("127.0.0.1", 22))
        except OSError:
            return False
    return True


needs_ssh = pytest.mark.skipif(
    shutil.which("sshd") is None or shutil.which("rsync") is None or not may_listen_at_22(),
    reason="needs OpenSSH's server, rsync and port 22 of loopback",
)


@pytest.fixture
def home(tmp_path):
    """A home with a key, and a server on 127.0.0.1:22 that lets this key in, into that home."""
    home = tmp_path / "home"
    (home / ".ssh").mkdir(parents=True)
    for name in ("key", "host"):
        command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(tmp_path / name)]
        subprocess.run(command, check=True)
    authorized = tmp_path / "authorized_keys"
    shutil.copy(tmp_path / "key.pub", authorized)
    # What the cluster file's set-up does on a real machine: the environment first on PATH.
    profile = f"export PATH={Path(sys.executable).parent}:/usr/local/bin:/usr/bin:/bin\n"
    (home / ".bash_profile").write_text(profile)
    os.makedirs("/run/sshd", exist_ok=True)
    options = {
        "ListenAddress": "127.0.0.1",
        "HostKey": tmp_path / "host",
        "AuthorizedKeysFile": authorized,
        "PidFile": tmp_path / "sshd.pid",
        "StrictModes": "no",
        "PasswordAuthentication": "no",
        "PermitRootLogin": "prohibit-password",
        "UsePAM": "no",
        "SetEnv": f"HOME={home}",
    }
    words = [word for key, value in options.items() for word in ("-o", f"{key}={value}")]
    server = subprocess.Popen([shutil.which("sshd"), "-D", "-f", "/dev/null", *words])
    time.sleep(1)
    yield home
    server.terminate()
    server.wait()


@pytest.mark.slow
@pytest.mark.timeout(600)
@needs_ssh
def test_a_real_launch(home, tmp_path):
    pytest.importorskip("ray.dashboard.optional_deps", reason="needs ray[default]")
    settings = yaml.safe_load((ROOT / "cluster" / "on-premise.yaml").read_text())
    settings["provider"] |= {"head_ip": "127.0.0.1", "worker_ips": []}
    settings["auth"] = {
        "ssh_user": os.environ.get("USER", "root"),
        "ssh_private_key": str(tmp_path / "key"),
    }
    port, dashboard = free_port(), free_port()
    settings |= {"setup_commands": [], "file_mounts": {}, "cluster_name": f"test-{port}"}
    # Others may run Ray on this machine: own ports, and no `ray stop` before.
    start = settings["head_start_ray_commands"][1].replace("6379", str(port))
    start += f" --dashboard-port={dashboard} --num-cpus=2"
    settings["head_start_ray_commands"] = [start]
    file = tmp_path / "cluster.yaml"
    file.write_text(yaml.safe_dump(settings))
    environment = os.environ | {
        "HOME": str(home),
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "RAY_ADDRESS": f"127.0.0.1:{port}",
    }

    def run(*command: str, **more) -> str:
        done = subprocess.run(
            command, env=environment | more, capture_output=True, text=True, cwd=tmp_path
        )
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
        return done.stdout

    root = tmp_path / "results"
    try:
        run("ray", "up", "-y", str(file))
        arguments = ["quickstart", "--root", str(root)]
        script = str(ROOT / "sweeps" / "run.py")
        output = run("ray", "submit", str(file), script, "--", *arguments, "--set", "name=submit")
        assert "64 of 64 cells are finished" in output
        assert len(pd.read_parquet(root / "submit" / "cells")) == 64

        address = f"http://127.0.0.1:{dashboard}"
        command = ["python", "-m", "metaphase.sweeps.run", *arguments, *SOME, "--set", "name=job"]
        job = ("ray", "job", "submit", "--working-dir", str(ROOT / "sweeps"), "--", *command)
        output = run(*job, RAY_ADDRESS=address)
        assert "4 of 4 cells are finished" in output
        cells = pd.read_parquet(root / "job" / "cells").set_index("cell_id")
        submitted = pd.read_parquet(root / "submit" / "cells").set_index("cell_id")
        assert (cells.unseen_last == submitted.unseen_last[cells.index]).all()
    finally:
        subprocess.run(["ray", "down", "-y", str(file)], env=environment, capture_output=True)
