"""The page's server tells only who may know, only what is in its trees, and what they hold now."""

import contextlib
import functools
import gzip
import http.client
import json
import os
import random
import re
import shutil
import signal
import socket
import threading
import time

import pytest

from metaphase import serve
from metaphase.analysis.serving.server import _Handler, is_loopback
from metaphase.sweeps import cli
from metaphase.sweeps.store.results import Results
from tests.browser import browser, click_tile, page
from tests.tools import growing
from tests.tools.s3 import BUCKET, failing_s3


@pytest.fixture
def results(tmp_path):
    made = Results(str(tmp_path), "growing")
    growing.grow(made, random.Random(0), 0.0, cells=12)
    return made


@pytest.fixture
def served(results):
    yield from _serve([str(results), str(results) + "-other"])


def _serve(paths, host="127.0.0.1"):
    made, sweeps = serve.start(paths, host, every=0.2)
    thread = threading.Thread(target=made.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    yield made
    sweeps.stop()
    made.shutdown()
    made.server_close()


def ask(server, path="/", method="GET", **headers):
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=30)
    headers = {name.replace("_", "-"): value for name, value in headers.items()}
    connection.request(method, path, headers=headers)
    answer = connection.getresponse()
    data = answer.read()
    if answer.headers["Content-Encoding"] == "gzip":
        data = gzip.decompress(data)
    connection.close()
    return answer, data


def get(server, path):
    answer, data = ask(server, path)
    assert answer.status == 200, data
    return json.loads(data)


def wait_for(what, seconds=30):
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end
        time.sleep(0.05)


def test_documents_follow_the_tree(results, served):
    def found():
        return get(served, "/sweep/0")["document"]

    wait_for(found)
    told = get(served, "/sweep/0")
    assert told["document"]["cells"]["status"].count("done") == 12
    answer, data = ask(served, f"/sweep/0?version={told['version']}")
    assert (answer.status, data) == (204, b"")
    cell_id = next(iter(results.finished()))
    assert set(get(served, f"/cell/0/{cell_id}")) == {"train", "seen", "unseen"}
    wait_for(lambda: "no such folder" in get(served, "/sweep/1")["line"])
    growing.grow(results, random.Random(0), 0.0)
    wait_for(lambda: found()["cells"]["status"].count("done") == 30)
    shutil.rmtree(results.local_path)
    wait_for(lambda: get(served, "/sweep/0")["document"] is None)


def check(told):
    """No number of a document is wrong; returns how many cells are done."""
    found = told["document"]
    if found is None:
        return 0
    by_id, done = {cell.cell_id: cell for cell in growing.sweep().cells}, 0
    cells = found["cells"]
    assert set(cells["id"]) == by_id.keys()
    if "unseen_last" not in cells:  # nothing is finished
        assert "done" not in cells["status"]
        return 0
    for cell_id, status, last in zip(
        cells["id"], cells["status"], cells["unseen_last"], strict=True
    ):
        if status == "done":
            done += 1
            expected = growing.accuracy(by_id[cell_id], "unseen", by_id[cell_id].steps)
            assert last == pytest.approx(expected, abs=6e-5)
    return done


@pytest.mark.slow
def test_while_its_writers_are_killed_fifty_times(tmp_path):
    path, chance, seen = str(tmp_path / "growing"), random.Random(5), []
    serving = contextlib.contextmanager(_serve)([path])
    with serving as made, growing.writers(path, 0.02) as start:
        for number in range(50):
            writer, before = start(), check(get(made, "/sweep/0"))
            left, began = chance.uniform(0.0, 0.5), time.monotonic()
            while left > 0 and time.monotonic() < began + 6:
                time.sleep(0.02)
                seen.append(check(get(made, "/sweep/0")))
                left -= 0.05 * (seen[-1] > before)
            with contextlib.suppress(ProcessLookupError):  # it is done
                os.kill(writer, signal.SIGKILL)
            if seen[-1] == 30 or number % 7 == 6:
                time.sleep(0.1)
                shutil.rmtree(path, ignore_errors=True)
    assert len(set(seen)) > 10


@pytest.mark.slow
def test_on_an_object_store_that_fails():
    with failing_s3(0.05):
        results = Results(f"s3://{BUCKET}/root", "growing")
        with contextlib.contextmanager(_serve)([str(results)]) as made:
            for number in range(4):
                growing.grow(results, random.Random(number), 0.0, cells=3)
                wait_for(lambda n=number: check(get(made, "/sweep/0")) == 3 * (n + 1))
            cell_id = next(iter(results.finished()))
            wait_for(lambda: ask(made, f"/cell/0/{cell_id}")[0].status == 200)


