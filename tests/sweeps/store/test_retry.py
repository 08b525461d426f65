"""A storage that fails for a while is waited for; what won't pass is said at once."""

import errno
import logging
import os
import resource

import pytest

from metaphase.sweeps.store import patience
from metaphase.sweeps.store.files import Refused, StorageError
from metaphase.sweeps.store.patience import may_pass
from metaphase.sweeps.store.results import Results
from tests.sweeps.execution import test_worker as test_trial


@pytest.fixture
def results(tmp_path, monkeypatch):
    monkeypatch.setattr(patience, "FIRST_PAUSE_SECONDS", 0.001)
    return Results(str(tmp_path), "sweep")


def failing(times, *error):
    """os.replace or os.link that fails at first."""
    replace, left = os.replace, [times]

    def replacing(*paths):
        left[0] -= 1
        if left[0] >= 0:
            raise OSError(*error)
        replace(*paths)

    return replacing


def test_it_is_tried_again_and_logged(results, monkeypatch, caplog):
    monkeypatch.setattr(os, "replace", failing(3, errno.EIO, "Input/output error"))
    with caplog.at_level(logging.WARNING):
        results.checkpoints.write_history("a", [])
    assert len(list(results.local_path.glob("checkpoints/a/*"))) == 1
    assert caplog.text.count("writing checkpoints/a/history.parquet: [Errno 5] Input/output") == 3


def test_not_for_ever(results, monkeypatch):
    monkeypatch.setattr(patience, "RETRY_SECONDS", 0.05)
    monkeypatch.setattr(os, "replace", failing(10**9, errno.EIO, "Input/output error"))
    with pytest.raises(OSError, match="Input/output"):
        results.checkpoints.write_history("a", [])


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EACCES, errno.EROFS, errno.EDQUOT])
def test_not_what_will_not_pass(results, monkeypatch, number):
    monkeypatch.setattr(os, "replace", failing(1, number, "no"))
    with pytest.raises(OSError, match="no"):
        results.checkpoints.write_history("a", [])


@pytest.mark.parametrize(
    ("tries", "error"),
    [
        (1, StorageError(errno.EIO, "x")),
        (99, StorageError(errno.ESTALE, "x")),
        (patience.STORE_TRIES - 1, StorageError("status 500")),
        (1, Refused("status 403")),
    ],
)
def test_what_may_pass(tries, error):
    assert may_pass(error, tries)


@pytest.mark.parametrize(
    ("tries", "error"),
    [
        (1, StorageError(errno.EROFS, "x")),
        (patience.STORE_TRIES, StorageError("status 500")),
        (patience.REFUSED_TRIES, Refused("status 403")),
    ],
)
def test_what_will_not(tries, error):
    assert not may_pass(error, tries)


def test_a_full_disk_is_one_line_and_the_same_command_continues(tmp_path, monkeypatch):
    made, results = test_trial.start(tmp_path)
    with monkeypatch.context() as patched:
        for name in ("replace", "link"):
            full = failing(10**9, errno.ENOSPC, "No space left on device")
            patched.setattr(os, name, full)
        reports = test_trial.run(made)
    assert reports[-1]["done"]
    assert "the disk is full (No space left on device)" in reports[-1]["config_error"]
    assert "\n" not in reports[-1]["config_error"]
    again, _ = test_trial.start(tmp_path)
    test_trial.run(again)
    assert len(results.finished()) == len(test_trial.CELLS)


def test_a_file_that_may_not_be_so_large_is_named(tmp_path):
    made, results = test_trial.start(tmp_path)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2048, limits[1]))
    try:
        said = test_trial.run(made)[-1]["config_error"]
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert "File too large" in said
    assert str(results) + "/" in said.partition("File too large")[2]
    assert said.endswith(
        "Let files be larger (ulimit -f, or another file system), and the same command continues"
    )
    again, _ = test_trial.start(tmp_path)
    test_trial.run(again)
    assert len(results.finished()) == len(test_trial.CELLS)


@pytest.mark.parametrize("name", ["AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"])
def test_custom_endpoints_come_from_the_environment(name, s3, monkeypatch):
    from metaphase.analysis.load import open_folder

    monkeypatch.setenv(name, f"http://{s3[1]}")
    results = Results("s3://bucket/here", "sweep")
    results.write_yardsticks("a", [])
    filesystem, inside = open_folder("s3://bucket/here/sweep")
    assert filesystem.get_file_info(f"{inside}/yardsticks/a.parquet").is_file


def test_credentials_come_from_a_profile_too(s3, monkeypatch, tmp_path):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_DEFAULT_REGION"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{s3[1]}")
    monkeypatch.setenv("AWS_PROFILE", "lab")
    for name, content in (
        ("AWS_SHARED_CREDENTIALS_FILE", "[lab]\naws_access_key_id=k\naws_secret_access_key=s\n"),
        ("AWS_CONFIG_FILE", "[profile lab]\nregion = eu-west-1\n"),
    ):
        (tmp_path / name).write_text(content)
        monkeypatch.setenv(name, str(tmp_path / name))
    results = Results("s3://bucket/here", "sweep")
    results.write_yardsticks("a", [])
    assert results.tables.names("yardsticks") == ["a.parquet"]
    settings = results.files._store.config
    assert (settings["region"], settings["access_key_id"]) == ("eu-west-1", "k")
