"""All command lines: what a place is, no secret in it, one line and one status for a mistake."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from metaphase.core.cell import ConfigError
from metaphase.sweeps import cli, places
from tests import ROOT
from tests.tools.synthetic import make_results

ON_A_SWEEP = ("status", "compact", "yardsticks", "plot", "report", "compare")


def metaphase(*arguments, cwd=None, **environment):
    return subprocess.run(
        [sys.executable, "-m", "metaphase.sweeps.cli", *map(str, arguments)],
        capture_output=True,
        text=True,
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        timeout=250,
    )


def in_process(capsys, *arguments):
    """(exit status, what it says)."""
    try:
        status = cli.main([str(word) for word in arguments])
    except SystemExit as stopped:
        status = stopped.code
    out, err = capsys.readouterr()
    return status, out + err


def every_command(place):
    yield ("run", "quickstart", "--root", place)
    for word in ON_A_SWEEP:
        yield (word, place)
    for word in ("plot", "report", "compare"):
        yield (word, "results/quickstart", f"--out={place}")
    yield ("run", place)  # where a preset is meant
    yield ("run", "quickstart", "--rot", place)  # an option that there isn't
    yield ("run", "quickstart", "--data-root", place)
    yield (place,)


SECRETS = (
    "s3://CANARY:CANARY@bucket/results/x",
    "s3://key:CAN/CANARY@bucket/results/x",
    "s3://key:CAN?CANARY@bucket/results/x",
    "s3://key%3ACANARY@bucket/results/x",
    "s3://key%253ACANARY%2540bucket/results/x",
    "s3://key:CANARY%40bucket/results/x",
    "s3://CANARY@bucket/results/x",
    "s3:/key:CANARY@bucket/results/x",
    "s3:key:CANARY@bucket/results/x",
    "S3://key:CANARY@bucket/results/x",
    "s3://bucket/results/x?access_key=a&secret_key=CANARY",
    "s3://bucket/results/x?endpoint_override=http://key:CANARY@host",
    "abfs://x.dfs.core.windows.net/c/x?sig=CANARY",
    "abfss://:CANARY@account.dfs.core.windows.net/c/x",
    "gs://key:CANARY@bucket/results/x",
    "nosuch://key:CANARY@bucket/results/x",
)


@pytest.mark.parametrize("uri", SECRETS)
def test_credentials_in_a_uri_are_refused_unseen(uri, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for arguments in every_command(uri):
        status, said = in_process(capsys, *arguments)
        assert status == 2, (arguments, said)
        assert "CANARY" not in said, arguments
        assert said.startswith("error: a URI ")
        assert said.count("\n") == 1
    assert not list(tmp_path.iterdir())
    status, said = in_process(capsys, "run", "quickstart", "--root", SECRETS[0])
    assert "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY" in said


@pytest.mark.parametrize(
    "uri",
    [
        "s3://bucket/user@host/x",
        "s3://bucket/x?scheme=http&endpoint_override=127.0.0.1:9&region=r",
        "abfss://container@account.dfs.core.windows.net/x",
        "hdfs://user@namenode:8020/user/me@REALM/x",
        "file:///tmp/a:b@c/x",
        "results/a:b@c",
    ],
)
def test_places_without_credentials_are_taken(uri):
    assert places.checked_sweep(uri) == uri


@pytest.mark.parametrize(
    ("place", "why"),
    [
        ("", "is empty"),
        (" ", "is empty"),
        ("s3://", "names no bucket"),
        ("s3:///x", "names no bucket"),
        ("s3://?region=r", "names no bucket"),
        ("s3:/bucket/x", "two slashes"),
        ("s3:bucket/x", "two slashes"),
        ("gs:/bucket/x", "two slashes"),
        ("file:/tmp/x", "two slashes"),
        ("a\nb", "can't be printed"),
    ],
)
def test_places_that_cant_be_meant_are_refused_alike(place, why, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for arguments in every_command(place):
        if arguments[:2] == ("run", place) or arguments == (place,):
            continue
        status, said = in_process(capsys, *arguments)
        assert status == 2, arguments
        assert said.count("\n") == 1
        assert why in said or "unrecognized" in said
    assert not list(tmp_path.iterdir())


def test_a_bucket_is_no_sweep_but_a_root():
    assert places.checked_root("s3://bucket") == "s3://bucket"
    for place in ("s3://bucket", "s3://bucket/", "s3://bucket?region=r"):
        with pytest.raises(ConfigError, match="no sweep's folder"):
            places.checked_sweep(place)


def test_one_mistake_has_one_line_and_one_status(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for word in ON_A_SWEEP:
        for arguments, expected in (
            ((word, "nowhere"), 1),
            ((word,), 2),
            ((word, "nowhere", "--what"), 2),
            ((word, "nowhere", "--delt", "0.1"), 2),
        ):
            status, said = in_process(capsys, *arguments)
            assert status == expected, (arguments, said)
            assert said.startswith("error: ")
            assert said.count("\n") == 1
    for arguments, expected in (
        (("run", "nowhere.yaml"), 1),
        (("run", "quickstart", "--set", "steps=0"), 1),
        (("run",), 2),
        (("run", "quickstart", "--what"), 2),
        (("run", "quickstart", "--gpus", "0"), 2),
        (("what",), 2),
    ):
        status, said = in_process(capsys, *arguments)
        assert status == expected, (arguments, said)
        assert said.startswith("error: ")
        assert said.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_every_command_is_called_what_it_is(capsys):
    for word in cli.COMMANDS:
        assert in_process(capsys, word, "--help")[1].startswith(f"usage: metaphase {word} ")


def test_a_reader_that_has_seen_enough_is_no_error(tmp_path):
    make_results(tmp_path / "s", (8,), (1, 16), (0,))
    code = "import sys; from metaphase.sweeps import cli; sys.exit(cli.main(sys.argv[1:]))"
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(
        [sys.executable, "-c", code, "plot", str(tmp_path / "s")],
        stdout=write,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        timeout=250,
    )
    os.close(write)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("name", ["seed=7", "Learning_rate=1e-3", "status=done", "step=5"])
def test_a_folder_that_duckdb_takes_for_a_column_is_refused(name, tmp_path, capsys):
    """And so it would: of the cells' seeds, 0 and 1, it shows none."""
    import duckdb

    for root in (tmp_path / name, tmp_path / name / "below"):
        status, said = in_process(capsys, "run", "quickstart", "--dry-run", "--root", root)
        assert (status, said.count("\n")) == (2, 1)
        assert f"the folder '{name}' as the column" in said
    if name == "seed=7":
        make_results(tmp_path / name / "s", (8,), (1,), (0, 1))
        query = f"SELECT DISTINCT seed FROM read_parquet('{tmp_path}/{name}/s/cells/*.parquet'"
        assert duckdb.sql(f"{query})").fetchall() == [(7,)]
        immune = duckdb.sql(f"{query}, hive_partitioning = false) ORDER BY seed").fetchall()
        assert immune == [(0,), (1,)]
    assert places.checked_root(str(tmp_path / "run=3")) == str(tmp_path / "run=3")


@pytest.mark.parametrize("number", ["\u00b2", "\u0661", "0", "-1", "1.0", "", "9" * 5000])
def test_what_is_no_whole_number_is_one_line(number, capsys):
    for option in ("--pack-size", "--gpus"):
        with pytest.raises(SystemExit) as stopped:
            cli.main(["run", "quickstart", f"{option}={number}", "--dry-run"])
        said = capsys.readouterr().err
        assert stopped.value.code == 2
        assert said.startswith(f"error: argument {option}: ")
        assert said.count("\n") == 1
        assert len(said) < 200
