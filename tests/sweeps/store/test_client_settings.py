"""What an object store's client would break off at is said in one line, by name, without values."""

import os
import re

import pytest

from metaphase.core.cell import ConfigError
from metaphase.sweeps.store.client_settings import check_endpoint
from metaphase.sweeps.store.files import StorageError
from metaphase.sweeps.store.results import Results

PanicException = type("PanicException", (BaseException,), {})


@pytest.fixture(autouse=True)
def credentials(monkeypatch):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AZURE_STORAGE_ACCOUNT_NAME"):
        monkeypatch.setenv(name, "x")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    for name in ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize("name", ["AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT"])
def test_an_empty_endpoint_is_none(name, s3, monkeypatch):
    monkeypatch.setenv(name, "")
    there = f"s3://bucket/here?scheme=http&endpoint_override={s3[1]}"
    Results(there, "sweep").write_yardsticks("a", [])
    assert Results(there, "sweep").tables.names("yardsticks") == ["a.parquet"]
    assert "endpoint" not in Results("s3://bucket/here", "sweep").files._store.config
    assert name not in os.environ  # where the client itself would find it


@pytest.mark.parametrize(
    "url",
    [
        *("localhost:9000", "CANARY", " ", "http://", "http://CAN ARY", "http://127.0.0.1:99999"),
        *("ftp://CANARY", "http://[::1", "http://u:CANARY@h", "http://CANARYé", "http://a\n"),
    ],
)
def test_an_endpoint_must_be_a_url(url, monkeypatch):
    for root, name in (
        ("s3://bucket", "AWS_ENDPOINT_URL_S3"),
        ("gs://bucket", "GOOGLE_BASE_URL"),
        ("abfs://bucket", "AZURE_STORAGE_ENDPOINT"),
    ):
        with monkeypatch.context() as patched:
            patched.setenv(name, url)
            with pytest.raises(ConfigError, match=rf"^root: .*{name} can't be used; ") as told:
                Results(f"{root}/here", "sweep")
            assert "CAN" not in str(told.value)
            assert "\n" not in str(told.value)
    with pytest.raises(ValueError, match=r"^it can't"):
        check_endpoint("it", url)


@pytest.mark.parametrize(
    "url",
    ["http://127.0.0.1:9000", "HTTPS://s3.example.org/a-b/", "http://[::1]:9", "http://minio"],
)
def test_urls_of_servers_are_taken(url):
    check_endpoint("it", url)


def test_so_must_the_one_in_a_uri():
    with pytest.raises(ConfigError, match=r": endpoint_override can't be used; allowed: http://"):
        Results("s3://bucket/here?endpoint_override=exa%20mple", "sweep")


@pytest.mark.parametrize(
    ("scheme", "name"),
    [
        *(("s3", "AWS_ACCESS_KEY_ID"), ("s3", "AWS_SECRET_ACCESS_KEY"), ("s3", "AWS_REGION")),
        *(("s3", "AWS_SESSION_TOKEN"), ("abfs", "AZURE_STORAGE_TOKEN")),
        ("gcs", "GOOGLE_BEARER_TOKEN"),
    ],
)
def test_line_breaks_are_told_without_the_value(scheme, name, monkeypatch):
    monkeypatch.setenv(name, "CANARY\n")
    with pytest.raises(ConfigError, match=f"environment's {name} holds a line break") as told:
        Results(f"{scheme}://bucket/here", "sweep")
    assert "CANARY" not in str(told.value)
    assert "\n" not in str(told.value)


def test_a_region_must_be_a_name(monkeypatch):
    monkeypatch.setenv("AWS_DEFAULT_REGION", "CAN ARY")
    with pytest.raises(ConfigError, match=r"^root: .* is no region; allowed: ") as told:
        Results("s3://bucket/here", "sweep")
    assert "CAN" not in str(told.value)


def test_a_panic_is_told_once_and_without_what_it_says(monkeypatch):
    import obstore
    from obstore import store

    calls = []

    def panic(*args, **kwargs):
        calls.append(args)
        raise PanicException("called `Result::unwrap()` on CANARY")

    results = Results("s3://bucket/here", "sweep")
    monkeypatch.setattr(obstore, "get", panic)
    with pytest.raises(StorageError, match="client broke off") as told:
        results.get("sweep.yaml")
    assert len(calls) == 1
    assert not re.search("CANARY|\n", str(told.value))
    monkeypatch.setattr(store, "from_url", panic)
    with pytest.raises(ConfigError, match=r"^root: can't use .*client broke off"):
        Results("s3://bucket/here", "sweep")


def test_an_interrupt_is_no_panic(monkeypatch):
    import obstore

    def interrupt(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(obstore, "get", interrupt)
    with pytest.raises(KeyboardInterrupt):
        Results("s3://bucket/here", "sweep").get("sweep.yaml")
