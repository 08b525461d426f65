// The page: what it shows, for all sweeps side by side, and how it follows them.

const POLL_SECONDS = 2;
let OUTCOMES = [], THEMES = {};
const state = { measure: null, step: null, theme: null };
const panels = [];

function dark() {
  const chosen = state.theme;
  return chosen === null ? matchMedia("(prefers-color-scheme: dark)").matches : chosen === "dark";
}

class Panel {
  constructor(sweep, source) {
    this.sweep = sweep;
    this.condition = 0;
    this.found = null; // the document whose condition that is
    this.head = element("div");
    this.choices = element("div", { class: "choices" });
    this.legend = element("ul", { class: "legend", "aria-label": "Legend" });
    this.readout = element("p", { class: "readout" });
    this.mapBox = element("div", { class: "map", tabindex: "0", role: "application", "aria-roledescription": "phase map" });
    this.map = new PhaseMap(this.mapBox, (key) => choose(this, key), (key, aloud) => this.read(key, aloud), () => this.draw());
    const close = () => { choose(this, null); this.mapBox.focus(); };
    this.detail = new Detail(source, close);
    this.transitions = element("div");
    this.tableBody = element("div");
    this.table = element("details", {}, element("summary", { text: "The map as a table" }), this.tableBody);
    this.table.addEventListener("toggle", () => this.fillTable());
    this.box = element("section", { tabindex: "-1" }, this.head, this.choices, this.mapBox, this.readout, this.legend, this.detail.box, this.transitions, this.table);
    // Also on the map, where a tile was just chosen and its details don't have the focus yet.
    this.box.addEventListener("keydown", (event) => { if (event.key === "Escape" && this.detail.key !== null) close(); });
  }

  // Shows what is known now, and waits for nothing. Whatever had the focus keeps it, or the map gets it where that is gone.
  draw() {
    const focused = this.box.contains(document.activeElement);
    this.drawParts();
    if (!focused || (this.box.contains(document.activeElement) && !document.activeElement.closest("[hidden]"))) return;
    (this.mapBox.hidden ? this.box : this.mapBox).focus({ preventScroll: true });
  }

  drawParts() {
    const { sweep } = this;
    const found = sweep.document;
    this.drawHead();
    const empty = !found || !found.conditions.length;
    for (const part of [this.choices, this.mapBox, this.readout, this.legend, this.transitions, this.table]) part.hidden = empty;
    if (empty) return this.detail.hide();
    if (this.found !== found) this.find();
    this.drawChoices();
    const measure = found.measures.some((one) => one.key === state.measure) ? state.measure : null;
    this.state = { measure, step: state.step };
    this.mapBox.setAttribute("aria-label", `${this.name()}: ${this.words() || "phases"}, over number of tasks and model size. Arrow keys move, Enter shows a tile's details.`);
    this.map.draw(sweep, this.condition, this.state);
    this.drawLegend(measure);
    this.drawTransitions();
    this.fillTable();
    if (this.map.cursor) this.read(this.map.at(), false);
    else this.readout.textContent = "Click a tile, or use the arrow keys and Enter.";
    if (this.detail.key !== null) this.open(this.detail.key);
  }

  // The sweep's name, and where it is if another has the same.
  name() {
    const named = ({ sweep }) => sweep.document ? sweep.document.name : sweep.title;
    const name = named(this);
    return this.sweep.document && panels.some((one) => one !== this && named(one) === name) ? `${name} (${this.sweep.document.path})` : name;
  }

  words() {
    return this.sweep.document.conditions[this.condition].words.join(", ");
  }

