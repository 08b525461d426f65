"use strict";
// The documents: out of the page itself, or from the server that it came from.

const DOCUMENT_SECONDS = 60; // that an answer of the server's may take
const CURVES_SECONDS = 10;

// What analysis.serving.page.pack made of a value.
async function unpack(name) {
  const text = document.getElementById("data-" + name).textContent;
  const letters = atob(text), bytes = new Uint8Array(letters.length);
  for (let i = 0; i < letters.length; i++) bytes[i] = letters.charCodeAt(i);
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return JSON.parse(await new Response(stream).text());
}

// A sweep's document, with what is looked up in it again and again.
class Sweep {
  constructor(place) {
    this.place = place; // number of the sweep on this page
    this.line = "";
    this.document = null;
    this.version = -1;
    this.curves = new Map(); // of this document: {cell_id: promise of its accuracies by position}
  }

  take(found) {
    this.document = found;
    this.curves = new Map();
    const cells = found.cells;
    this.tiles = found.conditions.map(() => new Map()); // "size tasks": numbers of cells
    cells.id.forEach((_, i) => {
      const tiles = this.tiles[cells.condition[i]];
      const key = cells.size[i] + " " + cells.tasks[i];
      if (!tiles.has(key)) tiles.set(key, []);
      tiles.get(key).push(i);
    });
    this.expected = found.conditions.map(({ expected }) => new Map(expected.map(([size, tasks, phase, share]) => [size + " " + tasks, { phase, share }])));
    this.steps = [...new Set(found.evaluations.step)].sort((a, b) => a - b);
  }

  // Number of the cell's last evaluation up to a step; -1: it had none.
  evaluation(i, step) {
    const { first, step: steps } = this.document.evaluations;
    let low = first[i], high = first[i + 1];
    while (low < high) {
      const middle = (low + high) >> 1;
      if (steps[middle] <= step) low = middle + 1; else high = middle;
    }
    return low > first[i] ? low - 1 : -1;
  }

  finished(i) {
    return !["in training", "no result yet"].includes(this.document.cells.status[i]);
  }

  // What a cell is as of a step; step null: now. {outcome, decided, strength, value, step, sofar}
  at(i, step, measure) {
    const { cells, evaluations } = this.document;
    const done = this.finished(i);
    const number = step === null && done ? -1 : this.evaluation(i, step === null ? Infinity : step);
    if (step === null && done) {
      return {
        outcome: cells.outcome[i], decided: cells.decided[i], strength: cells.strength[i],
        value: measure ? cells[measure][i] : null, step: cells.trained[i], sofar: false,
      };
    }
    if (number < 0) {
      const outcome = step === null ? cells.outcome[i] : OUTCOMES.indexOf("no result yet");
      return { outcome, decided: 1, strength: null, value: null, step: null, sofar: !done };
    }
    return {
      outcome: evaluations.outcome[number], decided: evaluations.decided[number],
      strength: evaluations.strength[number],
      value: measure && evaluations[measure] ? evaluations[measure][number] : null,
      step: evaluations.step[number], sofar: !done,
    };
  }

  // What is expected of a tile, {phase, share}, where a search has trained nothing; undefined elsewhere.
  expectedAt(number, key, step) {
    const found = step === null ? this.expected[number].get(key) : undefined;
    return found && this.tiles[number].get(key).every((i) => this.document.cells.status[i] === "no result yet" && this.evaluation(i, Infinity) < 0) ? found : undefined;
  }

  name(i) {
    const { size, tasks } = { size: this.document.cells.size[i], tasks: this.document.cells.tasks[i] };
    return `model size ${power(size)}, ${power(tasks)} ${tasks === 1 ? "task" : "tasks"}`;
  }
}

// Where documents come from.
class Source {
  constructor(config) {
    this.served = config.served;
    this.details = null;
  }

  async load(sweep) {
    if (!this.served.length) return false;
    const answer = await ask(`sweep/${sweep.place}?version=${sweep.version}`, DOCUMENT_SECONDS);
    if (answer === null) return false;
    const before = sweep.line;
    sweep.line = answer.line;
    sweep.version = answer.version;
    if (answer.document) sweep.take(answer.document);
    else if (answer.gone) sweep.document = null;
    return Boolean(answer.document) || answer.gone || before !== answer.line;
  }

