"""Nothing that the environment holds gets into a file of the tree, an output or a log."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile

import pytest

from metaphase.sweeps import cli
from metaphase.sweeps.preset import load_preset
from metaphase.sweeps.store.results import Results
from metaphase.sweeps.store.sweepfile import write_settings
from tests import ROOT
from tests.tools.s3 import BUCKET, failing_s3
from tests.tools.synthetic import make_results

CANARY = "kanarienvogel"
PRESET = """
name: s
cell: {image_size: 4, num_classes: 5, sequence_length: 8, batch_size: 8, steps: 4, eval_every: 2,
       warmup_steps: 1, eval_sequences: 8, key_size: 4}
grid: {model_size: [4, 8], num_tasks: [1, 16]}
"""
# Of every kind: credentials of stores, of others, proxies, settings of programs that are used.
VARIABLES = (
    *(
        "AWS_SESSION_TOKEN",
        "AWS_PROFILE_X",
        "GOOGLE_APPLICATION_CREDENTIALS",
        "AZURE_CLIENT_SECRET",
    ),
    *("AZURE_STORAGE_KEY", "GITHUB_TOKEN", "HF_TOKEN", "WANDB_API_KEY", "OPENAI_API_KEY"),
    *("PGPASSWORD", "SSH_AUTH_SOCK", "NETRC", "PIP_INDEX_URL", "MY_SECRET", "RAY_JOB_NAME_X"),
    *("MAIL", "EDITOR", "PS1", "COMMENT", "CFLAGS", "USERNAME"),
)


def run(folder, *arguments):
    done = subprocess.run(
        [sys.executable, "-m", *map(str, arguments)],
        capture_output=True,
        text=True,
        cwd=folder,
        timeout=900,
    )
    return done.returncode, done.stdout + done.stderr


@pytest.fixture
def canaries(monkeypatch, tmp_path):
    """Values that are found wherever they get to; Ray's logs are looked through with the rest."""
    for name in VARIABLES:
        monkeypatch.setenv(name, f"{CANARY}-{name}")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("RAY_raylet_start_wait_time_s", "200")
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    with tempfile.TemporaryDirectory(prefix="ray") as short:  # sockets have short names
        monkeypatch.setenv("RAY_TMPDIR", short)
        (tmp_path / "ray").symlink_to(short)
        yield tmp_path


def carry_out_everything(folder, root):
    """All commands on one small sweep, and some that fail; their outputs."""
    (folder / "p.yaml").write_text(PRESET)
    place = f"{root}/s"
    said = []
    for expected, *arguments in (
        (0, "metaphase.sweeps.cli", "run", folder / "p.yaml", "--root", root, "--dry-run"),
        (0, "metaphase.sweeps.cli", "run", folder / "p.yaml", "--root", root),
        (0, "metaphase.sweeps.cli", "run", folder / "p.yaml", "--root", root),
        (0, "metaphase.sweeps.cli", "status", place),
        (0, "metaphase.sweeps.cli", "yardsticks", place),
        (0, "metaphase.sweeps.cli", "plot", place),
        (0, "metaphase.sweeps.cli", "report", place),
        (0, "metaphase.sweeps.cli", "compact", place),
        (0, "metaphase.sweeps.cli", "compare", place),
        (1, "metaphase.sweeps.cli", "status", f"{root}/nowhere"),
        (
            1,
            "metaphase.sweeps.cli",
            "run",
            folder / "p.yaml",
            "--root",
            root,
            "--set",
            "dataset=KMNIST",
        ),
    ):
        status, out = run(folder, *arguments)
        assert status == expected, out
        said.append(out)
    return said


def found(files, said, words):
    """Where the words are."""
    return [
        (name, word)
        for name, data in (
            *files.items(),
            *((f"output {i}", o.encode()) for i, o in enumerate(said)),
        )
        for word in words
        if word.encode() in data
    ]


def files_below(folder):
    return {
        os.path.relpath(path, folder): path.read_bytes()
        for path in (*folder.rglob("*"), *(folder / "ray").resolve().rglob("*"))
        if path.is_file() and not path.is_symlink()
    }


def test_no_canary_in_what_is_written_without_training(canaries, capsys):
    make_results(canaries / "s", (8, 16), (1, 16), (0,))
    settings = load_preset("quickstart", ["name=s"]).settings
    write_settings(Results(str(canaries), "s"), settings)
    preset = str(canaries / "s" / "sweep.yaml")
    for expected, *arguments in (
        (0, "run", preset, "--root", canaries, "--dry-run"),
        (0, "status", canaries / "s"),
        (0, "plot", canaries / "s"),
        (0, "report", canaries / "s"),
        (0, "compare", canaries / "s"),
        (1, "status", canaries / "nowhere"),
    ):
        assert cli.main([str(word) for word in arguments]) == expected
    said = capsys.readouterr()
    files = files_below(canaries)
    assert {"s/report.html", "s/phases.csv"} <= files.keys()
    assert found(files, [said.out, said.err], [CANARY]) == []


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_no_canary_in_a_local_tree(canaries):
    said = carry_out_everything(canaries, canaries / "results")
    files = files_below(canaries)
    assert any(name.startswith("results/s/cells/") for name in files)
    assert any(name.startswith("results/s/logs/run-") for name in files)
    assert found(files, said, [CANARY]) == []


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_no_canary_in_a_bucket(canaries, monkeypatch):
    """With credentials that the store's client really uses, and an endpoint in the environment."""
    import boto3

    monkeypatch.setenv("TMPDIR", str(canaries / "tmp"))
    (canaries / "tmp").mkdir()
    with failing_s3(0.0):
        secrets = ("schluessel4711", "geheim0815")
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", secrets[0])
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", secrets[1])
        said = carry_out_everything(canaries, f"s3://{BUCKET}/here")
        client = boto3.client("s3")
        listed = client.list_objects_v2(Bucket=BUCKET)["Contents"]
        files = {
            entry["Key"]: client.get_object(Bucket=BUCKET, Key=entry["Key"])["Body"].read()
            for entry in listed
        }
        assert any(name.startswith("here/s/cells/") for name in files)
        files |= files_below(canaries)  # logs of a sweep in a bucket, and Ray's
        assert found(files, said, [CANARY, *secrets]) == []


def test_credentials_in_the_environments_endpoint_are_refused(capsys, monkeypatch):
    for name in ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"):
        monkeypatch.setenv(name, f"http://{CANARY}:{CANARY}@127.0.0.1:9")
        for word in ("plot", "report", "status"):
            with pytest.raises(SystemExit) as stopped:
                cli.main([word, "s3://bucket/here/s"])
            said = capsys.readouterr().err
            assert stopped.value.code == 2
            assert said.count("\n") == 1
            assert f"the environment's {name} holds credentials" in said
            assert CANARY not in said
        monkeypatch.delenv(name)