  drawHead() {
    const { sweep } = this;
    const found = sweep.document;
    const parts = [element("h2", { text: this.name() })];
    if (found) {
      if (found.description) parts.push(element("p", { class: "soft", text: found.description }));
      const count = (status) => found.cells.status.filter((one) => one === status).length;
      const counts = ["done", "diverged", "failed", "in training"].map((word) => [count(word), word]).filter((one) => one[0]);
      const done = found.cells.id.length - count("in training") - count("no result yet");
      const at = new Date(found.at * 1000).toLocaleString();
      parts.push(element("p", { class: "counts", text: `${done} of ${found.cells.id.length} cells: ${counts.map((one) => one.join(" ")).join(", ") || "none finished"}. As of ${at}.` }));
      const { delta, confidence, rule } = found.thresholds;
      parts.push(element("p", { class: "soft thresholds", text: `Phases${rule === null ? "" : ` by the rule ${rule}`} with delta ${delta} and intervals at ${Number((100 * confidence).toPrecision(6))}%.` }));
      const running = found.running;
      if (running) {
        const left = running.left === null ? "" : `, about ${waiting(running.left)} left`;
        parts.push(element("p", { text: `Running${left}; ${running.by}.` }));
        for (const pack of running.packs) parts.push(element("p", { class: "soft", text: pack }));
      }
      for (const note of found.notes) parts.push(element("p", { class: "note", text: note }));
    }
    if (sweep.line) parts.push(element("p", { class: found ? "bad" : "soft", text: sweep.line }));
    rebuild(this.head, ...parts);
  }

  // A choice for each setting in which conditions differ.
  drawChoices() {
    const { conditions, choices } = this.sweep.document;
    const own = conditions[this.condition].settings;
    rebuild(this.choices, ...choices.map((name) => {
      const values = [...new Set(conditions.map((one) => one.settings[name] ?? null))];
      const select = element("select", { "data-setting": name, "data-key": name }, ...values.map((value) => element("option", { value: String(value), text: String(value ?? "–") })));
      select.addEventListener("change", () => { this.pick(name, select.value); });
      return element("label", { text: name.replaceAll("_", " ") + " " }, select);
    }));
    for (const select of this.choices.querySelectorAll("select")) select.value = String(own[select.dataset.setting] ?? null);
  }

  // The condition with this value that agrees most with the present one in the others.
  pick(name, value) {
    if (this.found !== this.sweep.document) return; // it is gone
    const fits = (one) => String(one.settings[name] ?? null) === value;
    this.condition = this.closest(this.found.conditions[this.condition].settings, fits);
    this.draw();
  }

  // The condition that was looked at, in a new document: where its cells are, or what agrees most with it.
  find() {
    const [before, { cells, conditions }] = [this.found, this.sweep.document];
    this.found = this.sweep.document;
    if (before === null) return;
    const own = new Set(before.cells.id.filter((_, i) => before.cells.condition[i] === this.condition));
    const place = cells.id.findIndex((id) => own.has(id));
    this.condition = place >= 0 ? cells.condition[place] : this.closest(before.conditions[this.condition].settings, () => true);
  }

  // Number of the condition that agrees most with settings, of those that fit.
  closest(settings, fits) {
    const { conditions, choices } = this.sweep.document;
    const agreement = (one) => choices.filter((name) => one.settings[name] === settings[name]).length;
    const fitting = conditions.map((one, i) => [i, one]).filter(([, one]) => fits(one));
    return fitting.reduce((best, next) => (agreement(next[1]) > agreement(best[1]) ? next : best))[0];
  }

