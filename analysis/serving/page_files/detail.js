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
    this.box = element("div", { class: "detail", role: "region", tabindex: "-1", hidden: "" });
    this.curve = new Lines("Accuracy by position in the sequence, at the end", "position");
    this.history = new Lines("Accuracy at the last positions, over training", "training step");
    this.close = element("button", { type: "button", text: "Close", on: { click: closed } });
    this.key = null;
    this.ticket = 0; // of the last that was asked for
  }

  hide() {
    this.ticket++;
    this.key = this.cells = null;
    this.box.hidden = true;
  }

  // Fills the pane with a tile's cells; null where the sweep has none there.
  async show(sweep, number, key, step) {
    const members = sweep.tiles[number].get(key);
    if (!members) return this.hide();
    const ticket = ++this.ticket;
    const cells = members.map((i) => sweep.document.cells.id[i]).join();
    const again = this.cells === cells;
    this.key = key;
    this.cells = cells;
    this.box.hidden = false;
    const title = sweep.name(members[0]);
    this.box.setAttribute("aria-label", `Details: ${title}`);
    const splits = [...new Set(members.flatMap((i) => this.past(sweep, i).map((line) => line.split)))];
    const keys = splits.map((split) => {
      const line = element("i");
      line.style.borderTopColor = splitColor(split);
      line.style.borderTopStyle = { solid: "solid", dashed: "dashed", dotted: "dotted" }[SPLIT_DASHES[split]] || "double";
      return element("span", { class: "key" }, line, `${split} tasks`);
    });
    const opened = again && [...this.box.querySelectorAll("details")].map((one) => one.open);
    this.box.replaceChildren(
      element("div", { class: "bar" }, element("h3", { text: title }), this.close), this.table(sweep, members, step),
      element("p", {}, ...keys),
      element("div", { class: "charts" }, this.history.box, this.curve.box),
      ...this.more(sweep, members),
    );
    if (opened) this.box.querySelectorAll("details").forEach((one, k) => { one.open = opened[k]; });
    this.history.show(members.flatMap((i) => this.past(sweep, i)));
    if (!again) this.curve.empty(); // until theirs are there
    const curves = await Promise.all(members.filter((i) => sweep.finished(i)).map((i) => this.curves(sweep, i)));
    if (this.ticket === ticket) this.curve.show(curves.flat());
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

  async curves(sweep, i) {
    const found = await this.source.curves(sweep, i);
    return Object.entries(found).map(([split, one]) => ({
      split, name: `seed ${sweep.document.cells.seed[i]}, ${split}`,
      x: one.position || one.accuracy.map((_, k) => k + 1), y: one.accuracy,
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
      return [row, element("tr", {}, element("td", { colspan: String(names.length), class: "bad", text: cells.error[i] }))];
    });
    const body = element("tbody", {}, ...rows.flat());
    return element("div", { class: "scroll tall" }, element("table", {}, element("caption", { class: "unseen", text: "Seeds" }), element("thead", {}, head), body));
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
    return [
      element("details", {}, element("summary", { text: "Settings" }), element("div", { class: "scroll tall" }, element("table", {}, element("tbody", {}, ...body)))),
      element("details", {}, element("summary", { text: "Train it anew" }), element("p", { class: "soft", text: "This removes the stored result of the cell and trains it again, from the preset in the results:" }), ...commands),
    ];
  }
}

function copyButton(text, label) {
  const button = element("button", { type: "button", text: "Copy", "aria-label": label });
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
    setTimeout(() => { button.textContent = "Copy"; }, 1500);
  });
  return button;
}
