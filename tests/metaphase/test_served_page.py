"""The page while sweeps are trained and the server fails: what is shown belongs together, what is
missing is said, and the keyboard's focus stays where it was."""

import contextlib
import re
import shutil
import threading

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from metaphase import serve
from tests.browser import browser, click_tile, page, tile
from tests.tools.synthetic import make_results

REFUSED = "Failed to load resource"  # begins what the browser says of an answer like 503
VERSIONS = "panels.map(({ mapBox }) => mapBox.dataset.version.split(' ')[1])"


def make(path, tasks=(1, 4, 16, 64)):
    make_results(
        path, (4, 8), tasks, (0, 1), n=128,
        truth=lambda cell: "generalizing" if cell.num_tasks > 16 else "memorizing",
    )  # fmt: skip


@contextlib.contextmanager
def serving(*paths):
    made, sweeps = serve.start([str(path) for path in paths], every=0.2)
    threading.Thread(target=made.serve_forever, args=(0.05,), daemon=True).start()
    try:
        yield made
    finally:
        sweeps.stop()
        made.shutdown()
        made.server_close()


@pytest.fixture
def trees(tmp_path):
    for name in ("x/same", "y/same"):
        make(tmp_path / name)
    return tmp_path / "x" / "same", tmp_path / "y" / "same"


def opened(found, served, count=1, **options):
    """The page, once it shows so many sweeps."""

    @contextlib.contextmanager
    def opening():
        with page(found, served.url, **options) as at:
            counts = "document.querySelectorAll('.counts').length"
            at.wait_for_function(f"() => {counts} === {count}")
            yield at

    return opening()


def touch(path):
    """Another number in one of the cells' files, as an update."""
    file = sorted((path / "cells").iterdir())[0]
    [row] = pq.read_table(file).to_pylist()
    row["wall_seconds"] += 1
    pq.write_table(pa.Table.from_pylist([row]), file)


def updated(at, path):
    """Waits until the first panel shows what changes now."""
    version = at.evaluate("panels[0].sweep.version")
    touch(path)
    at.wait_for_function(f"() => panels[0].map.holder.dataset.version > '{version}z'")


@pytest.mark.parametrize("hangs", [False, True])
def test_curves_that_cannot_be_had_hold_up_nothing(trees, hangs):
    with serving(*trees) as served, browser() as found, opened(
        found, served, 2, expected=REFUSED
    ) as at:  # fmt: skip
        answer = {"status": 503, "body": "the storage fails"}
        at.route("**/cell/0/*", lambda route: None if hangs else route.fulfill(**answer))
        click_tile(at, 1, 1)
        note = ".detail >> nth=0 >> .curves"
        said = "on their way" if hangs else "seeds 0, 1 can't be had: the server answers 503"
        at.wait_for_selector(f"{note} >> text={said}")
        at.wait_for_function("() => panels[1].detail.curve.source?.data.ys.length === 6")
        at.locator("#step").focus()
        at.keyboard.press("Home")
        at.wait_for_function(f"() => {VERSIONS}.join() === '0,0'")
        for path in trees:  # both go on being followed
            make(path, (1, 4, 16, 64, 256))
        at.wait_for_selector("section >> nth=0 >> text=20 of 20 cells")
        at.wait_for_selector("section >> nth=1 >> text=20 of 20 cells")
        at.unroute("**/cell/0/*")
        if not hangs:  # or it takes ten seconds until it is asked again
            at.wait_for_function("() => panels[0].detail.curve.source?.data.ys.length === 6")
            assert at.inner_text(note) == ""


def test_curves_of_a_server_that_is_gone_are_said_to_be_missing(trees):
    with browser() as found, contextlib.ExitStack() as stack:
        with serving(trees[0]) as served:
            at = stack.enter_context(opened(found, served, expected=REFUSED))
        click_tile(at, 1, 1)
        at.wait_for_selector(".detail .curves >> text=can't be had: the server doesn't answer.")


def test_curves_do_not_depend_on_the_step(trees):
    asked = []
    with serving(trees[0]) as served, browser() as found, opened(found, served) as at:
        at.on("request", lambda request: asked.append(request.url))
        click_tile(at, 1, 1)
        at.wait_for_function("() => panels[0].detail.curve.source?.data.ys.length === 6")
        at.locator("#step").focus()
        for key in ("Home", "ArrowRight", "ArrowRight"):
            at.keyboard.press(key)
            at.wait_for_timeout(100)
        assert sum("/cell/" in url for url in asked) == 2


def test_curves_that_come_after_the_cells(trees):
    curves = trees[0] / "curves"
    curves.rename(trees[0] / "later")
    with serving(trees[0]) as served, browser() as found, opened(found, served) as at:
        click_tile(at, 1, 1)
        at.wait_for_selector(".detail .curves >> text=The results hold no curves of seeds 0, 1.")
        (trees[0] / "later").rename(curves)
        at.wait_for_function("() => panels[0].detail.curve.source?.data.ys.length === 6")


def test_the_focus_stays_through_updates(trees):
    at_focus = (
        "document.activeElement.getAttribute('aria-label') || document.activeElement.textContent"
    )
    with serving(trees[0]) as served, browser() as found, opened(found, served) as at:
        click_tile(at, 1, 1)
        at.wait_for_selector(".detail .id")
        at.locator("summary:has-text('The map as a table')").click()
        at.locator("summary:has-text('Train it anew')").click()
        for where in (
            ".detail button:has-text('Close')", "[aria-label='Copy the cell_id of seed 1']",
            "summary:has-text('Settings')", "[aria-label='Copy the command for seed 0']",
            "td button:has-text('seeds generalizing') >> nth=1",
        ):  # fmt: skip
            at.locator(where).focus()
            before = at.evaluate(at_focus)
            updated(at, trees[0])
            for _ in range(2):
                assert at.evaluate(at_focus) == before, where
                at.locator("#theme").dispatch_event("click")  # draws all, too
        at.locator(".detail .id").first.select_text()
        selected = at.evaluate("getSelection().toString()")
        updated(at, trees[0])
        assert at.evaluate("getSelection().toString()") == selected != ""
        at.locator(".detail button:has-text('Close')").focus()
        shutil.rmtree(trees[0])
        at.wait_for_selector("text=no such folder")
        assert at.evaluate("document.activeElement === panels[0].box")