  drawLegend(measure) {
    const swatch = (background, text, border = false) => {
      const box = element("span", { class: "swatch" });
      box.style.background = background;
      if (border) box.style.borderStyle = "dotted";
      return element("li", {}, box, text);
    };
    if (measure !== null) {
      const [low, high] = valueRange(this.sweep, measure);
      const name = this.sweep.document.measures.find((one) => one.key === measure).name;
      const bar = swatch(`linear-gradient(to right, ${theme().scale.filter((_, k) => k % 7 === 0).join(", ")})`, `${name}: ${shown(low, 2)} to ${shown(high, 2)}, mean of the seeds`);
      rebuild(this.legend, bar, swatch(outcomeColor("", null), "no value", true));
      return;
    }
    const there = new Set(), expected = new Set();
    let undecided = false, sofar = false;
    for (const [key, members] of this.sweep.tiles[this.condition]) {
      const one = this.sweep.expectedAt(this.condition, key, state.step);
      if (one) expected.add(one.phase);
      for (const i of one ? [] : members) {
        const now = this.sweep.at(i, state.step, null);
        there.add(OUTCOMES[now.outcome]);
        undecided = undecided || !now.decided;
        sofar = sofar || (now.sofar && now.step !== null);
      }
    }
    const marks = this.map.words.data.text; // those that are drawn
    const beside = (mark) => marks.some((text) => text.length === 2 && text[1] === mark);
    const items = OUTCOMES.filter((name) => there.has(name)).map((name) => {
      const color = outcomeColor(name, null), symbol = this.map.lettered && (LETTERS[name] || SYMBOLS[name]);
      const text = [symbol, name].filter(Boolean).join(" ");
      if (name === "generalizing") return swatch(`linear-gradient(to right, ${theme().generalizing.join(", ")})`, `${text}, ${dark() ? "lighter" : "darker"}: better`);
      if (name in PATTERNS) return swatch(lines(PATTERNS[name], theme().inks[name], color), text);
      return swatch(color, text, name === "no result yet");
    });
    if (undecided) items.push(swatch(lines("/", "var(--soft)", "var(--panel)"), `undecided${beside("?") ? " (? most seeds)" : ""}`));
    if (beside("*")) items.push(element("li", { text: "* seeds disagree" }));
    if (beside(SYMBOLS.failed)) items.push(element("li", { text: `${SYMBOLS.failed} beside a letter: other seeds diverged or failed` }));
    for (const name of CAPABILITY.filter((phase) => expected.has(phase)).reverse()) {
      const small = this.map.lettered ? ` (${LETTERS[name].toLowerCase()}: ${100 * LIKELY}% and more)` : "";
      items.push(swatch(lines("/", "var(--panel)", expectedColor({ phase: name, share: 1 })), `${expectedName(name)}, not trained${small}`));
    }
    if (sofar) items.push(swatch("var(--panel)", "pale: in training, phase so far", true));
    if (state.step === null && this.sweep.document.conditions[this.condition].transitions.some((row) => row.at !== null)) {
      items.push(element("li", { text: "◆ generalizing begins, ● identifying begins, with 95% intervals" }));
    }
    rebuild(this.legend, ...items);
  }

  drawTransitions() {
    const rows = this.sweep.document.conditions[this.condition].transitions;
    const sizes = [...new Set(rows.map((row) => row.size))].sort((a, b) => b - a);
    const cell = (size, phase) => raised(rows.filter((row) => row.size === size && row.begins === phase).map((row) => row.text).join(", ends "));
    const body = sizes.map((size) => element("tr", {}, element("th", { scope: "row", text: power(size) }),
      ...["identifying", "generalizing"].map((phase) => element("td", {}, ...cell(size, phase)))));
    const head = element("tr", {}, ...["model size", "identifying", "generalizing"].map((text) => element("th", { scope: "col", text })));
    rebuild(this.transitions, ...(rows.length ? [element("div", { class: "scroll", "data-key": "transitions" }, element("table", { class: "transitions" },
      element("caption", { text: "Number of tasks where phases begin, at the end of training (95% intervals)" }), element("thead", {}, head), element("tbody", {}, ...body)))] : []));
  }

