// The menu puts another trial beside the fixed columns.

const menu = document.getElementById("other");

function compare() {
  document.querySelectorAll(".sentence .slot").forEach((slot) => {
    if (playing && slot.contains(playing)) pause();
    const template = slot.parentElement.querySelector(`template[data-option="${CSS.escape(menu.value)}"]`);
    const empty = document.createElement("p");
    empty.className = "empty";
    empty.textContent = "no sample of this prompt";
    slot.replaceChildren(template ? template.content.cloneNode(true) : empty);
    slot.querySelectorAll(".player").forEach(setUp);
  });
}

if (menu) {
  menu.addEventListener("change", compare);
  compare();
}

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
