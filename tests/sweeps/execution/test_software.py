"""Machines of a cluster with other software than the driver's: named, and no cell is blamed."""

import re
import shutil
import subprocess
import sys
import sysconfig
import time
import venv
from pathlib import Path

import pytest
from ray.cluster_utils import Cluster

from metaphase.sweeps.execution.software import difference, installed
from metaphase.sweeps.store.results import Results
from tests import ROOT
from tests.sweeps.test_run import PRESET


def test_what_differs_is_said_in_words():
    here = installed()
    assert here.keys() == {"metaphase", "torch"}
    assert difference(here, here) == ""
    assert difference({}, here) == ""  # as on the driver's machine
    assert difference(here, {"torch": here["torch"]}) == "lacks metaphase"
    assert difference({"torch": "2.9.1"}, {"torch": "2.8.0"}) == "has torch 2.8.0 (here 2.9.1)"
    both = difference(here, {"metaphase": "0123"})
    assert both.startswith("has another metaphase (source 0123, here ")
    assert both.endswith(" and lacks torch")


def test_the_package_s_version_is_its_source(tmp_path):
    code = (
        "from metaphase.sweeps.execution.software import installed; print(installed()['metaphase'])"
    )

    def version():
        done = subprocess.run(
            [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True
        )
        return done.stdout.strip()

    package = tmp_path / "metaphase"
    for name in ("core", "sweeps"):
        shutil.copytree(ROOT / name, package / name)
    shutil.copy(ROOT / "metaphase" / "__init__.py", package)
    assert version() == installed()["metaphase"]
    with (package / "core" / "rng.py").open("a") as file:
        file.write("\n")
    assert version() != installed()["metaphase"]


@pytest.fixture
def bare(tmp_path):
    """A Python that has all that ours has, but not the package."""
    venv.create(tmp_path / "bare", with_pip=False)
    python = tmp_path / "bare" / "bin" / "python"
    place = subprocess.run(
        [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()
    paths = [sysconfig.get_path("purelib")]
    for path in Path(paths[0]).glob("*.pth"):
        if "editable" not in path.name:
            paths += [line for line in path.read_text().splitlines() if Path(line).is_dir()]
    (Path(place) / "base.pth").write_text("\n".join(paths))
    found = subprocess.run([python, "-c", "import metaphase"], cwd="/", capture_output=True)
    if not found.returncode:
        pytest.skip("the package is found without its installation")
    return python


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_machine_without_the_package_is_named(bare, tmp_path, monkeypatch):
    """It joins while the command waits for machines, and then it is there from the start."""
    preset = tmp_path / "tiny.yaml"
    preset.write_text(PRESET)
    monkeypatch.setattr("ray._private.utils.write_ray_address", lambda *arguments: None)
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    monkeypatch.setenv("RAY_ADDRESS", cluster.address)
    join = [bare, "-m", "ray.scripts.scripts", "start", "--address", cluster.address, "--block"]

    def launch():  # from elsewhere than the checkout, which workers would find
        command = [
            sys.executable,
            "-m",
            "metaphase.sweeps.run",
            str(preset),
            "--root",
            str(tmp_path),
        ]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        return subprocess.Popen(command, cwd=tmp_path, **pipes)

    def said(err):  # without Ray's own words on the network
        return [line for line in err.splitlines() if "network_util" not in line]

    node = None
    try:
        waiting = launch()
        while not list((tmp_path / "tiny").glob("logs/run-*")) and waiting.poll() is None:
            time.sleep(0.2)
        node = subprocess.Popen(
            [*join, "--num-cpus=1"], cwd="/", stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        out, err = waiting.communicate(timeout=400)
        assert waiting.returncode == 1, (out, err)
        [line] = said(err)
        assert re.fullmatch(r"error: [0-9.]+ lacks something: No module named 'metaphase'", line)
        assert Results(str(tmp_path), "tiny").finished() == {}

        out, err = launch().communicate(timeout=400)
        need = "error: the cluster's machines need the same software as this one: "
        [line] = said(err)
        assert re.fullmatch(f"{need}[0-9.]+ lacks metaphase", line)
        assert Results(str(tmp_path), "tiny").finished() == {}
    finally:
        if node:
            node.terminate()
            node.wait()
        cluster.shutdown()
