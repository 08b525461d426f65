"""What is mirrored is known by where it is."""

import json
import subprocess
import sys
from types import SimpleNamespace

import pytest

from metaphase.sweeps.places import without_secrets
from metaphase.sweeps.trackers import mirror
from metaphase.sweeps.trackers.backends import TRACKERS
from tests.sweeps.trackers.by_hand import by_hand


class Elsewhere:
    def __init__(self, destination):
        self.destination = destination
        self.cells = []

    def write(self, run):
        self.cells.append(run.cell_id)

    def close(self):
        pass


def test_each_destination_gets_all(results, tmp_path):
    for destination in ("", "a", "b"):
        for taken in (3, 0):
            made = mirror.Mirror(results, "test", tmp_path / "m", Elsewhere(destination))
            assert made.catch_up() == taken
            assert len(made.done) == 3
            assert made.left == 0


def test_a_ledger_of_before_is_that_of_the_usual_place(results, tmp_path):
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "mirrored.json").write_text(json.dumps(results.finished()))
    made = mirror.Mirror(results, "test", tmp_path / "m", Elsewhere(""))
    assert (made.catch_up(), len(made.done)) == (0, 3)
    assert mirror.Mirror(results, "test", tmp_path / "m", Elsewhere("a")).catch_up() == 3


def test_each_cell_is_noted_when_it_is_taken(results, tmp_path):
    class Ends(Elsewhere):
        def write(self, run):
            super().write(run)
            if len(self.cells) == 3:
                raise KeyboardInterrupt

    ends = Ends("")
    with pytest.raises(KeyboardInterrupt):
        mirror.Mirror(results, "test", tmp_path / "m", ends).catch_up()
    ledger = tmp_path / "m" / mirror.LEDGER
    ledger.write_text(ledger.read_text() + '\n{"cell_id": "' + ends.cells[2])  # torn
    again = Elsewhere("")
    assert mirror.Mirror(results, "test", tmp_path / "m", again).catch_up() == 1
    assert again.cells == ends.cells[2:]
    assert mirror.Mirror(results, "test", tmp_path / "m", again).catch_up() == 0


STUBS = {
    "mlflow": SimpleNamespace(MlflowClient=lambda uri: None),
    "trackio": SimpleNamespace(),
    "tensorboardX": SimpleNamespace(),
}


@pytest.mark.parametrize(
    ("name", "variables", "destination"),
    [
        ("tensorboard", {}, ""),
        ("mlflow", {}, ""),
        ("mlflow", {"MLFLOW_TRACKING_URI": ""}, ""),
        ("mlflow", {"MLFLOW_TRACKING_URI": "sqlite:////o/a.db"}, "sqlite:////o/a.db"),
        ("mlflow", {"MLFLOW_TRACKING_URI": "sqlite:///a.db"}, "sqlite:///a.db in {here}"),
        ("mlflow", {"MLFLOW_TRACKING_URI": "file:/o/a"}, "file:/o/a"),
        ("mlflow", {"MLFLOW_TRACKING_URI": "https://me:pw@h:5/x"}, "https://h:5/x"),
        ("trackio", {}, ""),
        ("trackio", {"TRACKIO_DIR": "{here}/m"}, ""),
        ("trackio", {"TRACKIO_DIR": "other"}, "{here}/other"),
        ("trackio", {"TRACKIO_SPACE_ID": "me/space"}, "me/space"),
        ("trackio", {"TRACKIO_SERVER_URL": "http://h/?write_token=pw"}, "http://h/"),
    ],
)  # fmt: skip
def test_what_variables_say_is_a_destination(tmp_path, monkeypatch, name, variables, destination):
    monkeypatch.chdir(tmp_path)
    package = TRACKERS[name][1]
    monkeypatch.setitem(sys.modules, package, STUBS[package])
    for variable in (
        "MLFLOW_TRACKING_URI",
        "TRACKIO_DIR",
        "TRACKIO_SPACE_ID",
        "TRACKIO_SERVER_URL",
    ):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("TRACKIO_DIR", "")  # which trackers set, and this puts back
    for variable, value in variables.items():
        monkeypatch.setenv(variable, value.format(here=tmp_path))
    made = TRACKERS[name][0](tmp_path / "m")
    assert made.destination == destination.format(here=tmp_path)


@pytest.mark.parametrize(
    ("variables", "destination"),
    [
        ({}, ""),
        ({"WANDB_MODE": "online", "WANDB_PROJECT": "metaphase"}, ""),
        ({"WANDB_MODE": "offline"}, "mode=offline"),
        ({"WANDB_ENTITY": "us", "WANDB_PROJECT": "p"}, "entity=us, project=p"),
        ({"WANDB_BASE_URL": "https://me:pw@w.example"}, "base_url=https://w.example"),
    ],
)
def test_what_wandb_says_is_a_destination(tmp_path, variables, destination):
    pytest.importorskip("wandb", reason="wandb isn't there")
    code = """
        import pathlib
        from metaphase.sweeps.trackers import backends
        print(backends.WandB(pathlib.Path("m")).destination)
    """
    lines = "\n".join(line.strip() for line in code.split("\n"))
    out = subprocess.run(
        [sys.executable, "-c", lines], capture_output=True, text=True, check=True, cwd=tmp_path,
        env={"PATH": "", "HOME": str(tmp_path), **variables},
    ).stdout  # fmt: skip
    assert out == f"{destination}\n"


def test_offline_runs_of_two_projects_are_both_there(results, tmp_path, monkeypatch):
    pytest.importorskip("wandb", reason="wandb isn't there")
    monkeypatch.setenv("WANDB_MODE", "offline")
    for project in ("", "p"):
        monkeypatch.setenv("WANDB_PROJECT", project)
        at = f"mode=offline{', project=p' * bool(project)}"
        folder = by_hand(results, "wandb", tmp_path, at=at)
    assert len(list(folder.glob("**/offline-run-*/*.wandb"))) == 6


def test_another_database_gets_all_cells(results, tmp_path, monkeypatch):
    mlflow = pytest.importorskip("mlflow", reason="mlflow isn't there")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    by_hand(results, "mlflow", tmp_path)
    other = f"sqlite:///{tmp_path}/other.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", other)
    by_hand(results, "mlflow", tmp_path, at=other)
    client = mlflow.MlflowClient(other)
    ids = [experiment.experiment_id for experiment in client.search_experiments()]
    assert len(client.search_runs(ids)) == 3
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    by_hand(results, "mlflow", tmp_path, taken=0)


@pytest.mark.parametrize(
    ("uri", "shown"),
    [
        ("", ""),
        ("databricks", "databricks"),
        ("sqlite:////home/a@b/x.db", "sqlite:////home/a@b/x.db"),
        ("postgresql://me:a/b@h/db", "postgresql://h/db"),
        ("postgresql://me:a#b@h/db", "postgresql://h/db"),
        ("postgresql://me:a?b@h/db?schema=x", "postgresql://h/db?schema=x"),
        ("https://token@h:5/x#y", "https://h:5/x"),
        ("mysql://h/db?user=a&pass%77ord=b&c=d", "mysql://h/db?user=a&c=d"),
        ("mssql://h?odbc_connect=UID%3Da%3BPWD%3Db", "mssql://h"),
    ],
)
def test_uris_without_secrets(uri, shown):
    assert without_secrets(uri) == shown
