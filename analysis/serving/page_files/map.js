// A map: tiles over number of tasks and model size, drawn by Bokeh; a cursor for keys and pointers.

const MOST_LETTERS = 100; // tiles that get letters
const LETTER_WIDTH = 22, NUMBER_WIDTH = 38; // pixels of a tile that has room for them
const AXIS_WIDTH = 70; // pixels beside the tiles

class PhaseMap {
  // chosen(key): a tile was clicked; moved(key): the cursor is on it; resized(): what has room is to be drawn again.
  constructor(holder, chosen, moved, resized) {
    this.holder = holder;
    this.chosen = chosen;
    this.moved = moved;
    this.cursor = null; // [number of the column, of the row]
    new ResizeObserver(() => {
      if (this.figure && this.holder.clientWidth && this.width !== this.holder.clientWidth) requestAnimationFrame(resized);
    }).observe(holder);
    holder.addEventListener("keydown", (event) => this.key(event));
  }

  // The tiles of a condition: x and y are [value, low edge, high edge]. `shown` is when they are seen.
  draw(sweep, number, state) {
    this.sweep = sweep;
    this.number = number;
    const one = sweep.document.conditions[number];
    const shape = JSON.stringify([one.x, one.y, dark()]);
    if (this.shape !== shape) {
      this.shape = shape;
      this.x = one.x;
      this.y = one.y;
      this.cursor = null;
      this.build();
      this.width = null;
    }
    if (this.width !== this.holder.clientWidth) this.label();
    this.fill(state);
  }

  build() {
    const { x, y } = this;
    const style = getComputedStyle(document.documentElement);
    const [line, text] = ["--line", "--ink"].map((name) => style.getPropertyValue(name).trim());
    const range = (edges) => new Bokeh.Range1d({ start: edges[0][1], end: edges[edges.length - 1][2] });
    const height = Math.round(Math.max(190, Math.min(430, 70 + 34 * y.length)));
    const figure = Bokeh.Plotting.figure({
      toolbar_location: null, tools: "", sizing_mode: "stretch_width", height,
      x_range: range(x), y_range: range(y), min_border_right: 8, outline_line_color: null,
      background_fill_color: null, border_fill_color: null,
    });
    const source = (names) => new Bokeh.ColumnDataSource({ data: Object.fromEntries(names.map((n) => [n, []])) });
    const field = (name) => ({ field: name });
    this.bands = source(["left", "right", "bottom", "top", "color", "alpha"]);
    const hatch = (pattern, color, alpha, scale = 12, weight = 1) => [source(["left", "right", "bottom", "top"]), {
      hatch_pattern: pattern, hatch_color: color, hatch_alpha: alpha, hatch_scale: scale, hatch_weight: weight,
    }];
    this.hatched = new Map([
      ...["#111111", "#ffffff"].map((color) => [color, hatch("/", color, 0.55)]), // undecided, over what is light and dark
      ...Object.entries(PATTERNS).map(([name, pattern]) => [name, hatch(pattern, theme().inks[name], 0.9, pattern === "x" ? 9 : 7)]),
      ["expected", hatch("/", panelColor(), 1, 10, 2)],
    ]);
    this.frames = source(["left", "right", "bottom", "top"]);
    this.marks = source(["at", "y", "low", "high", "color", "shape"]);
    this.words = source(["x", "y", "text", "color", "back"]);
    this.here = source(["left", "right", "bottom", "top"]);
    this.open = source(["left", "right", "bottom", "top"]);
    const sides = { left: field("left"), right: field("right"), bottom: field("bottom"), top: field("top") };
    figure.quad({
      ...sides, source: this.bands, fill_color: field("color"), fill_alpha: field("alpha"),
      line_color: null,
    });
    for (const [bands, look] of this.hatched.values()) { // one pattern for all: one each would take a minute
      figure.quad({ ...sides, source: bands, fill_color: null, line_color: null, ...look });
    }
    figure.quad({
      ...sides, source: this.frames, fill_color: null,
      line_color: style.getPropertyValue("--panel").trim(), line_width: x.length * y.length > 1500 ? 0.4 : 1.2,
    });
    figure.text({
      x: field("x"), y: field("y"), text: field("text"), text_color: field("color"), source: this.words,
      text_align: "center", text_baseline: "middle", text_font_size: "13px", anchor: "center",
      background_fill_color: field("back"), background_fill_alpha: 0.85, padding: 1, border_radius: 4,
    });
    for (const [width, color] of [[5, dark() ? "#000000" : "#ffffff"], [2, null]]) {
      figure.segment({
        x0: field("low"), x1: field("high"), y0: field("y"), y1: field("y"), source: this.marks,
        line_color: color === null ? field("color") : color, line_width: width,
      });
    }
    figure.scatter({
      x: field("at"), y: field("y"), marker: field("shape"), size: 10, source: this.marks,
      fill_color: field("color"), line_color: dark() ? "#000000" : "#ffffff", line_width: 1.5,
    });
    figure.quad({ ...sides, source: this.open, fill_color: null, line_color: text, line_width: 2.5 });
    figure.quad({
      ...sides, source: this.here, fill_color: null, line_width: 3,
      line_color: style.getPropertyValue("--focus").trim(),
    });
    for (const [axis, label] of [[figure.below[0], "number of tasks"], [figure.left[0], "model size"]]) {
      Object.assign(axis, {
        axis_label: label, axis_label_text_color: text, major_label_text_color: text, axis_label_text_font_style: "normal",
        axis_line_color: null, major_tick_line_color: line, minor_tick_line_color: null,
        major_label_text_font_size: "12px", axis_label_text_font_size: "13px", axis_label_standoff: 4,
      });
    }
    for (const grid of figure.center) grid.visible = false;
    // Bokeh calls a click that soon follows another, even elsewhere, a doubletap, and the end of a slow one a pressup.
    for (const click of ["tap", "doubletap", "pressup"]) figure.on_event(click, (event) => {
      if (this.point(event.x, event.y)) this.chosen(this.at());
    });
    figure.on_event("mousemove", (event) => {
      if (this.point(event.x, event.y)) this.moved(this.at(), false);
    });
    this.figure = figure;
    this.shown = place(figure, this.holder).then((view) => { if (this.figure === figure) this.view = view; });
  }