def test_sweeps_of_one_name_are_told_apart_by_their_places(trees):
    with serving(*trees) as served, browser() as found, opened(found, served, 2) as at:
        click_tile(at, 1, 1)
        for place, path in enumerate(trees):
            told = f"same ({path})"
            assert at.inner_text(f"section >> nth={place} >> h2") == told
            assert at.locator(".map").nth(place).get_attribute("aria-label").startswith(told)
            label = at.locator(".detail").nth(place).get_attribute("aria-label")
            assert label.startswith(f"Details of {told}: ")
        assert "Phases with delta 0.05 and intervals at 99%." in at.inner_text("section >> nth=0")
        shutil.rmtree(trees[1])
        at.wait_for_selector("section >> nth=0 >> h2 >> text=/^same$/")


def test_each_click_counts_however_soon_it_follows_or_long_it_takes(trees):
    with serving(trees[0]) as served, browser() as found, opened(found, served) as at:
        first, second = tile(at, 1, 1), tile(at, 3, 0)
        at.mouse.click(*first)
        at.mouse.click(*second)  # Bokeh calls that a doubletap
        at.wait_for_selector(".detail h3:has-text('model size 2², 2⁶ tasks')")
        at.mouse.click(*first, delay=600)
        at.wait_for_selector(".detail h3:has-text('model size 2³, 2² tasks')")


def test_exponents_are_heard_and_copied(trees):
    with serving(trees[0]) as served, browser() as found, opened(found, served) as at:
        table = at.locator("table.transitions")
        assert table.locator("sup").count() > 0
        where = r"2\^[0-9.]+ \(2\^[0-9.]+ to (above )?2\^[0-9.]+\)"
        assert re.search(where, table.inner_text())
        table.select_text()
        assert re.search(where, at.evaluate("getSelection().toString()"))
        assert re.search(where, table.aria_snapshot())
        assert table.locator(".caret").first.bounding_box()["width"] == 0


def test_every_stop_of_tab_has_a_name_and_copying_is_announced(trees):
    with serving(trees[0]) as served, browser() as found, opened(found, served) as at:
        click_tile(at, 1, 1)
        at.wait_for_function("() => panels[0].detail.curve.source?.data.ys.length === 6")
        at.evaluate("document.activeElement.blur()")
        stops = []
        for _ in range(30):
            at.keyboard.press("Tab")
            stops.append(
                at.evaluate(
                    """(() => {
                      let one = document.activeElement;
                      while (one.shadowRoot?.activeElement) one = one.shadowRoot.activeElement;
                      const label = one.labels?.[0]?.innerText;
                      return one.ariaLabel || one.innerText || label || one.tagName;
                    })()"""
                )
            )
        assert any(stop.startswith("same: phases") for stop in stops)
        assert any(stop == "Copy the cell_id of seed 0" for stop in stops)
        assert not [stop for stop in stops if stop in ("DIV", "CANVAS")], stops
        at.locator("[aria-label='Copy the cell_id of seed 0']").click()
        copied = at.locator(".detail .id").first.inner_text()
        at.wait_for_selector(f"#announce >> text=Copied: {copied}", state="attached")


def test_narrow_windows_and_tiles_and_long_errors(tmp_path):
    path = tmp_path / "odd"
    make_results(
        path, (4, 8), (1, 2, 4, 1000, 1100, 2**17), (0, 1), n=128,
        truth=lambda cell: "failed" if cell.num_tasks == 1 else "generalizing",
    )  # fmt: skip
    for file in (path / "cells").iterdir():
        [row] = pq.read_table(file).to_pylist()
        row["error"] = row["error"] and "x" * 1500
        pq.write_table(pa.Table.from_pylist([row]), file)
    history = next((path / "history").iterdir())
    rows = pq.read_table(history).to_pylist()
    for row in rows:
        row["split"] = row["split"].replace("unseen", "unseen/FashionMNIST relabelled at random")
    pq.write_table(pa.Table.from_pylist(rows), history)
    letters = """() => {
      const { map } = panels[0], { x, text } = map.words.data;
      const { start, end } = map.figure.x_range, pixels = map.view.frame.bbox.width;
      const widths = x.map((at) => map.x.find(([, low, high]) => low <= at && at < high))
        .map(([, low, high]) => (high - low) / (end - start) * pixels);
      return [x.length, Math.min(...widths)];
    }"""
    window = {"width": 700, "height": 900}
    with serving(path) as served, browser() as found, opened(found, served, viewport=window) as at:
        click_tile(at, 0, 1)
        at.wait_for_selector(".detail .error")
        box = at.locator(".detail .id").first.bounding_box()
        assert box["x"] + box["width"] < 700
        at.wait_for_function("() => panels[0].map.words.data.x.length === 8")  # not of 1000, 1100
        assert at.evaluate(letters)[1] > 20
        at.set_viewport_size({"width": 320, "height": 900})
        at.wait_for_function("() => panels[0].map.words.data.x.length === 0")
        assert at.evaluate("document.documentElement.scrollWidth") == 320
        at.set_viewport_size(window)
        at.wait_for_function("() => panels[0].map.words.data.x.length === 8")