  // In a word or two, what a tile shows.
  tell(key) {
    const members = this.sweep.tiles[this.condition].get(key);
    if (!members) return "nothing here";
    const expected = this.sweep.expectedAt(this.condition, key, this.state.step);
    if (expected) return `${expectedName(expected.phase)}, ${Math.round(100 * expected.share)}%, not trained`;
    const counts = new Map();
    for (const i of members) {
      const name = OUTCOMES[this.sweep.at(i, this.state.step, null).outcome];
      counts.set(name, (counts.get(name) || 0) + 1);
    }
    const phases = [...counts].map(([name, n]) => (members.length > 1 ? `${n} of ${members.length} seeds ${name}` : name)).join(", ");
    const measure = this.state.measure || (this.sweep.document.measures[0] || {}).key;
    if (!measure) return phases;
    const values = members.map((i) => this.sweep.at(i, this.state.step, measure).value).filter((value) => value !== null);
    const name = this.sweep.document.measures.find((one) => one.key === measure).name;
    if (!values.length) return phases;
    const [low, high] = [Math.min(...values), Math.max(...values)];
    const told = values.length > 4 ? `${shown(low)} to ${shown(high)}` : values.map((value) => shown(value)).join(", ");
    return `${phases}; ${name} ${told}`;
  }

  read(key, aloud) {
    const [size, tasks] = key.split(" ").map(Number);
    const text = `model size ${power(size)}, ${power(tasks)} ${tasks === 1 ? "task" : "tasks"}: ${this.tell(key)}`;
    this.readout.textContent = text;
    if (aloud) announce(text);
  }

  fillTable() {
    if (!this.table.open || !this.sweep.document) return this.tableBody.replaceChildren();
    const { x, y } = this.sweep.document.conditions[this.condition];
    const head = element("tr", {}, element("th", { scope: "col", text: "model size" }), ...x.map(([tasks]) => element("th", { scope: "col", text: `${power(tasks)} ${tasks === 1 ? "task" : "tasks"}` })));
    const rows = [...y].reverse().map(([size]) => element("tr", {}, element("th", { scope: "row", text: power(size) }), ...x.map(([tasks]) => {
      const key = size + " " + tasks;
      if (!this.sweep.tiles[this.condition].has(key)) return element("td", { text: "–" });
      const button = element("button", { type: "button", text: this.tell(key), "data-key": key });
      button.addEventListener("click", () => choose(this, key));
      return element("td", {}, button);
    })));
    rebuild(this.tableBody, element("div", { class: "scroll tall", "data-key": "table" }, element("table", {}, element("thead", {}, head), element("tbody", {}, ...rows))));
  }

  open(key) {
    if (!this.sweep.document) return;
    this.map.choose(key);
    if (key === null) return this.detail.hide();
    this.detail.show(this.sweep, this.condition, key, this.state.step, this.name());
  }
}

// A text with 2^7.5 in it, the exponents raised; who hears or copies it gets the ^, which has no size.
function raised(text) {
  return text.split(/\^(-?[\d.]+)/).flatMap((part, k) => (k % 2 ? [element("span", { class: "caret", text: "^" }), element("sup", { text: part })] : [part]));
}

// A tile is opened in the sweep where it was chosen, and in those beside it that have it too.
function choose(panel, key) {
  for (const one of panels) if (one.sweep.document && one.map.x) one.open(key);
  if (key !== null && panel.detail.key === key) {
    announce(panel.detail.box.getAttribute("aria-label"));
    panel.detail.box.focus({ preventScroll: true });
  }
}

function announce(text) {
  document.getElementById("announce").textContent = text;
}

// --- what all maps show ---

// Returns whether anything else is chosen now, because nothing has it any more.
function drawControls() {
  const show = document.getElementById("show"), slider = document.getElementById("step");
  const measures = new Map();
  const steps = new Set();
  for (const { sweep } of panels) {
    if (!sweep.document) continue;
    for (const one of sweep.document.measures) measures.set(one.key, one.name);
    for (const step of sweep.steps) steps.add(step);
  }
  const { measure, step } = state;
  if (panels.some((panel) => panel.found && !panel.sweep.document)) { // it may come back, with what is chosen
    if (measure !== null && !measures.has(measure)) measures.set(measure, show.selectedOptions[0].text);
    if (step !== null) steps.add(step);
  }
  state.steps = [...steps].sort((a, b) => a - b);
  state.measure = measures.has(measure) ? measure : null;
  state.step = step === null ? null : state.steps.findLast((one) => one <= step) ?? null;
  const options = [["", "phases"], ...measures];
  const before = [...show.options].map((option) => option.value).join();
  if (before !== options.map((option) => option[0]).join()) {
    show.replaceChildren(...options.map(([value, text]) => element("option", { value, text })));
  }
  show.value = state.measure ?? "";
  slider.max = String(state.steps.length); // the last place: the end
  slider.value = String(state.step === null ? state.steps.length : state.steps.indexOf(state.step));
  slider.disabled = state.steps.length === 0;
  sayStep();
  return state.measure !== measure || state.step !== step;
}

