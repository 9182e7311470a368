// A page that is served asks for its next version, and takes over the sections that have changed.

if ("served" in document.documentElement.dataset) {
  const RUNNING_MS = 2000;
  const IDLE_MS = 10000;
  let etag = null;
  let latest = null; // the newest version, parsed
  const shown = new Map(); // by name, each section as it was sent
  const isOwn = (name) => name === "blind"; // a half-done vote stays

  const sectionsOf = (page) => new Map([...page.querySelectorAll("body > header, main > section")].map((s) => [s.id || "header", s]));
  const textOf = (page, id) => page.getElementById(id)?.textContent;
  const isPlaying = (section) => [...section.querySelectorAll("audio")].some((audio) => !audio.paused);
  const isChoosing = (section) => section.contains(document.activeElement) && document.activeElement.matches("select");

  async function load(cache) {
    const answer = await fetch(location.pathname, { cache });
    if (!answer.ok) throw new Error(answer.statusText);
    etag = answer.headers.get("ETag");
    return new DOMParser().parseFromString(await answer.text(), "text/html");
  }

  async function look() {
    try {
      const head = await fetch(location.pathname, { method: "HEAD", cache: "no-store" });
      if (head.ok && head.headers.get("ETag") !== etag) latest = await load("no-cache");
      tell("");
    } catch {
      tell("Not live any more: the program that serves this page has ended.");
    }
    if (latest) bringIn(latest);
  }

  async function lookOn() {
    if (!document.hidden) await look();
    setTimeout(lookOn, document.querySelector(".badge.running") ? RUNNING_MS : IDLE_MS);
  }

  function tell(text) {
    let place = document.getElementById("live");
    if (!place) {
      place = Object.assign(document.createElement("p"), { id: "live", role: "status" });
      document.body.append(place);
    }
    place.textContent = text;
    place.hidden = !text;
  }

  function bringIn(page) {
    const fresh = sectionsOf(page);
    const here = sectionsOf(document);
    let isNew = textOf(page, "figures") !== textOf(document, "figures");
    for (const [name, section] of here) {
      if (fresh.has(name) || isOwn(name)) continue;
      drop(section);
      shown.delete(name);
    }
    let before = null; // the section above
    for (const [name, section] of fresh) {
      const old = here.get(name);
      const isSame = shown.get(name)?.isEqualNode(section);
      const mustWait = old && (isOwn(name) || isPlaying(old) || isChoosing(old));
      if (isSame || mustWait) { before = old; continue; }
      const made = document.importNode(section, true);
      if (old) swap(old, made);
      else if (before?.matches("main > section")) before.after(made);
      else document.querySelector("main").prepend(made);
      shown.set(name, section);
      before = made;
      isNew = true;
    }
    for (const id of ["figures", "contest"]) takeOver(page, id);
    document.title = page.title;
    if (!isNew) return;
    figures = JSON.parse(textOf(document, "figures"));
    applyToggles();
    draw();
    document.dispatchEvent(new Event("refreshed"));
  }

  function takeOver(page, id) {
    const [fresh, old] = [page.getElementById(id), document.getElementById(id)];
    if (fresh && old) old.textContent = fresh.textContent;
    else if (fresh) document.body.append(document.importNode(fresh, true));
  }

  function drop(section) {
    section.querySelectorAll(".js-plotly-plot").forEach((chart) => Plotly.purge(chart));
    section.remove();
  }

  // What the reader did to a section is done to the new one, too.
  function swap(old, made) {
    const state = remember(old);
    old.querySelectorAll(".js-plotly-plot").forEach((chart) => Plotly.purge(chart));
    old.replaceWith(made);
    setUpPlayers(made);
    setUpSorting(made);
    restore(made, state);
  }

  const nameOf = (element) => element.id || element.getAttribute("aria-label") || element.textContent.trim();

  function remember(section) {
    const focused = section.contains(document.activeElement) ? document.activeElement : null;
    const sorted = section.querySelector('th[aria-sort="ascending"], th[aria-sort="descending"]');
    return {
      menu: section.querySelector("#other")?.value,
      times: [...section.querySelectorAll("audio")].filter((a) => a.currentTime).map((a) => [a.getAttribute("src"), a.currentTime]),
      open: [...section.querySelectorAll("details[open] summary")].map((s) => s.textContent),
      pressed: [...section.querySelectorAll('.toggles [aria-pressed="true"]')].map((b) => b.textContent),
      sorted: sorted && [sorted.textContent, sorted.getAttribute("aria-sort")],
      focus: focused && [focused.tagName, nameOf(focused)],
      left: [...section.querySelectorAll(".scroll, .slot")].map((s) => s.scrollLeft),
    };
  }

  function restore(section, state) {
    const menu = section.querySelector("#other");
    if (menu) {
      if ([...menu.options].some((option) => option.value === state.menu)) menu.value = state.menu;
      setUpMenu();
    }
    for (const [src, time] of state.times) {
      const audio = [...section.querySelectorAll("audio")].find((a) => a.getAttribute("src") === src);
      audio?.addEventListener("loadedmetadata", () => { audio.currentTime = time; }, { once: true });
      audio?.load();
    }
    for (const summary of section.querySelectorAll("details summary")) summary.parentElement.open = state.open.includes(summary.textContent);
    for (const button of section.querySelectorAll(".toggles button")) button.setAttribute("aria-pressed", String(state.pressed.includes(button.textContent)));
    const head = state.sorted && [...section.querySelectorAll("th[aria-sort]")].find((th) => th.textContent === state.sorted[0]);
    for (let clicks = 0; head && clicks < 2 && head.getAttribute("aria-sort") !== state.sorted[1]; clicks++) head.click();
    const same = state.focus && [...section.querySelectorAll(state.focus[0])].find((e) => nameOf(e) === state.focus[1]);
    same?.focus({ preventScroll: true });
    section.querySelectorAll(".scroll, .slot").forEach((s, i) => { s.scrollLeft = state.left[i] ?? 0; });
  }

  document.addEventListener("voted", look);
  load("force-cache").then((page) => { // this page as it was sent
    for (const [name, section] of sectionsOf(page)) shown.set(name, section);
    lookOn();
  }).catch(lookOn);
}