  // The axes' labels that have room.
  label() {
    this.width = this.holder.clientWidth;
    const { below: [across], left: [up], height } = this.figure;
    for (const [axis, edges, pixels, least] of [[across, this.x, this.width - AXIS_WIDTH, 44], [up, this.y, height - 60, 16]]) {
      const scale = pixels / (edges[edges.length - 1][2] - edges[0][1]);
      let last = -Infinity; // of the labels, in pixels
      const ticks = edges.map(([value]) => [Math.log2(value), power(value)]).filter(([at]) => {
        if (at * scale - last < least) return false;
        last = at * scale;
        return true;
      });
      axis.ticker = new Bokeh.FixedTicker({ ticks: ticks.map((tick) => tick[0]) });
      axis.major_label_overrides = new Map(ticks);
    }
  }

  fill(state) {
    const { sweep, number } = this;
    const { step, measure } = state;
    const sides = () => ({ left: [], right: [], bottom: [], top: [] });
    const bands = { ...sides(), color: [], alpha: [] }, hatched = new Map([...this.hatched.keys()].map((name) => [name, sides()]));
    const frames = sides();
    const words = { x: [], y: [], text: [], color: [], back: [] };
    const few = this.x.length * this.y.length <= MOST_LETTERS;
    const scale = (this.holder.clientWidth - AXIS_WIDTH) / (this.x[this.x.length - 1][2] - this.x[0][1]);
    const room = (left, right, pixels) => few && (right - left) * scale > pixels; // of a tile, for a text of so many
    this.lettered = this.x.some(([, left, right]) => room(left, right, LETTER_WIDTH));
    let [low, high] = measure === null ? [0, 1] : valueRange(sweep, measure);
    const tiles = sweep.tiles[number];
    for (const [size, bottom, top] of this.y) {
      for (const [tasks, left, right] of this.x) {
        const members = tiles.get(size + " " + tasks);
        band(frames, left, right, bottom, top);
        if (!members) continue;
        let seeds = members.map((i) => sweep.at(i, step, measure));
        if (measure !== null) {
          const known = seeds.filter((seed) => seed.value !== null);
          const mean = known.reduce((sum, seed) => sum + seed.value, 0) / known.length;
          const color = known.length ? mix(theme().scale, (mean - low) / (high - low || 1)) : outcomeColor("", null);
          band(bands, left, right, bottom, top);
          bands.color.push(color);
          bands.alpha.push(known.some((seed) => seed.sofar) ? 0.55 : 1);
          word(words, left, right, bottom, top, known.length ? mean.toFixed(2) : "", color, room(left, right, NUMBER_WIDTH));
          continue;
        }
        const expected = sweep.expectedAt(number, size + " " + tasks, step);
        if (expected) {
          const color = expectedColor(expected);
          band(bands, left, right, bottom, top);
          bands.color.push(color);
          bands.alpha.push(1);
          band(hatched.get("expected"), left, right, bottom, top);
          word(words, left, right, bottom, top, expected.share >= LIKELY ? LETTERS[expected.phase].toLowerCase() : "", color, room(left, right, LETTER_WIDTH));
          continue;
        }
        seeds = seeds.sort((a, b) => a.outcome - b.outcome || (b.strength || 0) - (a.strength || 0));
        const share = (top - bottom) / seeds.length;
        seeds.forEach((seed, k) => {
          const name = OUTCOMES[seed.outcome], color = outcomeColor(name, seed.strength);
          const place = [left, right, bottom + k * share, bottom + (k + 1) * share];
          band(bands, ...place);
          bands.color.push(color);
          bands.alpha.push(seed.sofar ? 0.55 : 1);
          if (name in PATTERNS) band(hatched.get(name), ...place);
          if (!seed.decided) band(hatched.get(ink(color)), ...place);
        });
        const known = seeds.filter((seed) => !UNFINISHED.includes(OUTCOMES[seed.outcome]));
        const middle = (known.length ? known : seeds)[known.length >> 1];
        word(words, left, right, bottom, top, letter(seeds), outcomeColor(OUTCOMES[middle.outcome], middle.strength), room(left, right, LETTER_WIDTH));
      }
    }
    this.bands.data = bands;
    for (const [name, [source]] of this.hatched) source.data = hatched.get(name);
    this.frames.data = frames;
    this.words.data = words;
    this.marks.data = step === null && measure === null ? this.transitions() : { at: [], y: [], low: [], high: [], color: [], shape: [] };
    this.holder.setAttribute("data-version", `${sweep.version} ${step} ${measure}`);
  }