function sayStep() {
  const text = state.step === null ? "the latest" : whole(state.step);
  document.getElementById("step-text").textContent = text;
  document.getElementById("step").setAttribute("aria-valuetext", text);
}

function drawAll() {
  for (const panel of panels) {
    try { panel.draw(); } catch (error) { reportError(error); } // and the others are drawn
  }
}

function applyTheme() {
  document.documentElement.classList.toggle("dark", dark());
  document.getElementById("theme").textContent = dark() ? "Light" : "Dark";
}

function listen() {
  document.getElementById("show").addEventListener("change", (event) => {
    state.measure = event.target.value || null;
    drawAll();
  });
  let due = false;
  document.getElementById("step").addEventListener("input", (event) => {
    const place = Number(event.target.value);
    state.step = place >= state.steps.length ? null : state.steps[place];
    sayStep();
    if (due) return;
    due = true;
    requestAnimationFrame(() => { due = false; drawAll(); });
  });
  document.getElementById("theme").addEventListener("click", () => {
    state.theme = dark() ? "light" : "dark";
    applyTheme();
    drawAll();
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => { applyTheme(); drawAll(); });
}

// Follows a sweep, whatever becomes of a look at it, and of the other sweeps.
async function follow(panel, source) {
  try {
    if (!document.hidden) await look(panel, source);
  } finally {
    setTimeout(() => follow(panel, source), POLL_SECONDS * 1000);
  }
}

async function look(panel, source) {
  const { sweep } = panel;
  let changed;
  try {
    changed = await source.load(sweep);
  } catch (error) { // of the server, or on the way to it
    if (!panel.lost) { panel.lost = true; sweep.line = LOST; panel.drawHead(); }
    return;
  }
  if (panel.lost) { panel.lost = false; sweep.line = sweep.line.replace(LOST, ""); panel.drawHead(); }
  if (changed) {
    if (drawControls()) drawAll(); else panel.draw();
    for (const one of panels) if (one !== panel) one.drawHead(); // whose names may coincide now, or no more
    announce(panel.head.querySelector(".counts")?.textContent || sweep.line);
  } else if (panel.detail.lacking) panel.open(panel.detail.key);
}

const LOST = "The server doesn't answer; what is shown is what it said last.";

async function main() {
  const config = await unpack("config");
  OUTCOMES = config.outcomes;
  THEMES = config.themes;
  SYMBOLS = config.symbols;
  PATTERNS = config.patterns;
  applyTheme();
  Bokeh.set_log_level("error");
  const source = new Source(config);
  const documents = config.served.length ? [] : await unpack("documents");
  const count = config.served.length || documents.length;
  for (let place = 0; place < count; place++) {
    const sweep = new Sweep(place);
    sweep.title = config.served[place] || documents[place].name;
    if (documents.length) sweep.take(documents[place]);
    panels.push(new Panel(sweep, source));
  }
  if (config.served.length) await Promise.all(panels.map(({ sweep }) => source.load(sweep).catch(() => { sweep.line = LOST; })));
  document.getElementById("sweeps").replaceChildren(...panels.map((panel) => panel.box));
  drawControls();
  listen();
  drawAll();
  await Promise.all(panels.map((panel) => panel.map.shown));
  document.documentElement.dataset.ready = "1";
  if (config.served.length) for (const panel of panels) follow(panel, source);
  else setTimeout(() => source.unpacked(), 500); // so that the first click needn't wait
}

main();