  // The accuracies by position of a cell; {} where the results have none. Asked for once a document, unless
  // they can't be had or aren't there yet.
  curves(sweep, i) {
    const known = sweep.curves, id = sweep.document.cells.id[i];
    if (!known.has(id)) {
      const asked = this.served.length ? ask(`cell/${sweep.place}/${id}`, CURVES_SECONDS) : this.unpacked().then((all) => all[sweep.place][i]);
      known.set(id, asked);
      asked.then((found) => { if (!Object.keys(found).length) known.delete(id); }, () => known.delete(id));
    }
    return known.get(id);
  }

  // All accuracies by position that are in the page.
  unpacked() {
    if (this.details === null) this.details = unpack("details");
    return this.details;
  }
}

// An answer of the server; null: it says that nothing has changed. An error, in words, where there is none in time.
async function ask(path, seconds) {
  const url = new URL(path, document.baseURI);
  const token = new URLSearchParams(location.search).get("token");
  if (token !== null) url.searchParams.set("token", token);
  let answer;
  try {
    answer = await fetch(url, { cache: "no-store", signal: AbortSignal.timeout(1000 * seconds) });
    if (answer.ok) return answer.status === 204 ? null : await answer.json();
  } catch (error) {
    throw new Error(error.name === "TimeoutError" ? `the server takes longer than ${seconds} s` : "the server doesn't answer");
  }
  throw new Error(`the server answers ${answer.status}: ${(await answer.text().catch(() => "")).slice(0, 200)}`);
}

// --- numbers in words ---

const UP = "⁰¹²³⁴⁵⁶⁷⁸⁹";

function power(value) {
  const exponent = Math.log2(value);
  if (!Number.isInteger(exponent) || exponent < 0) return whole(value);
  return "2" + String(exponent).split("").map((digit) => UP[Number(digit)]).join("");
}

function whole(value) {
  return value.toLocaleString("en-US");
}

function shown(value, digits = 3) {
  return value === null || value === undefined ? "–" : value.toFixed(digits);
}

function waiting(seconds) {
  if (seconds < 100) return `${Math.round(seconds)} s`;
  if (seconds < 6000) return `${Math.round(seconds / 60)} min`;
  return seconds < 172800 ? `${(seconds / 3600).toFixed(1)} h` : `${(seconds / 86400).toFixed(1)} days`;
}

// Fills an element with new children. What is equal stays, with the text that is selected in it; the focus, scrolled
// places and opened details pass to the elements of the same data-key.
function rebuild(holder, ...children) {
  const find = (key, root) => root.querySelector(`[data-key="${CSS.escape(key)}"]`);
  const focused = holder.contains(document.activeElement) ? document.activeElement.dataset.key : undefined;
  const kept = [...holder.querySelectorAll("[data-key]")].filter((one) => one.open || one.scrollTop || one.scrollLeft)
    .map((one) => [one.dataset.key, one.open, { scrollTop: one.scrollTop, scrollLeft: one.scrollLeft }]);
  const made = element("div", {}, ...children);
  for (const [key, open] of kept) if (open) find(key, made)?.setAttribute("open", "");
  const before = [...holder.childNodes], after = [...made.childNodes];
  after.forEach((child, k) => {
    if (k >= before.length) holder.append(child);
    else if (!before[k].isEqualNode(child)) before[k].replaceWith(child);
  });
  for (const child of before.slice(after.length)) child.remove();
  for (const [key,, scrolled] of kept) Object.assign(find(key, holder) || {}, scrolled);
  if (focused !== undefined && !holder.contains(document.activeElement)) find(focused, holder)?.focus({ preventScroll: true });
}

// An element with a text, never HTML, and children.
function element(name, options = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(options)) {
    if (key === "text") made.textContent = value;
    else if (key === "on") for (const [event, call] of Object.entries(value)) made.addEventListener(event, call);
    else made.setAttribute(key, value);
  }
  made.append(...children.filter((child) => child !== null));
  return made;
}
