"""The page in a browser: what maps, legends, readouts and figures show is what the tables say."""

from dataclasses import replace

import pytest

from metaphase.analysis import load
from metaphase.analysis.figures import outcomes, text_map
from metaphase.analysis.serving import document, page, snapshot
from metaphase.analysis.statistics import phases
from metaphase.core.phases import PHASES
from tests.browser import browser, click_tile
from tests.browser import page as opened_page
from tests.tools import predictor_tree
from tests.tools.synthetic import BASE, make_results

SIZES, TASKS, SEEDS = (4, 8), tuple(2**k for k in range(16)), (0, 1)
LSTM = {"architecture": "lstm", "num_heads": 0, "position_encoding": "none", "mlp_ratio": 0}
ODD = {  # (model size, number of tasks): each seed's truth
    (4, 1): ("failed", "missing"),
    (4, 2): ("diverged", "diverged"),
    (4, 4): ("memorizing", "failed"),
    (4, 8): ("memorizing", "missing"),
    (4, 16): ("memorizing", "generalizing"),
    (8, 1): ("diverged", "missing"),
    (8, 2): ("missing", "missing"),
}


def truth(cell):
    usual = ("generalizing" if cell.num_tasks > 64 else "memorizing",) * 2
    return ODD.get((cell.model_size, cell.num_tasks), usual)[cell.seed]


def grid():
    """All cells; none of the odd ones' missing seeds has a result."""
    return [
        replace(BASE, key_size=None, model_size=size, num_tasks=tasks, seed=seed, **settings)
        for settings in ({}, LSTM)
        for size in SIZES
        for tasks in TASKS
        for seed in SEEDS
    ]


def write(path, told):
    path.write_text(page.html([told], [[{}] * len(told["cells"]["id"])]))
    return path.as_uri()


@pytest.fixture(scope="module")
def taken(tmp_path_factory):
    path = tmp_path_factory.mktemp("root") / "sweep"
    make_results(path, SIZES, TASKS, SEEDS, truth, settings=({}, LSTM), n=128)
    cells, history = load.load_cells(path), load.load_history(path)
    history = history.assign(last=history["last"].where(history["step"] > 0, 0.25))
    there = set(cells["cell_id"])
    missing = {c: snapshot.MISSING for c in grid() if c.cell_id not in there}
    searched = snapshot.Grid("sweep", unfinished=missing, search=tuple(grid()))
    return snapshot.take(str(path), cells, history, searched)


@pytest.fixture(scope="module")
def url(taken, tmp_path_factory):
    return write(tmp_path_factory.mktemp("page") / "page.html", document.overview(taken))


def words(opened):
    """{(model size, number of tasks): the text of its tile}"""
    found = opened.evaluate(
        """(() => {
          const map = panels[0].map, { x, y, text } = map.words.data;
          const at = (edges, v) => edges.find(([, low, high]) => low <= v && v < high)[0];
          return text.map((word, i) => [at(map.y, y[i]), at(map.x, x[i]), word]);
        })()"""
    )
    return {(size, tasks): text for size, tasks, text in found}


def hatched(opened, name):
    return opened.evaluate(f"panels[0].map.hatched.get({name!r})[0].data.left.length")


def test_marks_are_those_of_text_maps(taken, url):
    with browser() as found, opened_page(found, url, viewport={"width": 1280, "height": 900}) as at:
        drawn, legend = words(at), at.inner_text(".legend")
        [cells] = [one.cells for one in taken.conditions[:1]]
        finished = cells[~cells["status"].isin((snapshot.MISSING, snapshot.IN_TRAINING))]
        marks = text_map.marks(phases.summarize_grid(finished))
        own = {"x": ("✕", "△"), "-": ("–",)}
        for point, mark in marks.items():
            assert drawn[point] in own.get(mark, (mark.replace("x", "✕"),)), point
        assert drawn[4, 8] in ("M", "M?")  # the other seed has no result, which is no disagreement
        assert drawn[4, 16] == "M*"
        assert drawn[4, 4] == "M✕"
        for told in ("* seeds disagree", "✕ beside a letter", "△ diverged", "✕ failed"):
            assert told in legend


