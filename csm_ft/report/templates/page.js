// The menu puts another trial beside the fixed columns.

const ALL = "all"; // every trial in a column of its own

function compare() {
  const wanted = document.getElementById("other").value;
  document.querySelectorAll(".sentence .slot").forEach((slot) => {
    if (playing && slot.contains(playing)) pause();
    const templates = [...slot.parentElement.querySelectorAll("template[data-option]")];
    const chosen = templates.filter(({ dataset }) => (wanted === ALL ? "trial" in dataset : dataset.option === wanted));
    const empty = document.createElement("p");
    empty.className = "empty";
    empty.textContent = "no sample of this prompt";
    slot.classList.toggle("all", wanted === ALL);
    slot.replaceChildren(...(chosen.length ? chosen.map((t) => t.content.cloneNode(true)) : [empty]));
    slot.querySelectorAll(".player").forEach(setUp);
  });
}

function setUpMenu() {
  const menu = document.getElementById("other");
  if (!menu) return;
  menu.addEventListener("change", compare);
  compare();
}

setUpMenu();

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

let figures = JSON.parse(document.getElementById("figures").textContent);

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

document.addEventListener("click", ({ target }) => {
  if (!target.matches(".toggles button")) return;
  target.setAttribute("aria-pressed", String(target.getAttribute("aria-pressed") !== "true"));
  applyToggles();
  draw();
});

function applyToggles() {
  for (const toggles of document.querySelectorAll(".toggles")) {
    const figure = figures.find((f) => f.id === toggles.dataset.chart);
    if (!figure) continue;
    figure.linear ??= figure.layout;
    figure.layout = structuredClone(figure.linear);
    for (const pressed of toggles.querySelectorAll('[aria-pressed="true"]')) toLog(figure.layout, pressed.dataset.axis);
  }
}

// On a log axis plotly counts ranges, and places of annotations, in powers of ten.
function toLog(layout, axis) {
  layout[axis].type = "log";
  const range = layout[axis].range?.map(Math.log10);
  if (range?.every(Number.isFinite)) layout[axis].range = range;
  else delete layout[axis].range;
  if (axis === "xaxis") for (const note of layout.annotations ?? []) note.x = Math.log10(note.x);
}
