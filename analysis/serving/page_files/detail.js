// A tile's details: its seeds, their curves and histories, settings, errors, and how to train again.

const SPLIT_COLORS = {
  light: { unseen: "#3d2266", seen: "#1f78b4", train: "#8a6d1a" },
  dark: { unseen: "#c7aefc", seen: "#7fb8ee", train: "#e0b84c" },
};
const DECISIVE = ["unseen_relative_distance", "seen_relative_distance"]; // of phases, where there are predictors
const SPLIT_DASHES = { unseen: "solid", seen: "dashed", train: "dotted" };

function splitColor(split) {
  const colors = SPLIT_COLORS[dark() ? "dark" : "light"];
  return colors[split] || (split.startsWith("unseen/") ? (dark() ? "#ff9f80" : "#b5432a") : "#808080");
}

// A figure of lines, empty at first.
class Lines {
  constructor(label, axis) {
    this.label = label;
    this.axis = axis;
    this.holder = element("div", { role: "img", "aria-label": label });
    this.box = element("div", { class: "chart" }, element("h4", { text: label }), this.holder);
    this.theme = null;
  }

  show(lines) {
    const all = (name) => lines.flatMap((line) => line[name]).filter((value) => value !== null);
    const [x, y] = [all("x"), all("y")];
    this.box.hidden = x.length === 0 || y.length === 0;
    if (this.box.hidden) return; // of cells that failed, or have only begun
    if (this.theme !== dark()) {
      this.theme = dark();
      this.build();
    }
    this.source.data = {
      xs: lines.map((line) => line.x), ys: lines.map((line) => line.y),
      color: lines.map((line) => splitColor(line.split)), dash: lines.map((line) => SPLIT_DASHES[line.split] || "dotdash"),
    };
    this.points.data = alone(lines);
    const end = (values, pick) => values.reduce((a, b) => pick(a, b), values[0]);
    const [left, right] = [end(x, Math.min), end(x, Math.max)];
    const beside = right > left ? 0 : 1;
    Object.assign(this.figure.x_range, { start: left - beside, end: right + beside });
    const low = Math.min(0, end(y, Math.min)), high = end(y, Math.max);
    Object.assign(this.figure.y_range, { start: low, end: high <= 1 && low >= 0 ? 1 : high * 1.05 || 1 });
    const of = lines.map((line) => `${line.name} ${shown(line.y[line.y.length - 1])}`).slice(0, 12).join(", ");
    this.holder.setAttribute("aria-label", `${this.label}; at the end: ${of}`);
  }

  empty() {
    if (!this.source) return;
    this.source.data = { xs: [], ys: [], color: [], dash: [] };
    this.points.data = alone([]);
    this.holder.setAttribute("aria-label", this.label);
  }

  build() {
    const style = getComputedStyle(document.documentElement);
    const [line, text] = ["--line", "--ink"].map((name) => style.getPropertyValue(name).trim());
    this.figure = Bokeh.Plotting.figure({
      toolbar_location: null, tools: "", sizing_mode: "stretch_width", height: 200, outline_line_color: null,
      background_fill_color: null, border_fill_color: null, min_border_right: 12,
      x_range: new Bokeh.Range1d({ start: 0, end: 1 }), y_range: new Bokeh.Range1d({ start: 0, end: 1 }),
    });
    this.source = new Bokeh.ColumnDataSource({ data: { xs: [], ys: [], color: [], dash: [] } });
    this.figure.multi_line({
      xs: { field: "xs" }, ys: { field: "ys" }, line_color: { field: "color" }, line_dash: { field: "dash" },
      line_width: 2, line_alpha: 0.9, source: this.source,
    });
    this.points = new Bokeh.ColumnDataSource({ data: alone([]) });
    this.figure.scatter({ x: { field: "x" }, y: { field: "y" }, color: { field: "color" }, size: 7, source: this.points });
    for (const axis of [this.figure.below[0], this.figure.left[0]]) {
      Object.assign(axis, {
        axis_line_color: line, major_tick_line_color: line, minor_tick_line_color: null,
        major_label_text_color: text, axis_label_text_color: text, axis_label_text_font_style: "normal",
        major_label_text_font_size: "11px", axis_label_text_font_size: "12px",
      });
    }
    this.figure.below[0].axis_label = this.axis;
    for (const grid of this.figure.center) grid.grid_line_color = line;
    place(this.figure, this.holder);
  }
}

