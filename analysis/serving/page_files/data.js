"use strict";
// The documents: out of the page itself, or from the server that it came from.

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
  }

  take(found) {
    this.document = found;
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
    const answer = await ask(`sweep/${sweep.place}?version=${sweep.version}`);
    if (answer === null) return false;
    const before = sweep.line;
    sweep.line = answer.line;
    sweep.version = answer.version;
    if (answer.document) sweep.take(answer.document);
    else if (answer.gone) sweep.document = null;
    return Boolean(answer.document) || answer.gone || before !== answer.line;
  }

  // The accuracies by position of a cell.
  async curves(sweep, i) {
    if (this.served.length) {
      return (await ask(`cell/${sweep.place}/${sweep.document.cells.id[i]}`)) || {};
    }
    return (await this.unpacked())[sweep.place][i];
  }

  // All accuracies by position that are in the page.
  unpacked() {
    if (this.details === null) this.details = unpack("details");
    return this.details;
  }
}

// An answer of the server; null: it says that nothing has changed.
async function ask(path) {
  const url = new URL(path, document.baseURI);
  const token = new URLSearchParams(location.search).get("token");
  if (token !== null) url.searchParams.set("token", token);
  const answer = await fetch(url, { cache: "no-store" });
  if (answer.status === 204) return null;
  if (!answer.ok) throw new Error(`the server answers ${answer.status}`);
  return answer.json();
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
