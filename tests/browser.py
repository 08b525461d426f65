"""A headless browser for tests of pages, where there is one."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


@contextmanager
def browser() -> Iterator[Any]:
    """Playwright's browser, driving one that is installed; skips the test where none is."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    path = next(filter(None, map(shutil.which, NAMES)), None)
    if path is None:
        pytest.skip(f"no browser is installed: {', '.join(NAMES)}")
    with playwright.sync_playwright() as driver:
        found = driver.chromium.launch(executable_path=path, args=["--no-sandbox"])
        try:
            yield found
        finally:
            found.close()


@contextmanager
def page(found: Any, url: str, expected: str = "", **options: Any) -> Iterator[Any]:
    """A page at an address, ready; whatever it logs as an error fails the test, except errors that
    begin as expected."""
    context = found.new_context(**options)
    opened = context.new_page()
    errors: list[str] = []
    opened.on("pageerror", lambda error: errors.append(str(error)))
    opened.on("console", lambda said: errors.append(said.text) if said.type == "error" else None)
    try:
        opened.goto(url)
        opened.wait_for_selector("html[data-ready]", timeout=60_000)
        yield opened
        assert not [error for error in errors if not expected or not error.startswith(expected)]
    finally:
        context.close()


def click_tile(opened: Any, column: int, row: int, place: int = 0) -> None:
    """Clicks the tile of a map, counted from the left and from below."""
    x, y = tile(opened, column, row, place)
    opened.mouse.click(x, y)


def tile(opened: Any, column: int, row: int, place: int = 0) -> tuple[float, float]:
    """The middle of a tile of a map, in pixels of the page's window."""
    opened.locator(".map").nth(place).scroll_into_view_if_needed()
    return tuple(
        opened.evaluate(
            """([place, column, row]) => {
              const map = panels[place].map;
              const frame = map.view.frame.bbox, at = map.view.el.getBoundingClientRect();
              const x = map.x[column], y = map.y[row];
              const share = (range, v) => (v - range.start) / (range.end - range.start);
              const fx = share(map.figure.x_range, (x[1] + x[2]) / 2);
              const fy = share(map.figure.y_range, (y[1] + y[2]) / 2);
              const [left, bottom] = [at.x + frame.left, at.y + frame.bottom];
              return [left + fx * frame.width, bottom - fy * frame.height];
            }""",
            [place, column, row],
        )
    )
