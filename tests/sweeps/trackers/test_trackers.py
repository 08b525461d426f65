"""What trackers' own readers say of mirrored cells."""

import json
import logging
import random
import struct
import subprocess
import sys
import textwrap
from types import SimpleNamespace

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from metaphase.analysis.serving.tree import open_tree
from metaphase.sweeps import cli
from metaphase.sweeps.store.results import Results
from metaphase.sweeps.trackers import mirror
from metaphase.sweeps.trackers.backends import TRACKERS
from tests import ROOT
from tests.sweeps.trackers.by_hand import by_hand
from tests.tools import growing, predictor_tree


def trained(results):
    return [c for c in growing.sweep().cells if results.finished().get(c.cell_id) == "done"]


def expected(cell, split="unseen"):
    return {step: growing.accuracy(cell, split, step) for step in range(100, 401, 100)}


def test_tensorboard(results, tmp_path):
    accumulators = pytest.importorskip(
        "tensorboard.backend.event_processing.event_accumulator", reason="tensorboard isn't there"
    )
    folder = by_hand(results, "tensorboard", tmp_path)
    for cell in trained(results):
        events = accumulators.EventAccumulator(str(folder / cell.cell_id)).Reload()
        found = {event.step: event.value for event in events.Scalars("unseen/last")}
        assert found == pytest.approx(expected(cell))
        assert events.Scalars("result/unseen_last")[0].value == pytest.approx(expected(cell)[400])
        text = events.Tensors("cell/text_summary")[0].tensor_proto.string_val[0].decode()
        assert f'"num_tasks": {cell.num_tasks}' in text


@pytest.mark.parametrize(
    "evil", ["{place}", "../../../../{place}", "a' or ''='", "a\x1b[31m", "b\n"]
)
def test_no_cell_id_leads_out_of_the_folder(results, tmp_path, evil):
    """A tracker's folder of a cell is replaced; a tree from elsewhere mustn't choose which."""
    precious = tmp_path / "precious" / "file"
    precious.parent.mkdir()
    precious.touch()
    evil = evil.format(place=precious.parent)
    [cell, _] = trained(results)
    rows = pq.read_table(tmp_path / "root" / "growing" / "cells" / f"{cell.cell_id}.parquet")
    column = rows.column_names.index("cell_id")
    rows = rows.set_column(column, "cell_id", pa.array([evil]))
    pq.write_table(rows, tmp_path / "root" / "growing" / "cells" / "compact-0.parquet")
    made = mirror.Mirror(results, "tensorboard", mirror.folder_of(results, "tensorboard"))
    assert made.catch_up() == 3
    assert evil not in made.done
    assert precious.exists()
    assert evil not in open_tree(str(results)).look().cells["cell_id"].tolist()


def test_wandb_offline(results, tmp_path, monkeypatch):
    pytest.importorskip("wandb", reason="wandb isn't there")
    from wandb.proto import wandb_internal_pb2

    monkeypatch.setenv("WANDB_MODE", "offline")
    folder = by_hand(results, "wandb", tmp_path, at="mode=offline")
    files = {path.stem.removeprefix("run-"): path for path in folder.glob("wandb/*/*.wandb")}
    assert len(files) == 3
    for cell in trained(results):
        history, config = {}, {}
        for data in leveldb_log(files[cell.cell_id].read_bytes()):
            record = wandb_internal_pb2.Record()
            record.ParseFromString(data)
            if record.WhichOneof("record_type") == "history":
                row = {i.key or "/".join(i.nested_key): json.loads(i.value_json)
                       for i in record.history.item}  # fmt: skip
                history[row["_step"]] = row["unseen/last"]
            if record.WhichOneof("record_type") == "run":
                config |= {i.key: json.loads(i.value_json) for i in record.run.config.update}
        assert history == pytest.approx(expected(cell))
        assert config["num_tasks"] == cell.num_tasks


def leveldb_log(data):
    """The records of a run's file: LevelDB's log format, behind a header of 7 bytes. W&B's packages
    have no reader of it in Python any more; what a record says is read by W&B's own protocol."""
    at, whole = 7, b""
    while at + 7 <= len(data):
        if (left := 32768 - at % 32768) < 7:
            at += left
            continue
        length, kind = struct.unpack_from("<HB", data, at + 4)
        whole += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # whole, or the last part
            yield whole
            whole = b""


