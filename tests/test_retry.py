"""A storage that fails for a while is waited for; what won't pass is said at once."""

import errno
import logging

import pytest

from sweeps import storage
from sweeps.storage import Results, may_pass
from tests import test_trial


@pytest.fixture
def results(tmp_path, monkeypatch):
    monkeypatch.setattr(storage, "FIRST_PAUSE_SECONDS", 0.001)
    return Results(str(tmp_path), "sweep")


def failing(times, *error):
    """os.replace that fails at first."""
    replace, left = storage.os.replace, [times]

    def replacing(*paths):
        left[0] -= 1
        if left[0] >= 0:
            raise OSError(*error)
        replace(*paths)

    return replacing


def test_it_is_tried_again_and_logged(results, monkeypatch, caplog):
    monkeypatch.setattr(storage.os, "replace", failing(3, errno.EIO, "Input/output error"))
    with caplog.at_level(logging.WARNING):
        results.write_history("a", [])
    assert len(list(results.local_path.glob("history/*"))) == 1
    assert caplog.text.count("writing history/a.parquet: [Errno 5] Input/output error") == 3


def test_not_for_ever(results, monkeypatch):
    monkeypatch.setattr(storage, "RETRY_SECONDS", 0.05)
    monkeypatch.setattr(storage.os, "replace", failing(10**9, errno.EIO, "Input/output error"))
    with pytest.raises(OSError, match="Input/output"):
        results.write_history("a", [])


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EACCES, errno.EROFS, errno.EDQUOT])
def test_not_what_will_not_pass(results, monkeypatch, number):
    monkeypatch.setattr(storage.os, "replace", failing(1, number, "no"))
    with pytest.raises(OSError, match="no"):
        results.write_history("a", [])


@pytest.mark.parametrize(
    ("passes", "text"),
    [
        (True, "AWS Error NETWORK_CONNECTION during PutObject operation: curlCode: 28, Timeout"),
        (True, "AWS Error INTERNAL_FAILURE during GetObject operation: (HTTP status 500)"),
        (True, "AWS Error SLOW_DOWN during PutObject operation: Please reduce your request rate."),
        (True, "AWS Error SERVICE_UNAVAILABLE during ListObjectsV2 operation"),
        (False, "AWS Error ACCESS_DENIED during PutObject operation: Access Denied."),
        (False, "AWS Error NO_SUCH_BUCKET during PutObject operation: no such bucket"),
        (False, "AWS Error INVALID_ACCESS_KEY_ID during PutObject operation"),
    ],
)
def test_what_object_stores_say(passes, text):
    assert may_pass(OSError(text), local=False) is passes
    assert not may_pass(OSError(text), local=True)


def test_a_full_disk_is_one_line_and_the_same_command_continues(tmp_path, monkeypatch):
    made, results = test_trial.start(tmp_path)
    with monkeypatch.context() as patched:
        full = failing(10**9, errno.ENOSPC, "No space left on device")
        patched.setattr(storage.os, "replace", full)
        reports = test_trial.run(made)
    assert reports[-1]["done"]
    assert "the disk is full (No space left on device)" in reports[-1]["config_error"]
    assert "\n" not in reports[-1]["config_error"]
    again, _ = test_trial.start(tmp_path)
    test_trial.run(again)
    assert len(results.finished()) == len(test_trial.CELLS)


@pytest.mark.parametrize("name", ["AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"])
def test_custom_endpoints_come_from_the_environment(name, s3, monkeypatch):
    from analysis.load import open_folder

    monkeypatch.setenv(name, f"http://{s3[1]}")
    results = Results("s3://bucket/here", "sweep")
    results.write_history("a", [])
    filesystem, inside = open_folder("s3://bucket/here/sweep")
    assert filesystem.get_file_info(f"{inside}/history/a.parquet").is_file
