"""How large the interactive page is, and how fast, in headless Chromium.

    python -m tests.benchmarks.page                  # 2,000, 5,000 and 20,000 cells
    python -m tests.benchmarks.page --cells 5000 --screenshots out/

The cells are Figure 2's, with as many seeds as that takes (`tests.tools.figure2_tree`): 100
positions, 7 evaluations. First paint is from the navigation to all maps drawn; a click, and a step
of the slider, until the frame after the last of what it shows is drawn.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np

from metaphase.analysis.serving import standalone
from tests.browser import browser, click_tile, page, tile
from tests.tools import figure2_tree

TILES = len(figure2_tree.WIDTHS) * len(figure2_tree.NUM_TASKS)
LIMITS = {2000: 6.0, 20000: 25.0}  # MB
REPETITIONS = 15

_CLICK = """([x, y]) => new Promise((done) => {
  const panel = panels[0], show = panel.detail.show.bind(panel.detail);
  const began = performance.now();
  panel.detail.show = async (...words) => {
    await show(...words);
    panel.detail.show = show;
    requestAnimationFrame(() => setTimeout(() => done(performance.now() - began)));
  };
  choose(panel, x + " " + y);
})"""
_SLIDE = """(place) => new Promise((done) => {
  const began = performance.now();
  state.step = state.steps[place % state.steps.length];
  const drawn = () => setTimeout(() => done(performance.now() - began));
  drawAll().then(() => requestAnimationFrame(drawn));
})"""


def measure(cells: int, screenshots: Path | None) -> None:
    """Prints a line for a page of about so many cells."""
    seeds = range(round(cells / TILES) or 1)
    with tempfile.TemporaryDirectory() as folder:
        path = figure2_tree.make(Path(folder) / "figure2", seeds=seeds)
        began = time.monotonic()
        text = standalone.render(str(path))
        made = time.monotonic() - began
        file = Path(folder) / "page.html"
        file.write_text(text)
        with browser() as found, page(found, file.as_uri()) as opened:
            paint = opened.evaluate("performance.now()")
            click_tile(opened, 20, 6)  # curves are unpacked, figures built
            opened.wait_for_selector(".detail h3")
            opened.wait_for_function("() => panels[0].detail.curve.source !== undefined")
            first = opened.evaluate(_CLICK, [64, 2**20])
            sizes, tasks = figure2_tree.WIDTHS, figure2_tree.NUM_TASKS
            clicks = [
                opened.evaluate(_CLICK, [sizes[k % len(sizes)], tasks[7 * k % len(tasks)]])
                for k in range(REPETITIONS)
            ]
            slides = [opened.evaluate(_SLIDE, k) for k in range(REPETITIONS)]
            assert tile(opened, 0, 0)
        limit = LIMITS.get(cells)
        print(
            f"{len(seeds) * TILES:6} cells: {len(text) / 1e6:5.2f} MB"
            f"{f' (at most {limit:g})' if limit else ''}, made in {made:.1f} s, first paint "
            f"{paint / 1e3:.2f} s, click {np.median(clicks):.0f} ms (longest {max(clicks):.0f}, "
            f"first {first:.0f}), slider {np.median(slides):.0f} ms",
            flush=True,
        )
        if screenshots is not None:
            shoot(file.as_uri(), screenshots, f"{cells}")


def shoot(url: str, folder: Path, name: str) -> None:
    """Screenshots in both themes and two widths, with a tile's details open."""
    folder.mkdir(parents=True, exist_ok=True)
    with browser() as found:
        for scheme in ("light", "dark"):
            for width in (1280, 390):
                size = {"width": width, "height": 900}
                with page(found, url, viewport=size, color_scheme=scheme) as opened:
                    click_tile(opened, 5, 1)
                    opened.wait_for_selector(".detail h3")
                    opened.wait_for_timeout(500)
                    opened.screenshot(path=folder / f"{name}-{scheme}-{width}.png", full_page=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cells", type=int, action="append")
    parser.add_argument("--screenshots", type=Path)
    arguments = parser.parse_args()
    for cells in arguments.cells or (2000, 5000, 20000):
        measure(cells, arguments.screenshots)


if __name__ == "__main__":
    main()