// The points of lines that have no neighbour, so that no line would show them.
function alone(lines) {
  const found = { x: [], y: [], color: [] };
  for (const { x, y, split } of lines) {
    const there = (k) => (y[k] ?? null) !== null;
    y.forEach((value, k) => {
      if (!there(k) || there(k - 1) || there(k + 1)) return;
      found.x.push(x[k]); found.y.push(value); found.color.push(splitColor(split));
    });
  }
  return found;
}

class Detail {
  constructor(source, closed) {
    this.source = source;
    this.curve = new Lines("Accuracy by position in the sequence, at the end", "position");
    this.history = new Lines("Accuracy at the last positions, over training", "training step");
    this.title = element("h3");
    this.close = element("button", { type: "button", text: "Close", on: { click: closed } });
    [this.seeds, this.keys, this.further] = [element("div"), element("p"), element("div")];
    this.note = element("p", { class: "note curves", role: "status" }); // what there is to say of the curves
    this.box = element("div", { class: "detail", role: "region", tabindex: "-1", hidden: "" },
      element("div", { class: "bar" }, this.title, this.close), this.seeds, this.keys,
      element("div", { class: "charts" }, this.history.box, this.curve.box), this.note, this.further);
    this.key = null;
    this.lacking = false; // whether there are curves that couldn't be had
    this.ticket = 0; // of the last that was asked for
  }

  hide() {
    this.ticket++;
    this.key = this.cells = null;
    this.lacking = false;
    this.box.hidden = true;
  }

  // Fills the pane with a tile's cells; nothing where the sweep has none there. Curves come when they
  // come, which is what the promise says that it returns.
  show(sweep, number, key, step, of) {
    const members = sweep.tiles[number].get(key);
    if (!members) return this.hide();
    const cells = members.map((i) => sweep.document.cells.id[i]).join();
    const again = this.cells === cells;
    this.key = key;
    this.cells = cells;
    this.box.hidden = false;
    this.title.textContent = sweep.name(members[0]);
    this.box.setAttribute("aria-label", `Details of ${of}: ${this.title.textContent}`);
    const splits = [...new Set(members.flatMap((i) => this.past(sweep, i).map((line) => line.split)))];
    const keys = splits.map((split) => {
      const line = element("i");
      line.style.borderTopColor = splitColor(split);
      line.style.borderTopStyle = { solid: "solid", dashed: "dashed", dotted: "dotted" }[SPLIT_DASHES[split]] || "double";
      return element("span", { class: "key" }, line, `${split} tasks`);
    });
    if (!again) this.further.replaceChildren(); // what is opened there is another tile's
    rebuild(this.seeds, this.table(sweep, members, step));
    rebuild(this.keys, ...keys);
    rebuild(this.further, ...this.more(sweep, members));
    this.history.show(members.flatMap((i) => this.past(sweep, i)));
    if (!again) {
      this.curve.empty(); // until theirs are there
      this.say("");
    }
    return this.fetch(sweep, members.filter((i) => sweep.finished(i)));
  }

  // Shows the curves of cells as far as they can be had, and says which can't. Raises no error.
  async fetch(sweep, members) {
    const ticket = ++this.ticket, { cells } = sweep.document;
    const late = setTimeout(() => { if (this.ticket === ticket && !this.lacking) this.say("The curves are on their way …"); }, 1000);
    const answers = await Promise.allSettled(members.map((i) => this.source.curves(sweep, i)));
    clearTimeout(late);
    if (this.ticket !== ticket) return;
    const had = answers.map(({ value }) => value || {});
    this.curve.show(members.flatMap((i, k) => this.lines(cells.seed[i], had[k])));
    const failed = answers.filter(({ status }) => status === "rejected");
    const lacking = members.filter((i, k) => answers[k].value && cells.status[i] === "done" && !Object.keys(had[k]).length);
    const of = (seeds) => `of ${seeds.length === 1 ? "seed" : "seeds"} ${seeds.map((i) => cells.seed[i]).join(", ")}`;
    const said = [];
    if (failed.length) said.push(`The curves ${of(members.filter((_, k) => answers[k].reason))} can't be had: ${failed[0].reason.message}.`);
    if (lacking.length) said.push(`The results hold no curves ${of(lacking)}.`);
    this.say(said.join(" "));
    this.lacking = said.length > 0;
  }

