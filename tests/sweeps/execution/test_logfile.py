"""A log that can't be written costs one line on the terminal, and nothing else."""

import errno
import logging
import os
import subprocess
import sys

import pytest

from metaphase.sweeps.execution.logfile import LogFile


@pytest.fixture
def logger():
    made = logging.Logger("test", logging.INFO)
    yield made
    for handler in made.handlers:
        handler.close()


def test_it_is_made_at_once_or_when_there_is_something_to_say(tmp_path, logger):
    logger.addHandler(LogFile(tmp_path / "now.log"))
    logger.addHandler(LogFile(tmp_path / "late.log", delay=True))
    assert os.listdir(tmp_path) == ["now.log"]
    logger.info("é")
    for name in ("now.log", "late.log"):
        assert (tmp_path / name).read_text(encoding="utf-8").endswith(" INFO test: é\n")


def test_a_full_disk_is_told_once(tmp_path, logger, capsys, monkeypatch):
    handler = LogFile(tmp_path / "a.log")
    logger.addHandler(handler)

    def full(text):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patched:
        patched.setattr(handler.stream, "write", full, raising=False)
        for _ in range(3):
            logger.info("x")
    said = f"note: the log {tmp_path}/a.log can't be written: [Errno 28] No space left on device\n"
    assert capsys.readouterr().err == said
    logger.info("again")
    assert "again" in (tmp_path / "a.log").read_text()


def test_a_folder_that_is_gone_is_told_once(tmp_path, logger, capsys):
    logger.addHandler(LogFile(tmp_path / "gone" / "a.log", delay=True))
    logger.info("x")
    logger.info("y")
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "can't be written: [Errno 2]" in error


@pytest.mark.skipif(sys.platform != "linux", reason="limits of files are Linux's here")
def test_a_file_that_may_not_grow_leaves_no_traceback(tmp_path):
    """To the end of the process, when Python closes what is open."""
    code = f"""if True:
        import logging, pathlib, resource
        from metaphase.sweeps.execution.logfile import log_to
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
        log_to(pathlib.Path({str(tmp_path)!r}) / "a.log")
        for _ in range(100):
            logging.info("x" * 100)
    """
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith("note: the log ")
