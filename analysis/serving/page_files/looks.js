// What outcomes look like: colours, patterns, letters and symbols (in static figures: analysis.figures.outcomes).

const LETTERS = { generalizing: "G", identifying: "I", memorizing: "M", untrained: "U" };
let SYMBOLS = {}, PATTERNS = {}; // of outcomes that are no phase; patterns tell them apart in grey, and in small tiles
const CAPABILITY = ["untrained", "memorizing", "identifying", "generalizing"];
const UNFINISHED = ["in training", "no result yet"];
const LIKELY = 0.8; // a phase this probable has its letter, small, where nothing was trained
const STRONGEST = 0.4; // opacity of what is expected for certain

function theme() {
  return THEMES[dark() ? "dark" : "light"];
}

function mix(stops, share) {
  const at = Math.max(0, Math.min(1, share)) * (stops.length - 1);
  const low = Math.floor(at), high = Math.min(low + 1, stops.length - 1);
  const part = (color, k) => parseInt(color.slice(1 + 2 * k, 3 + 2 * k), 16);
  const channel = (k) => Math.round(part(stops[low], k) * (1 - at + low) + part(stops[high], k) * (at - low));
  return "#" + [0, 1, 2].map((k) => channel(k).toString(16).padStart(2, "0")).join("");
}

function ink(color) {
  const [r, g, b] = [1, 3, 5].map((k) => parseInt(color.slice(k, k + 2), 16));
  return 0.299 * r + 0.587 * g + 0.114 * b > 140 ? "#111111" : "#ffffff";
}

function panelColor() {
  return dark() ? "#1d1d22" : "#ffffff";
}

// The colour of an outcome, by its name.
function outcomeColor(name, strength) {
  if (name === "generalizing" && strength !== null) return mix(theme().generalizing, strength);
  return theme().outcomes[name] || panelColor();
}

// The colour of what is expected where nothing was trained: lighter the less it is certain (a third is as good as unknown).
function expectedColor({ phase, share }) {
  return mix([panelColor(), outcomeColor(phase, null)], STRONGEST * (share - 1 / 3) * 1.5);
}

function expectedName(phase) {
  return `expected ${phase === "memorizing" ? "memorizing or untrained" : phase}`; // for both of which it stands
}

// A pattern as a background of the legend.
function lines(pattern, color, back) {
  const every = (angle) => `repeating-linear-gradient(${angle}deg, ${color} 0 1px, transparent 1px 5px)`;
  const drawn = {
    "|": every(90), "-": every(0), "\\": every(45), "/": every(135), x: `${every(45)}, ${every(135)}`, "+": `${every(0)}, ${every(90)}`,
    ".": `radial-gradient(${color} 1px, transparent 1.5px) 0 0 / 5px 5px`,
  };
  return `${drawn[pattern]}, ${back}`;
}

// The phase of most seeds that have one; of phases that tie the least capable, as in text maps.
function majority(names) {
  const count = (phase) => names.filter((name) => name === phase).length;
  return CAPABILITY.reduce((best, phase) => (count(phase) > count(best) ? phase : best));
}

// A tile's letter and mark, as in text maps (analysis.figures.text_map.marks). Seeds without a result say nothing.
function letter(seeds) {
  const known = seeds.filter((seed) => !UNFINISHED.includes(OUTCOMES[seed.outcome]));
  const names = known.map((seed) => OUTCOMES[seed.outcome]);
  if (!names.some((name) => CAPABILITY.includes(name))) {
    const symbols = [...new Set(names)].map((name) => SYMBOLS[name]).join("");
    return symbols || (seeds.some((seed) => OUTCOMES[seed.outcome] === "in training") ? SYMBOLS["in training"] : "");
  }
  const finished = names.filter((name) => name !== "diverged" && name !== "failed");
  const phases = finished.map((name) => (name === "not trained long enough" ? "untrained" : name));
  const having = phases.filter((name) => CAPABILITY.includes(name));
  const undecided = known.filter((seed) => !seed.decided).length * 2 > having.length;
  const beside = new Set(phases).size > 1 ? "*" : finished.length < names.length ? SYMBOLS.failed : undecided ? "?" : "";
  return LETTERS[majority(having)] + beside;
}
