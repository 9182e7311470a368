"use strict";

// Players: one plays at a time; arrows walk the grid of sentences (rows) and models (columns).

let playing = null; // set with the call, not by the audio's events: those come late

function pause() {
  playing?.querySelector("audio").pause();
  playing = null;
}

function setUp(player) {
  const [audio, button, wave, clock] = ["audio", ".play", ".wave", ".clock"].map((s) => player.querySelector(s));
  const played = wave.querySelector(".played");
  const length = clock.textContent;
  audio.controls = false;
  for (const part of [button, wave]) part.removeAttribute("hidden");
  const show = () => {
    const total = Number.isFinite(audio.duration) ? audio.duration : 0;
    const share = total ? audio.currentTime / total : 0;
    played.style.clipPath = `inset(0 ${100 - 100 * share}% 0 0)`;
    clock.textContent = audio.currentTime ? audio.currentTime.toFixed(1) + " s" : length;
  };
  const follow = () => {
    show();
    if (!audio.paused) requestAnimationFrame(follow);
  };
  const mark = (on) => {
    player.classList.toggle("playing", on);
    button.setAttribute("aria-pressed", String(on));
  };
  audio.addEventListener("loadedmetadata", show);
  audio.addEventListener("play", () => {
    if (audio.paused) return;
    if (playing !== player) pause(); // started by a media key
    playing = player;
    mark(true);
    follow();
  });
  audio.addEventListener("pause", () => {
    if (!audio.paused) return; // and went on since
    mark(false);
    if (playing === player) playing = null;
  });
  audio.addEventListener("ended", () => { audio.currentTime = 0; show(); });
  audio.addEventListener("error", () => { clock.textContent = "file not found"; player.classList.add("broken"); });
  button.addEventListener("click", () => (audio.paused ? play(player) : pause()));
  wave.addEventListener("click", (event) => {
    if (!Number.isFinite(audio.duration)) return;
    audio.currentTime = (event.offsetX / wave.clientWidth) * audio.duration;
    play(player);
  });
  show();
}

function play(player) {
  if (playing !== player) pause();
  playing = player;
  const audio = player.querySelector("audio");
  audio.play().catch(() => { // a missing file is told by its error event
    if (playing === player && audio.paused) playing = null;
  });
}

document.querySelectorAll(".player:not(.missing)").forEach(setUp);

document.addEventListener("keydown", (event) => {
  const step = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] }[event.key];
  const here = document.activeElement.closest?.(".player");
  if (!step || !here || event.altKey || event.ctrlKey || event.metaKey) return;
  const grid = [...document.querySelectorAll(".players")].map((row) => [...row.querySelectorAll(".player")]);
  const row = grid.findIndex((players) => players.includes(here));
  const next = grid[row + step[0]]?.[grid[row].indexOf(here) + step[1]]?.querySelector(".play");
  if (!next) return;
  event.preventDefault();
  const goOn = playing !== null;
  next.focus();
  if (goOn) play(next.closest(".player"));
});

// The menu puts another trial beside the fixed columns.

const menu = document.getElementById("other");

function compare() {
  document.querySelectorAll(".sentence .slot").forEach((slot) => {
    if (playing && slot.contains(playing)) pause();
    const template = slot.parentElement.querySelector(`template[data-option="${CSS.escape(menu.value)}"]`);
    const empty = document.createElement("p");
    empty.className = "empty";
    empty.textContent = "no recording of this sentence";
    slot.replaceChildren(template ? template.content.cloneNode(true) : empty);
    slot.querySelectorAll(".player").forEach(setUp);
  });
}

if (menu) {
  menu.addEventListener("change", compare);
  compare();
}

// The table sorts by the column that is clicked; what has no value stays last.

const table = document.getElementById("table");
table.querySelectorAll("thead th").forEach((head, column) => {
  head.addEventListener("click", () => {
    const down = head.getAttribute("aria-sort") === "ascending";
    table.querySelectorAll("thead th").forEach((h) => h.setAttribute("aria-sort", "none"));
    head.setAttribute("aria-sort", down ? "descending" : "ascending");
    const body = table.tBodies[1];
    const keyed = [...body.rows].map((row) => [row.cells[column].dataset.value, row]);
    const numeric = keyed.every(([key]) => key === "" || Number.isFinite(Number(key)));
    keyed.sort(([a], [b]) => {
      if (a === "" || b === "") return (a === "") - (b === "");
      const order = numeric ? a - b : a.localeCompare(b);
      return down ? -order : order;
    });
    body.append(...keyed.map(([, row]) => row));
  });
});

// Charts: plotly draws them; the page's own colours are put in for their names.

const dark = matchMedia("(prefers-color-scheme: dark)");

function coloured(value) {
  if (typeof value === "string" && value.startsWith("--")) {
    return getComputedStyle(document.documentElement).getPropertyValue(value).trim();
  }
  if (Array.isArray(value)) return value.map(coloured);
  if (value && typeof value === "object") return Object.fromEntries(Object.entries(value).map(([k, v]) => [k, coloured(v)]));
  return value;
}

const figures = JSON.parse(document.getElementById("figures").textContent);

function draw() {
  for (const figure of figures) {
    const { data, layout } = coloured(figure);
    const style = getComputedStyle(document.body);
    Object.assign(layout, {
      paper_bgcolor: "transparent",
      plot_bgcolor: "transparent",
      font: { family: style.fontFamily, size: 12, color: style.color },
      hoverlabel: { bgcolor: coloured("--paper"), bordercolor: coloured("--line"), font: { color: style.color, size: 12 }, align: "left" },
    });
    Plotly.react(figure.id, data, layout, { displayModeBar: false, responsive: true });
  }
}

draw();
dark.addEventListener("change", draw);

document.querySelectorAll(".toggles button").forEach((button) => {
  button.addEventListener("click", () => {
    button.setAttribute("aria-pressed", String(button.getAttribute("aria-pressed") !== "true"));
    const figure = figures.find((f) => f.id === button.parentElement.dataset.chart);
    figure.linear ??= figure.layout;
    figure.layout = structuredClone(figure.linear);
    for (const pressed of button.parentElement.querySelectorAll('[aria-pressed="true"]')) toLog(figure.layout, pressed.dataset.axis);
    draw();
  });
});

// On a log axis plotly counts ranges, and places of annotations, in powers of ten.
function toLog(layout, axis) {
  layout[axis].type = "log";
  const range = layout[axis].range?.map(Math.log10);
  if (range?.every(Number.isFinite)) layout[axis].range = range;
  else delete layout[axis].range;
  if (axis === "xaxis") for (const note of layout.annotations ?? []) note.x = Math.log10(note.x);
}