def test_what_is_refused(results, served):
    (results.local_path.parent / "secret.parquet").write_bytes(b"secret")
    wait_for(lambda: get(served, "/sweep/0")["document"])
    for path in (
        "/sweep/2", "/sweep/-1", "/sweep/x", "/sweep/" + "9" * 5000, "/cell/0/..%2Fsecret",
        "/cell/0/../../secret", "/cell/0/" + "f" * 16, "/../../etc/passwd", "/%2e%2e/sweep.yaml",
        "/sweep.yaml", "/cell/0/" + "a" * 3000, "/sweep/0?version=x",
    ):  # fmt: skip
        assert ask(served, path)[0].status == 404, path
    assert ask(served, "/", "POST")[0].status == 501
    assert ask(served, "/", "DELETE")[0].status == 501
    port = served.server_port
    for host in ("evil.example", f"evil.example:{port}", "127.0.0.1", "127.0.0.1:1", ""):
        assert ask(served, "/", Host=host)[0].status == 421, host
    for host in (f"localhost:{port}", f"127.0.0.1:{port}"):
        assert ask(served, "/", Host=host)[0].status == 200, host
    answer, data = ask(served, "/")
    assert "Access-Control-Allow-Origin" not in answer.headers
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert answer.headers["Content-Security-Policy"] == "frame-ancestors 'none'"
    policy = re.search(rb'Security-Policy" content="([^"]*)"', data)[1].decode()
    assert "https:" not in policy
    assert "http:" not in policy
    assert "unsafe-eval" not in policy
    assert ask(served, "/", "HEAD")[1] == b""


def test_hosts_are_told_by_their_addresses(served, monkeypatch):
    addresses = {"127.evil.example": "192.0.2.1", "own-name": "127.0.1.1", "both": "192.0.2.1"}

    def resolve(host, *_, **__):
        found = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (addresses.get(host, host), 0))]
        return found + [(0, 0, 0, "", ("::1", 0, 0, 0))] * (host == "both")

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    assert is_loopback("own-name")
    assert is_loopback("127.9.9.9")
    assert not any(map(is_loopback, ("127.evil.example", "both", "0.0.0.0", "10.0.0.1")))
    monkeypatch.setattr(served, "server_port", 80)  # which browsers leave out
    assert served.names("localhost")
    assert served.names("[::1]")
    assert not any(map(served.names, ("localhost:81", "evil.example", "evil.example:80", "a:b:80")))


def test_slow_clients_get_all_and_broken_requests_an_answer(served, monkeypatch):
    def request(path, pause=0.0):
        with socket.create_connection(("127.0.0.1", served.server_port)) as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
            host = f"127.0.0.1:{served.server_port}"
            asked = f"GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n"
            client.sendall(asked.encode())
            parts = []
            while part := client.recv(65536):
                parts.append(part)
                time.sleep(pause)
        return b"".join(parts)

    assert request("http://[").startswith(b"HTTP/1.1 404 ")
    monkeypatch.setattr(_Handler, "timeout", 0.3)
    monkeypatch.setattr(served, "page", b"x" * 8_000_000)
    data = request("/", 0.01).partition(b"\r\n\r\n")[2]
    assert data == served.page, len(data)


def test_many_may_connect_at_once(results):
    made, sweeps = serve.start([str(results)])  # nothing accepts them yet
    with contextlib.ExitStack() as stack:
        stack.callback(made.server_close)
        stack.callback(sweeps.stop)
        for _ in range(50):
            connection = socket.create_connection(("127.0.0.1", made.server_port), timeout=0.5)
            stack.callback(connection.close)


def test_elsewhere_than_on_loopback_there_is_a_token(results):
    for server in _serve([str(results)], "0.0.0.0"):  # one
        assert re.fullmatch(r"http://[^/]+/\?token=[\w-]{30,}", server.url)
        path = f"/?token={server.token}"
        assert ask(server, "/")[0].status == 403
        assert ask(server, "/?token=" + "x" * 32)[0].status == 403
        assert ask(server, "/sweep/0")[0].status == 403
        assert ask(server, "/?token=%ff%fe")[0].status == 403
        assert ask(server, path)[0].status == 200
        wait_for(functools.partial(get, server, f"/sweep/0{path[1:]}"))
        assert ask(server, f"/sweep/0{path[1:]}", Accept_Encoding="gzip")[0].headers[
            "Content-Encoding"
        ] == "gzip"  # fmt: skip