def test_what_has_no_phase_has_a_look_of_its_own(url):
    looks = page._themes()
    for theme in looks.values():
        none = [name for name in outcomes.ORDER if name not in PHASES]
        drawn = [name for name in none if name not in (outcomes.MISSING, outcomes.UNTRAINED_POINT)]
        assert len({(theme["outcomes"][n], page.PATTERNS[n]) for n in drawn}) == len(drawn)
        assert len({page.PATTERNS[name] for name in drawn}) == len(drawn)  # in grey
        assert set(drawn) <= page.SYMBOLS.keys()
    with browser() as found:
        for width in (1280, 390):  # with and without letters
            size = {"width": width, "height": 900}
            with opened_page(found, url, viewport=size) as at:
                assert bool(words(at)) == (width == 1280)
                assert hatched(at, "failed") == 2
                assert hatched(at, "diverged") == 3
                swatches = at.evaluate(
                    "[...document.querySelectorAll('.swatch')].map((one) => one.style.cssText)"
                )
                assert len(set(swatches)) == len(swatches) >= 6
                assert ("✕" in at.inner_text(".legend")) == (width == 1280)


def test_the_readout_follows_what_is_shown(url):
    with browser() as found, opened_page(found, url) as at:
        told = [at.inner_text(".readout")]
        assert told[0].startswith("Click a tile")

        def read():
            """Waits until the readout is another than before, and that of what is shown."""
            now = "document.querySelector('.readout').textContent"
            tell = "panels[0].tell(panels[0].map.at())"
            at.wait_for_function(
                f"(before) => {now} !== before && {now}.endsWith({tell})", arg=told[-1]
            )
            told.append(at.inner_text(".readout"))

        at.locator(".map").focus()
        at.keyboard.press("End")
        read()
        other = {"lstm", "transformer"} - {at.input_value("[data-setting]")}
        at.select_option("[data-setting]", other.pop())
        read()
        at.locator("#step").focus()
        at.keyboard.press("Home")
        read()
        at.select_option("#show", "train_last")
        read()
        at.evaluate(  # another document, as from the server
            """(() => {
              const { sweep } = panels[0], document = structuredClone(sweep.document);
              document.evaluations.train_last = document.evaluations.train_last.map(() => 0.123);
              sweep.take(document);
              return panels[0].draw();
            })()"""
        )
        read()
        assert "0.123" in told[-1]


def test_single_evaluations_are_points(url):
    with browser() as found, opened_page(found, url) as at:
        click_tile(at, 9, 0)
        at.wait_for_selector(".detail h3")
        points = at.evaluate(
            """(async () => {
              const figure = panels[0].detail.history, line = (x, y) => ({ x, y, split: "unseen" });
              await figure.show([line([60], [0.3]), line([1, 2, 3, 4], [0.1, 0.2, null, 0.4])]);
              return [figure.points.data.x, figure.points.data.y];
            })()"""
        )
        assert points == [[60, 4], [0.3, 0.4]]


def test_what_is_expected_is_light_and_no_data(taken, url):
    told = document.overview(taken)
    [expected] = told["conditions"][0]["expected"]
    assert expected[:3] == [8, 2, "memorizing"]
    assert 0.5 < expected[3] <= 1
    assert told["cells"]["status"].count("no result yet") == 10
    with browser() as found, opened_page(found, url, viewport={"width": 1280, "height": 900}) as at:
        assert hatched(at, "expected") == 1
        share = f"{100 * expected[3]:.0f}%"
        assert words(at).get((8, 2), "") == ("m" if expected[3] >= text_map.LIKELY else "")
        click_tile(at, 1, 1)
        text = f"2¹ tasks: expected memorizing or untrained, {share}, not trained"
        at.wait_for_selector(f".readout:has-text('{text}')")
        assert "expected memorizing or untrained, not trained" in at.inner_text(".legend")
        at.locator("#step").focus()
        at.keyboard.press("Home")  # it is about the end of training
        at.wait_for_selector(".readout:has-text('no result yet')")
        assert hatched(at, "expected") == 0


def test_curves_that_come_late_are_not_shown(url):
    with browser() as found, opened_page(found, url) as at:
        right, waiting, again, late = at.evaluate(
            """(async () => {
              const { detail, sweep } = panels[0], shown = () => detail.curve.source.data.ys.flat();
              let answer;
              const late = new Promise((done) => { answer = done; });
              detail.source.curves = async (_, i) => {
                if (sweep.document.cells.condition[i] === 0) await late;
                return { unseen: { accuracy: [i / 1000, i / 1000] } };
              };
              const told = [];
              const see = async (number) => {
                await detail.show(sweep, number, "8 128", null);
                told.push(shown());
              };
              await see(1);
              const first = detail.show(sweep, 0, "8 128", null);
              told.push(shown());
              await see(1);
              answer();
              await first;
              return [...told, shown()];
            })()"""
        )
        assert right == again == late != []
        assert waiting == []


