"use strict";

// Players: one plays at a time; arrows walk the grid of prompts (rows) and models (columns).

let playing = null; // set with the call, not by the audio's events: those come late

function pause() {
  playing?.querySelector("audio").pause();
  playing = null;
}

function setUp(player) {
  const [audio, button, wave, clock] = ["audio", ".play", ".wave", ".clock"].map((s) => player.querySelector(s));
  if (!audio) return; // its answer is text
  const played = wave.querySelector(".played");
  const length = clock.textContent;
  const captions = player.querySelector(".captions");
  const words = [...player.querySelectorAll(".captions span")];
  let now = null; // the word that is said
  audio.controls = false;
  audio.volume = Number(audio.dataset.volume ?? 1); // where its file is not in the page, see listen.py
  for (const part of [button, wave]) part.removeAttribute("hidden");
  const show = () => {
    const total = Number.isFinite(audio.duration) ? audio.duration : 0;
    const share = total ? audio.currentTime / total : 0;
    played.style.clipPath = `inset(0 ${100 - 100 * share}% 0 0)`;
    clock.textContent = audio.currentTime ? audio.currentTime.toFixed(1) + " s" : length;
    const word = audio.currentTime ? words.findLast((word) => Number(word.dataset.at) <= audio.currentTime) : null;
    if (word === now) return;
    now?.classList.remove("now");
    word?.classList.add("now");
    if (word) captions.scrollTop = word.offsetTop - captions.clientHeight / 2;
    now = word;
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
    if (!audio.paused) return; // and has started again since
    mark(false);
    if (playing === player) playing = null;
  });
  audio.addEventListener("emptied", () => { mark(false); show(); }); // another recording: no pause event comes
  audio.addEventListener("ended", () => { audio.currentTime = 0; show(); });
  audio.addEventListener("error", () => { clock.textContent = "file not found"; player.classList.add("broken"); });
  button.addEventListener("click", () => (audio.paused ? play(player) : pause()));
  wave.addEventListener("click", (event) => {
    if (!Number.isFinite(audio.duration)) return;
    audio.currentTime = (event.offsetX / wave.clientWidth) * audio.duration;
    play(player);
  });
  captions?.addEventListener("click", (event) => {
    const word = event.target.closest("span");
    if (!word) return;
    audio.currentTime = Number(word.dataset.at);
    play(player);
  });
  show();
}

function play(player) {
  if (playing !== player) pause();
  playing = player;
  const audio = player.querySelector("audio");
  audio.play().catch(() => { // a missing file is reported by its error event
    if (playing === player && audio.paused) playing = null;
  });
}

function setUpPlayers(root) {
  root.querySelectorAll(".player:not(.missing)").forEach(setUp);
}

setUpPlayers(document);

document.addEventListener("keydown", (event) => {
  const step = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] }[event.key];
  const here = document.activeElement.closest?.(".player");
  if (!step || !here || event.altKey || event.ctrlKey || event.metaKey) return;
  const grid = [...document.querySelectorAll(".players")].map((row) => [...row.querySelectorAll(".player")]);
  const row = grid.findIndex((players) => players.includes(here));
  if (row < 0) return; // not of the grid
  const next = grid[row + step[0]]?.[grid[row].indexOf(here) + step[1]]?.querySelector(".play");
  if (!next) return;
  event.preventDefault();
  const wasPlaying = playing !== null;
  next.focus();
  if (wasPlaying) play(next.closest(".player"));
});