def test_what_cannot_be_served(results, capsys):
    for host in ("256.1.1.1", "a" * 300, "..", "\u2028", "x\x1b[31m"):
        assert cli.main(["serve", str(results), "--host", host]) == 1
        err = capsys.readouterr().err
        assert err.startswith(f"error: --host {host!r} --port 0: ")
        assert err.count("\n") == 1
    for wrong in (["--port", "70000"], ["--every", "0"]):
        with pytest.raises(SystemExit):
            cli.main(["serve", str(results), *wrong])


def test_in_a_browser(results, served):
    """Tiles are clicked, the slider is moved, and the page follows the tree."""
    wait_for(lambda: get(served, "/sweep/0")["document"])
    with browser() as found, page(found, served.url) as opened:
        opened.wait_for_selector("text=12 of 30 cells")
        assert opened.inner_text("section h2 >> nth=0") == "growing"
        assert "<b>grows</b> & is watched" in opened.inner_text("section >> nth=0")
        assert "no such folder" in opened.inner_text("section >> nth=1")
        growing.grow(results, random.Random(0), 0.0)
        opened.wait_for_selector("text=30 of 30 cells")  # by itself
        click_tile(opened, 3, 2)  # 16 wide, 4096 tasks
        opened.wait_for_selector(".detail h3:has-text('model size 2⁴, 2¹² tasks')")
        text = opened.inner_text(".detail >> nth=0")
        cells = [c for c in growing.sweep().cells if (c.model_size, c.num_tasks) == (16, 4096)]
        for cell in cells:
            assert cell.cell_id in text
            assert f"{growing.accuracy(cell, 'unseen', 400):.3f}" in text
        assert "generalizing" in text
        command = f"--force {cells[0].cell_id}"
        assert command in opened.locator(".detail code").first.text_content()
        opened.locator("#step").focus()
        opened.keyboard.press("Home")  # the slider, to the first evaluation
        opened.wait_for_selector(".detail:has-text('0.304')")
        assert f"{growing.accuracy(cells[0], 'unseen', 100):.3f}" == "0.304"
        opened.select_option("#show", "unseen_last")
        opened.wait_for_selector(".legend:has-text('accuracy, unseen tasks: 0.00 to 1.00')")
        opened.locator(".map").first.focus()
        for key in ("Home", "ArrowRight", "ArrowDown", "Enter"):
            opened.keyboard.press(key)
        opened.keyboard.press("Escape")  # before its details have the focus
        assert opened.locator(".detail").first.is_hidden()
        opened.keyboard.press("Enter")
        opened.wait_for_selector(".detail h3:has-text('model size 2³, 2⁴ tasks')")
        assert "model size 2³, 2⁴ tasks" in opened.inner_text("#announce")
        opened.keyboard.press("Escape")
        assert opened.locator(".detail").first.is_hidden()
        assert opened.evaluate("document.activeElement.className") == "map"
        shutil.rmtree(results.local_path)
        opened.wait_for_selector("section >> nth=0 >> text=no such folder")


def test_as_one_file(results, tmp_path, capsys):
    path = tmp_path / "page.html"
    assert cli.main(["report", str(results), "--interactive", "--out", str(path)]) == 0
    assert capsys.readouterr().out == f"wrote {path}\n"
    with browser() as found, page(found, path.as_uri(), offline=True) as opened:
        opened.wait_for_selector("text=12 of 30 cells")
        done = next(c for c in growing.sweep().cells if c.cell_id in results.finished())
        sizes, tasks = (4, 8, 16), (1, 16, 256, 4096, 65536)
        click_tile(opened, tasks.index(done.num_tasks), sizes.index(done.model_size))
        opened.wait_for_selector(f".detail:has-text('{done.cell_id}')")
        curve = opened.evaluate("panels[0].detail.curve.source.data.ys")
        assert len(curve) >= 3
        assert f"{growing.accuracy(done, 'unseen', 400):.3f}" in opened.inner_text(".detail")


def test_one_file_says_by_what_its_phases_are_told(results, tmp_path):
    path = tmp_path / "page.html"
    rule = ["--delta", "0.4", "--confidence", "0.999", "--rule", "accuracy"]
    assert cli.main(["report", str(results), "--interactive", *rule, "--out", str(path)]) == 0
    with browser() as found, page(found, path.as_uri(), offline=True) as opened:
        told = opened.inner_text(".thresholds")
    assert told == "Phases by the rule accuracy with delta 0.4 and intervals at 99.9%."