def test_mlflow(results, tmp_path, monkeypatch):
    mlflow = pytest.importorskip("mlflow", reason="mlflow isn't there")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    folder = by_hand(results, "mlflow", tmp_path)
    client = mlflow.MlflowClient(f"sqlite:///{folder / 'mlflow.db'}")
    [experiment] = [e for e in client.search_experiments() if e.name == "growing"]
    runs = {run.info.run_name: run for run in client.search_runs([experiment.experiment_id])}
    assert len(runs) == 3
    for cell in trained(results):
        run = runs[cell.cell_id]
        points = client.get_metric_history(run.info.run_id, "unseen/last")
        assert {point.step: point.value for point in points} == pytest.approx(expected(cell))
        assert run.data.params["num_tasks"] == str(cell.num_tasks)
        assert run.info.status == "FINISHED"
    failed = runs[growing.sweep().cells[-1].cell_id]
    assert failed.info.status == "FAILED"
    assert failed.data.tags["error"] == "it <b>broke</b>"


def test_trackio(results, tmp_path):
    pytest.importorskip("trackio", reason="trackio isn't there")
    folder = by_hand(results, "trackio", tmp_path)
    read = """
        import json, sys
        from trackio.sqlite_storage import SQLiteStorage as store
        runs = {run: store.get_logs("growing", run) for run in store.get_runs("growing")}
        name = "unseen/last"  # that a failed cell hasn't
        runs = {k: [(r["step"], r[name]) for r in v if name in r] for k, v in runs.items()}
        print(json.dumps(runs))
    """
    out = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(read)], capture_output=True, text=True, check=True,
        env={"TRACKIO_DIR": str(folder), "PATH": "", "HOME": str(tmp_path)},
    ).stdout  # fmt: skip
    runs = json.loads(out.strip().split("\n")[-1])
    for cell in trained(results):
        assert dict(map(tuple, runs[cell.cell_id])) == pytest.approx(expected(cell))


# --- the mirror, whatever the tracker ---


class Tracker:
    destination = ""

    def __init__(self, failing=()):
        self.runs, self.failing, self.closed = [], set(failing), False

    def write(self, run):
        if run.cell_id in self.failing:
            raise RuntimeError("429\nno")
        self.runs.append(run)

    def close(self):
        self.closed = True


def test_only_what_is_new_is_mirrored(results, tmp_path):
    tracker = Tracker()
    made = mirror.Mirror(results, "test", tmp_path / "m", tracker)
    assert made.catch_up() == 3
    assert made.catch_up() == 0
    growing.grow(results, random.Random(1), 0.0, cells=1)
    again = mirror.Mirror(results, "test", tmp_path / "m", tracker)  # another process
    assert again.catch_up() == 1
    assert len({run.cell_id for run in tracker.runs}) == 4
    (tmp_path / "m" / mirror.LEDGER).write_text("{")
    assert mirror.Mirror(results, "test", tmp_path / "m", tracker).catch_up() == 4


def test_all_numbers_of_cells_and_evaluations_are_mirrored(tmp_path):
    path = predictor_tree.make(tmp_path / "root" / "urns", (8,), (4,), (0,), n=16)
    for table in ("cells", "history"):  # and a plug-in's metric
        rows = pq.read_table(path / table / "compact-urns.parquet").to_pandas()
        column = "unseen_surprise" if table == "cells" else "surprise"
        rows.assign(**{column: 0.5}).to_parquet(path / table / "compact-urns.parquet")
    tracker = Tracker()
    made = mirror.Mirror(Results(str(tmp_path / "root"), "urns"), "test", tmp_path / "m", tracker)
    assert made.catch_up() == 1
    [run] = tracker.runs
    [cell] = pd.read_parquet(path / "cells").to_dict("records")
    history = pd.read_parquet(path / "history").set_index(["step", "split"])
    assert list(run.metrics) == list(predictor_tree.STEPS)
    for name in ("loss", "last", "distance_generalizing", "loss_oracle", "off_line", "surprise"):
        assert run.results[f"unseen_{name}"] == cell[f"unseen_{name}"]
        for step, values in run.metrics.items():
            assert values[f"unseen/{name}"] == history.loc[(step, "unseen"), name]
    assert not set(run.results) & {"cell_id", "num_tasks", "learning_rate"}
    assert set(run.results).isdisjoint(run.settings)
    assert not {"seen/n", "seen/step"} & set(run.metrics[100])