  // Where phases begin, within the map.
  transitions() {
    const marks = { at: [], y: [], low: [], high: [], color: [], shape: [] };
    const [start, end] = [this.x[0][1], this.x[this.x.length - 1][2]];
    for (const row of this.sweep.document.conditions[this.number].transitions) {
      if (row.at === null) continue;
      marks.at.push(row.at);
      const [, bottom, top] = this.y.find(([size]) => size === row.size);
      marks.y.push(bottom + (top - bottom) * (row.begins === "generalizing" ? 0.85 : 0.15));
      marks.low.push(row.low === null ? start : Math.max(start, row.low));
      marks.high.push(row.high === null ? end : Math.min(end, row.high));
      marks.color.push(row.begins === "generalizing" ? (dark() ? "#ffffff" : "#111111") : "#c2410c");
      marks.shape.push(row.begins === "generalizing" ? "diamond" : "circle");
    }
    return marks;
  }

  // The cursor goes to the tile at a point of the map. Returns whether there is one.
  point(x, y) {
    const column = this.x.findIndex(([, low, high]) => low <= x && x < high);
    const row = this.y.findIndex(([, low, high]) => low <= y && y < high);
    if (column < 0 || row < 0) return false;
    this.move(column, row);
    return true;
  }

  move(column, row) {
    this.cursor = [column, row];
    this.here.data = this.frame(column, row);
  }

  frame(column, row) {
    const [, left, right] = this.x[column], [, bottom, top] = this.y[row];
    return { left: [left], right: [right], bottom: [bottom], top: [top] };
  }

  // The key of the tile under the cursor.
  at() {
    return this.y[this.cursor[1]][0] + " " + this.x[this.cursor[0]][0];
  }

  // Frames the tile whose details are open; null: none.
  choose(key) {
    const [size, tasks] = key === null ? [] : key.split(" ").map(Number);
    const row = this.y.findIndex(([value]) => value === size), column = this.x.findIndex(([value]) => value === tasks);
    this.open.data = row < 0 || column < 0 ? { left: [], right: [], bottom: [], top: [] } : this.frame(column, row);
  }

  key(event) {
    const steps = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] };
    const [columns, rows] = [this.x.length, this.y.length];
    const [column, row] = this.cursor || [0, 0];
    if (event.key in steps) {
      const [dx, dy] = this.cursor ? steps[event.key] : [0, 0];
      this.move(Math.max(0, Math.min(columns - 1, column + dx)), Math.max(0, Math.min(rows - 1, row + dy)));
    } else if (event.key === "Home") this.move(0, row);
    else if (event.key === "End") this.move(columns - 1, row);
    else if ((event.key === "Enter" || event.key === " ") && this.cursor) {
      event.preventDefault();
      this.chosen(this.at());
      return;
    } else return;
    event.preventDefault();
    this.moved(this.at(), true);
  }
}

// Shows a figure in the place of any other, also of one that isn't drawn yet: that one goes where nobody looks. It takes
// no Tab: keys are its holder's.
async function place(figure, holder) {
  const box = element("div");
  holder.replaceChildren(box);
  const view = await Bokeh.Plotting.show(figure, box);
  view.canvas_view.events_el.removeAttribute("tabindex");
  return view;
}

function band(bands, left, right, bottom, top) {
  bands.left.push(left); bands.right.push(right); bands.bottom.push(bottom); bands.top.push(top);
}

function word(words, left, right, bottom, top, text, color, room) {
  if (!room || !text) return;
  words.x.push((left + right) / 2); words.y.push((bottom + top) / 2);
  words.text.push(text); words.color.push(ink(color)); words.back.push(color);
}

// The colours' ends for a measure: shares from 0 to 1, anything else as far as it goes.
function valueRange(sweep, measure) {
  const values = [sweep.document.cells[measure], sweep.document.evaluations[measure] || []].flat().filter((v) => v !== null);
  let low = Infinity, high = -Infinity;
  for (const value of values) { low = Math.min(low, value); high = Math.max(high, value); }
  return low >= 0 && high <= 1 ? [0, 1] : [low, high];
}