  say(text) {
    if (this.note.textContent !== text) this.note.textContent = text; // or it would be read aloud again
  }

  past(sweep, i) {
    const { evaluations, cells } = sweep.document;
    const [from, to] = [evaluations.first[i], evaluations.first[i + 1]];
    const splits = sweep.document.measures.filter(({ key }) => key.endsWith("_last")).map(({ key }) => key.slice(0, -"_last".length));
    return splits.map((split) => ({
      split, name: `seed ${cells.seed[i]}, ${split}`,
      x: evaluations.step.slice(from, to), y: evaluations[`${split}_last`].slice(from, to),
    })).filter(({ y }) => y.some((value) => value !== null));
  }

  lines(seed, curves) {
    return Object.entries(curves).map(([split, one]) => ({
      split, name: `seed ${seed}, ${split}`, x: one.position || one.accuracy.map((_, k) => k + 1), y: one.accuracy,
    }));
  }

  table(sweep, members, step) {
    const { cells, measures } = sweep.document;
    const told = measures.filter(({ key }, k) => k < 2 || DECISIVE.includes(key));
    const names = ["seed", "phase", ...told.map((one) => one.name), "step", "cell_id", ""];
    const head = element("tr", {}, ...names.map((name) => element("th", { scope: "col", text: name })));
    const rows = members.map((i) => {
      const now = sweep.at(i, step, null);
      const name = OUTCOMES[now.outcome] + (now.decided ? "" : ", undecided") + (now.sofar && now.step !== null ? ", so far" : "");
      const values = told.map((one) => element("td", { text: shown(sweep.at(i, step, one.key).value) }));
      const row = element("tr", {},
        element("th", { scope: "row", text: String(cells.seed[i]) }), element("td", { text: name }), ...values,
        element("td", { text: now.step === null ? "–" : whole(now.step) }),
        element("td", {}, element("span", { class: "id", text: cells.id[i] })),
        element("td", {}, copyButton(cells.id[i], `Copy the cell_id of seed ${cells.seed[i]}`)));
      if (!cells.error[i]) return [row];
      return [row, element("tr", {}, element("td", { colspan: String(names.length), class: "bad error", text: cells.error[i] }))];
    });
    const body = element("tbody", {}, ...rows.flat());
    return element("div", { class: "scroll tall", "data-key": "seeds" }, element("table", {}, element("caption", { class: "unseen", text: "Seeds" }), element("thead", {}, head), body));
  }

  more(sweep, members) {
    const { settings, rerun, cells } = sweep.document;
    const rows = Object.entries(settings.varying).map(([name, values]) => [name, [...new Set(members.map((i) => values[i]))].map((value) => value ?? "–").join(", ")]);
    rows.push(...Object.entries(settings.common).map(([name, value]) => [name, value ?? "–"]));
    const body = rows.map(([name, value]) => element("tr", {}, element("th", { scope: "row", text: name }), element("td", { text: value })));
    const commands = members.map((i) => {
      const command = rerun + cells.id[i];
      return element("p", {}, element("code", { text: command }), " ", copyButton(command, `Copy the command for seed ${cells.seed[i]}`));
    });
    const folded = (text, ...children) => element("details", { "data-key": text }, element("summary", { text, "data-key": `${text}: summary` }), ...children);
    return [
      folded("Settings", element("div", { class: "scroll tall", "data-key": "settings" }, element("table", {}, element("tbody", {}, ...body)))),
      folded("Train it anew", element("p", { class: "soft", text: "This removes the stored result of the cell and trains it again, from the preset in the results:" }), ...commands),
    ];
  }
}

function copyButton(text, label) {
  const button = element("button", { type: "button", text: "Copy", "aria-label": label, "data-key": label });
  button.addEventListener("click", async () => {
    try {
      await navigator.clipboard.writeText(text);
    } catch (error) { // no permission, or a page that isn't from a secure place
      const area = element("textarea", { readonly: "" });
      area.value = text;
      document.body.append(area);
      area.select();
      document.execCommand("copy");
      area.remove();
    }
    button.textContent = "Copied";
    announce(`Copied: ${text}`);
    setTimeout(() => { button.textContent = "Copy"; }, 1500);
  });
  return button;
}