def test_trackio_gets_results_and_errors_and_nothing_that_is_empty(tmp_path, monkeypatch):
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path))
    begun, logged = [], []
    stub = SimpleNamespace(
        init=lambda **told: begun.append(told["config"]), finish=lambda: None,
        log=lambda values, step: logged.append((step, values)),
        Api=lambda: SimpleNamespace(runs=lambda project: []),
    )  # fmt: skip
    monkeypatch.setitem(sys.modules, "trackio", stub)
    path = predictor_tree.make(tmp_path / "root" / "urns", (8,), (1, 4), (0,), n=16)
    rows = pq.read_table(path / "history" / "compact-urns.parquet").to_pandas()
    [one, other] = rows["cell_id"].unique()
    numbers = [name for name in rows if name not in ("cell_id", "step", "split", "n")]
    rows.loc[rows["cell_id"] == other, numbers] = float("nan")  # it diverged at once
    rows.to_parquet(path / "history" / "compact-urns.parquet")
    cells = pq.read_table(path / "cells" / "compact-urns.parquet").to_pandas()
    cells.loc[cells["cell_id"] == other, ["status", "error"]] = "failed", "it broke"
    cells.to_parquet(path / "cells" / "compact-urns.parquet")
    tracker = TRACKERS["trackio"][0](tmp_path)
    results = Results(str(tmp_path / "root"), "urns")
    assert mirror.Mirror(results, "test", tmp_path / "m", tracker).catch_up() == 2
    assert sorted(config["error"] for config in begun) == ["", "it broke"]
    assert sorted(step for step, _ in logged) == [0, *predictor_tree.STEPS]
    assert all(values for _, values in logged)
    last = cells.set_index("cell_id").loc[one, "unseen_last"]
    assert dict(logged)[predictor_tree.STEPS[-1]]["result/unseen_last"] == last


def test_a_cell_that_is_refused_is_a_line_and_tried_again(results, tmp_path, caplog):
    sick = trained(results)[0].cell_id
    tracker = Tracker([sick])
    made = mirror.Mirror(results, "test", tmp_path / "m", tracker)
    with caplog.at_level(logging.WARNING):
        assert made.catch_up() == 2
    assert caplog.messages == [f"test: {sick} isn't mirrored: 429 no"]
    tracker.failing.clear()
    assert made.catch_up() == 1


@pytest.mark.slow
def test_beside_a_run(tmp_path):
    settings = ["model_size=[4]", "num_tasks=[1]", "seed=[0]", "steps=20", "eval_every=10",
                "warmup_steps=5", "eval_sequences=32"]  # fmt: skip
    command = [sys.executable, "-m", "metaphase.sweeps.cli", "run", "quickstart", "--executor",
               "local", "--root", "root", "--track", "tensorboard"]  # fmt: skip
    for one in settings:
        command += ["--set", one]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    if "tensorboard is late" in done.stderr:  # on a busy machine
        by_hand = [sys.executable, "-m", "metaphase.sweeps.cli", "track", "root/quickstart"]
        subprocess.run([*by_hand, "--to", "tensorboard"], cwd=tmp_path, check=True, timeout=300)
    [ledger] = tmp_path.glob(f"tracking/*/tensorboard/{mirror.LEDGER}")
    finished = Results(str(tmp_path / "root"), "quickstart").finished()
    noted = map(json.loads, ledger.read_text().strip().split("\n"))
    assert {line["cell_id"]: line["status"] for line in noted} == finished
    assert list(ledger.parent.glob(f"{next(iter(finished))}/events*"))


def test_what_cannot_be_tracked_is_a_line_before_anything_starts(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["run", "quickstart", "--root", "root", "--track", "nope"]) == 1
    err = capsys.readouterr().err
    assert err == f"error: --track: 'nope' is no tracker; allowed: {', '.join(TRACKERS)}\n"
    monkeypatch.setitem(TRACKERS, "wandb", (Tracker, "no_such_package"))
    assert cli.main(["run", "quickstart", "--root", "root", "--track", "wandb"]) == 1
    assert "no_such_package is not installed: pip install" in capsys.readouterr().err
    assert not (tmp_path / "root").exists()
    assert cli.main(["track", "root/none", "--to", "tensorboard"]) == 1
    assert "no such folder" in capsys.readouterr().err


def test_the_package_imports_no_tracker():
    code = (
        "import metaphase.sweeps.trackers.mirror, sys;"
        "print({'wandb', 'mlflow', 'tensorboardX', 'trackio'} & set(sys.modules))"
    )
    out = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert out.stdout == "set()\n"
