"""What is installed: one import package, beside other programs and users' own code of any name."""

from __future__ import annotations

import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest

from tests import ROOT


def call(*command: object, cwd: Path) -> str:
    done = subprocess.run([*map(str, command)], cwd=cwd, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def tracked(*tops: str) -> list[str]:
    """The files of a checkout that aren't ignored."""
    if not (ROOT / ".git").exists():
        pytest.skip("no checkout")
    listed = ["git", "ls-files", "-co", "--exclude-standard", *tops]
    names = subprocess.check_output(listed, cwd=ROOT, text=True).splitlines()
    return [name for name in names if (ROOT / name).is_file()]  # no links: these lead to folders


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the tracked files: building writes beside the sources."""
    source = tmp_path_factory.mktemp("source")
    for name in tracked():
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_bytes((ROOT / name).read_bytes())
    return source


def test_the_source_distribution_has_what_tests_and_links_need(source):
    code = "from setuptools import build_meta; build_meta.build_sdist('made')"
    call(sys.executable, "-c", code, cwd=source)
    [made] = (source / "made").glob("*.tar.gz")
    with tarfile.open(made) as file:
        names = {name.partition("/")[2] for name in file.getnames()}
    assert {name for name in tracked() if not name.startswith(".")} - {"MANIFEST.in"} <= names
    assert not [name for name in names if "__pycache__" in name]


@pytest.fixture(scope="module")
def wheel(source: Path) -> Path:
    """The wheel of these files."""
    options = ("--no-deps", "--no-build-isolation", "--quiet", "--wheel-dir", source)
    call(sys.executable, "-m", "pip", "wheel", *options, source, cwd=source)
    [made] = source.glob("*.whl")
    return made


def test_the_wheel_has_one_package_with_all_that_is_in_the_folders(wheel):
    with zipfile.ZipFile(wheel) as file:
        names = {name for name in file.namelist() if ".dist-info/" not in name}
    assert {name.split("/")[0] for name in names} == {"metaphase"}
    assert {f"metaphase/{name}" for name in tracked("core", "sweeps", "analysis")} <= names


def test_it_works_beside_others_of_the_same_folder_names(wheel, tmp_path):
    """W&B's engine is a distribution `sweeps`; a user's own code has a folder `core`."""
    venv.create(tmp_path / "venv", with_pip=False)
    python = tmp_path / "venv" / "bin" / "python"
    place = Path(call(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))",
                      cwd=tmp_path).strip())  # fmt: skip
    (place / "ours.pth").write_text(sysconfig.get_path("purelib"))
    with zipfile.ZipFile(wheel) as file:
        file.extractall(place)
    user = tmp_path / "user"
    for package, module in ((place / "sweeps", "run"), (user / "core", "cell")):
        package.mkdir(parents=True)
        (package / "__init__.py").write_text("")
        (package / f"{module}.py").write_text(f"print('another {package.name}')\n")
    code = "import metaphase; print(metaphase.__file__)"
    assert call(python, "-c", code, cwd=user).startswith(str(place))
    assert "quickstart" in call(python, "-m", "metaphase.sweeps.cli", "run", "--list", cwd=user)
    assert "--model-size" in call(python, "-m", "metaphase.core.train", "--help", cwd=user)
    assert call(python, "-m", "sweeps.run", cwd=user) == "another sweeps\n"
    assert call(python, "-m", "core.cell", cwd=user) == "another core\n"


@pytest.mark.parametrize(
    "command",
    [("-m", "sweeps.run", "--list"), ("-m", "analysis.phase_plot", "--help"),
     ("sweeps/run.py", "--list"), ("-m", "core.train", "--help")],
)  # fmt: skip
def test_a_checkout_runs_by_the_names_of_its_folders(command):
    assert call(sys.executable, *command, cwd=ROOT)
