// Blind comparison: two recordings of one prompt under hidden names, and a vote between them.

{
  const room = document.getElementById("blind");
  const read = () => JSON.parse(document.getElementById("contest")?.textContent ?? "null");
  let contest = read();
  let pair = null; // {prompt, left, right, heard}
  const skipped = new Set();
  const sent = new Set();
  const shelf = contest && `csm-ft votes of ${contest.study} ${contest.created}`;
  const kept = { voter: hex(4), votes: [], isOpen: false, pair: null, reveals: false };
  let isKept = true; // whether the browser keeps what is stored

  function hex(bytes) {
    return [...crypto.getRandomValues(new Uint8Array(bytes))].map((b) => b.toString(16).padStart(2, "0")).join("");
  }

  function keep() {
    try {
      const known = new Set(kept.votes.map((v) => v.id));
      const others = JSON.parse(localStorage.getItem(shelf) ?? "{}").votes ?? []; // of another tab
      kept.votes.push(...others.filter((v) => !known.has(v.id)));
      localStorage.setItem(shelf, JSON.stringify({ ...kept, pair }));
    } catch {
      isKept = false;
    }
  }

  function recall() {
    try {
      Object.assign(kept, JSON.parse(localStorage.getItem(shelf) ?? "{}"));
    } catch {
      isKept = false;
    }
  }

  const at = (name) => room.querySelector(`[data-blind="${name}"]`);
  const sides = { left: () => at("left"), right: () => at("right") };
  const nameOf = (key) => contest.contenders.find((c) => String(c.key) === key).name;
  const keyOf = (text) => contest.contenders.find((c) => String(c.key) === text).key; // trials are numbers there

  // Votes of this page's file, and those of this browser that are not in it.
  function allVotes() {
    const known = new Set(contest.votes.map(([id]) => id));
    const own = kept.votes.filter((v) => !known.has(v.id)).map((v) => [v.id, v.prompt, String(v.left), String(v.right)]);
    return [...contest.votes, ...own];
  }

  const unsaved = () => {
    const known = new Set(contest.votes.map(([id]) => id));
    return kept.votes.filter((v) => !known.has(v.id) && !sent.has(v.id));
  };

  function countVotes() {
    const counts = {};
    const add = (key) => { counts[key] = (counts[key] ?? 0) + 1; };
    for (const [, prompt, left, right] of allVotes()) {
      const two = [left, right].sort().join(" ");
      for (const key of [left, right, two, `${two} ${prompt}`]) add(key);
    }
    return (key) => counts[key] ?? 0;
  }

  function allPairs() {
    return contest.prompts.flatMap((prompt) =>
      prompt.takes.flatMap((one, i) => prompt.takes.slice(i + 1).map((other) => ({ prompt: prompt.id, two: [one, other] }))));
  }

  // The pair with the fewest votes, of those with the closest places, on the prompt it was heard least on.
  function choosePair() {
    const votes = countVotes();
    const places = Object.fromEntries(contest.contenders.map((c) => [String(c.key), c.place]));
    const widest = Math.max(1, contest.contenders.length - 1);
    const cost = ({ prompt, two }) => {
      const name = [...two].sort().join(" ");
      const gap = Math.abs(places[two[0]] - places[two[1]]) / widest;
      const again = skipped.has(`${name} ${prompt}`) ? 100 : 0;
      return 2 * votes(name) + votes(`${name} ${prompt}`) + (votes(two[0]) + votes(two[1])) / 2 + 1.5 * gap + again + Math.random() / 2;
    };
    const pairs = allPairs();
    if (!pairs.length) return null;
    const { prompt, two } = pairs.map((p) => [cost(p), p]).reduce((a, b) => (b[0] < a[0] ? b : a))[1];
    if (crypto.getRandomValues(new Uint8Array(1))[0] % 2) two.reverse();
    return { prompt, left: two[0], right: two[1], heard: [] };
  }

  // Sounds stand in the page once, with the players of the room; menus keep theirs in templates.
  function findAudio(prompt, key) {
    const name = `audio[data-take="${CSS.escape(`${prompt}/${key}`)}"]`;
    for (const root of [document, ...[...document.querySelectorAll("template")].map((t) => t.content)]) {
      const found = root.querySelector(name);
      if (found) return found;
    }
    return null;
  }

  const isStill = (p) => {
    const takes = contest.prompts.find((one) => one.id === p?.prompt)?.takes ?? [];
    return takes.includes(p?.left) && takes.includes(p?.right);
  };

  function show() {
    if (!isStill(pair)) pair = choosePair();
    at("text").textContent = contest.prompts.find((p) => p.id === pair.prompt).text || "(a prompt without text)";
    for (const [side, player] of Object.entries(sides)) {
      const source = findAudio(pair.prompt, pair[side]);
      const audio = player().querySelector("audio");
      if (playing === player()) pause();
      audio.src = source.getAttribute("src");
      audio.volume = Number(source.dataset.volume ?? 1);
      player().classList.remove("broken");
    }
    tell();
    keep();
  }

  function tell() {
    const isReady = pair.heard.length === 2;
    for (const button of room.querySelectorAll("[data-vote]")) button.disabled = !isReady;
    for (const [side, player] of Object.entries(sides)) player().classList.toggle("heard", pair.heard.includes(side));
    const votes = countVotes();
    const names = new Set(allPairs().map(({ two }) => [...two].sort().join(" ")));
    const done = [...names].filter(votes).length;
    const waiting = unsaved().length;
    at("count").textContent = `${kept.votes.length} of your votes · ${done} of ${names.size} pairs compared`;
    at("bar").value = done / names.size;
    at("hint").textContent = isReady ? "Which one is better?" : "Listen to both, then vote.";
    at("save").hidden = !kept.votes.length || (contest.isServed && !waiting);
    at("merge").hidden = contest.isServed || !waiting;
    at("saved").textContent = !kept.votes.length ? "" : !waiting ? "All saved in votes.json." : contest.isServed
      ? `${waiting} not in votes.json yet.`
      : `${waiting} ${isKept ? "kept in this browser" : "kept only until this page is closed"}, not in votes.json yet.`;
  }

  const ballot = (votes) => ({ version: 1, study: contest.study, created: contest.created, votes });

  async function send() {
    const votes = unsaved();
    if (!contest.isServed || !votes.length) return;
    try {
      const answer = await fetch("votes", { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(ballot(votes)) });
      if (!answer.ok) throw new Error(await answer.text());
      for (const vote of votes) sent.add(vote.id);
      tell();
      document.dispatchEvent(new Event("voted"));
    } catch (error) {
      tell();
      at("saved").textContent += ` ${error instanceof TypeError ? "The program that serves this page has ended; start it again." : error.message}`;
    }
  }

  function next(word) {
    pause();
    at("last").textContent = word;
    pair = null;
    show();
  }

  function castVote(choice) {
    if (pair.heard.length < 2) return;
    const { prompt, left, right } = pair;
    kept.votes.push({ id: hex(16), time: new Date().toISOString(), voter: kept.voter, prompt, left: keyOf(left), right: keyOf(right), choice });
    skipped.clear();
    const won = { left: "A", right: "B", tie: "a tie" }[choice];
    next(kept.reveals ? `You chose ${won}: A was ${nameOf(left)}, B was ${nameOf(right)}.` : `You chose ${won}.`);
    send();
  }

  function skip() {
    skipped.add(`${[pair.left, pair.right].sort().join(" ")} ${pair.prompt}`);
    next("Skipped.");
  }

  function download() {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([JSON.stringify(ballot(kept.votes), null, 1)], { type: "application/json" }));
    link.download = "votes.json";
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 1000);
  }

  function open(isOpen) {
    kept.isOpen = isOpen;
    room.hidden = !isOpen;
    document.getElementById("blind-open")?.setAttribute("aria-expanded", String(isOpen));
    if (isOpen) show();
    else { pause(); keep(); }
  }

  const start = (side) => {
    const player = sides[side]();
    if (playing === player) return pause();
    player.querySelector("audio").currentTime = 0;
    play(player);
  };

  const keys = { 1: () => start("left"), 2: () => start("right"), ArrowLeft: () => start("left"), ArrowRight: () => start("right"),
    a: () => castVote("left"), b: () => castVote("right"), t: () => castVote("tie"), s: skip };

  document.addEventListener("keydown", (event) => {
    const action = keys[event.key.length === 1 ? event.key.toLowerCase() : event.key];
    if (!action || room.hidden || event.repeat || event.altKey || event.ctrlKey || event.metaKey) return;
    if (event.target.closest?.("input:not([type=checkbox]), select, textarea, .players, .toggles, table")) return;
    event.preventDefault();
    action();
  });

  if (contest && room) {
    recall();
    pair = kept.pair;
    for (const [side, player] of Object.entries(sides)) {
      player().querySelector("audio").addEventListener("play", () => {
        if (!pair.heard.includes(side)) pair.heard.push(side);
        tell();
        keep();
      });
    }
    for (const button of room.querySelectorAll("[data-vote]")) button.addEventListener("click", () => castVote(button.dataset.vote));
    at("skip").addEventListener("click", skip);
    at("save").addEventListener("click", download);
    at("reveal").checked = kept.reveals;
    at("reveal").addEventListener("change", () => { kept.reveals = at("reveal").checked; keep(); });
    at("close").addEventListener("click", () => open(false));
    document.addEventListener("click", (event) => { if (event.target.closest("#blind-open")) open(room.hidden); });
    document.addEventListener("refreshed", () => { // a new version of the page: its votes and recordings count from now on
      contest = read();
      if (!room.hidden) isStill(pair) ? tell() : show();
      send();
    });
    if (kept.isOpen) open(true);
    send();
  }
}