def test_draws_that_overlap_leave_one_figure(url):
    with browser() as found, opened_page(found, url) as at:
        click_tile(at, 9, 0)
        at.wait_for_selector(".detail .bk-Figure")
        counts = at.evaluate(
            """(async () => {
              const themes = ["dark", "light", "dark"];
              for (const theme of themes) { state.theme = theme; drawAll(); }
              await panels[0].map.shown;
              const holders = [...document.querySelectorAll(".map, .chart > div")];
              return holders.map((one) => one.childElementCount);
            })()"""
        )
        assert counts == [1, 1, 0]  # this page has no curves
        assert at.evaluate("panels[0].map.view.model === panels[0].map.figure")


TAKE = """((change) => {
  const { sweep } = panels[0], document = structuredClone(sweep.document);
  change(document);
  sweep.take(document);
  drawControls();
  return panels[0].draw();
})"""


def test_the_condition_that_is_looked_at_stays(url):
    other = """(found) => { // comes before them
      const settings = { architecture: "fast_weights" };
      found.conditions.unshift({ ...found.conditions[0], settings });
      found.cells.condition = found.cells.condition.map((number) => number + 1);
    }"""
    anew = """(found) => { // with other cells, and one condition fewer
      found.cells.id = found.cells.id.map((id) => `other ${id}`);
      found.conditions.shift();
      found.cells.condition = found.cells.condition.map((number) => number - 1);
    }"""
    settings = "panels[0].sweep.document.conditions[panels[0].condition].settings"
    with browser() as found, opened_page(found, url) as at:
        at.select_option("[data-setting]", "transformer")
        for change in (other, anew):
            at.evaluate(f"{TAKE}({change})")
            assert at.input_value("[data-setting]") == "transformer"
            assert at.evaluate(settings) == {"architecture": "transformer"}


def test_a_sweep_that_is_gone_leaves_nothing_to_choose(url):
    with browser() as found, opened_page(found, url) as at:
        at.evaluate("panels[0].sweep.document = null; panels[0].draw()")
        for part in (".choices", ".legend", ".map", ".readout"):
            assert at.locator(part).is_hidden()
        at.evaluate("document.querySelector('[data-setting]').dispatchEvent(new Event('change'))")


def test_what_is_chosen_is_there(url):
    def chosen():
        said = at.input_value("#show"), at.inner_text("#step-text")
        place = at.evaluate("state.steps[document.getElementById('step').value] ?? null")
        assert at.evaluate("[state.measure ?? '', state.step]") == [said[0], place]
        return *said, place

    with browser() as found, opened_page(found, url) as at:
        last = at.evaluate("state.steps[state.steps.length - 1]")
        at.select_option("#show", "train_last")
        at.locator("#step").focus()
        for key in ("End", "ArrowLeft"):
            at.keyboard.press(key)
        text = f"{last:,}"
        assert chosen() == ("train_last", text, last)
        at.evaluate(
            "kept = panels[0].sweep.document; panels[0].sweep.document = null; drawControls()"
        )
        assert chosen() == ("train_last", text, last)  # until it comes back
        at.evaluate("panels[0].sweep.document = kept")
        at.evaluate(
            f"""{TAKE}((found) => {{
              found.measures = found.measures.filter((one) => one.key !== "train_last");
              found.evaluations.step = found.evaluations.step.map((step) => 2 * step + 7);
            }})"""
        )
        measure, _, step = chosen()
        assert measure == ""
        assert step < last
        later = "found.evaluations.step = found.evaluations.step.map(() => 5000);"
        at.evaluate(f"{TAKE}((found) => {{ {later} }})")
        assert chosen() == ("", "the latest", None)


def test_details_tell_the_distances_that_decide(tmp_path):
    path = predictor_tree.make(tmp_path / "urns", (8,), (1, 4), (0,), n=32)
    cells, history = load.load_cells(path), load.load_history(path)
    told = document.overview(snapshot.take(str(path), cells, history, snapshot.Grid("urns")))
    with (
        browser() as found,
        opened_page(found, write(tmp_path / "page.html", told)) as at,
    ):
        click_tile(at, 0, 0)
        at.wait_for_selector(".detail h3")
        row = cells[cells["num_tasks"] == 1].iloc[0]
        text = at.inner_text(".detail table >> nth=0")
        for split in ("unseen", "seen"):
            assert f"{split} relative distance" in text
            assert f"{row[f'{split}_relative_distance']:.3f}" in text
        at.select_option("#show", "unseen_relative_distance")
        at.locator("#step").focus()
        at.keyboard.press("Home")
        first = history[(history["split"] == "unseen") & (history["step"] == 100)]
        at.wait_for_function("() => panels[0].state.step === 100")
        assert (
            len(at.evaluate("panels[0].map.words.data.text"))
            == first["relative_distance"].notna().sum()
        )
        assert "no value yet" not in at.inner_text(".legend")
