// All of the page but the countdown and the race works without this file.
"use strict";

const news = document.getElementById("news");

/** Have a screen reader announce a text. */
const say = (text) => { news.textContent = text; };

// -- The remaining life counts down. ------------------------------------------------

/** Say of nobody any more that he is logged in. */
const nobody = () => { document.querySelector(".who").textContent = ""; };

const left = document.getElementById("left");
const life = document.getElementById("life");
let timer;

const countDown = (total) => {
  let said = "";
  const end = performance.now() + 1000 * total;
  const show = () => {
    const seconds = Math.max(0, Math.round((end - performance.now()) / 1000));
    const rest = String(seconds % 60).padStart(2, "0");
    left.textContent = seconds ? `${Math.floor(seconds / 60)}:${rest}` : "Over";
    left.classList.toggle("ending", seconds <= 10);
    life.value = seconds;
    // Not every second is announced: nobody wants to hear that.
    const text = seconds === 0 ? "The session is over. Reload the page for a new one."
      : seconds <= 10 ? "The session ends in a few seconds." : "";
    if (text && text !== said) say(said = text);
    if (seconds === 0) {
      left.nextElementSibling.textContent = "reload the page for a new session";
      nobody();
      clearInterval(timer);
    }
  };
  clearInterval(timer);
  timer = setInterval(show, 500);
  show();
};

let ended = false; // another session that the browser has since is not that of this page
document.addEventListener("session-ended", () => { // see endings.js
  ended = true;
  nobody();
  if (left) countDown(0);
});

if (left) {
  countDown(Number(left.dataset.seconds));
  // Another tab may have been visited meanwhile. To ask is no visit: it keeps nobody alive.
  document.addEventListener("visibilitychange", async () => {
    if (document.hidden || ended) return;
    const answer = await fetch("/session-time-left");
    const seconds = answer.ok ? (await answer.json()).seconds ?? 0 : null;
    if (seconds !== null && !ended) countDown(seconds);
  });
}

// -- Messages are announced, and can be closed. ---------------------------------------

const notes = [...document.querySelectorAll(".note")];
for (const note of notes) {
  const text = note.textContent;
  const close = document.createElement("button");
  close.type = "button";
  close.className = "close";
  close.setAttribute("aria-label", `Close the message: ${text}`);
  close.textContent = "×";
  close.addEventListener("click", () => {
    const next = note.nextElementSibling ?? note.previousElementSibling;
    note.remove();
    // Or else the focus would go back to the start of the page.
    (next?.querySelector(".close") ?? document.getElementById("content")).focus({ preventScroll: true });
  });
  note.append(close);
  // What is in a live region from the start is not announced.
  setTimeout(() => say([news.textContent, text].join(" ").trim()), 300);
}

// -- Twenty requests at once. -----------------------------------------------------------

const section = document.getElementById("race");
const button = document.getElementById("start-race");
if (button) {
  const total = Number(section.dataset.requests);
  const result = document.getElementById("race-result");

  const ask = async (path, method) => {
    const headers = { "X-CSRF-Token": section.dataset.csrf };
    const response = await fetch(path, { method, headers });
    if (!response.ok) throw new Error(`status ${response.status}`);
    return response.json();
  };

  /** Clear a lane, and have it show a score. */
  const show = (lane, score) => {
    for (const cell of lane.querySelectorAll("li")) cell.className = "";
    lane.querySelector("output").textContent = score;
  };

  const race = async (engine) => {
    const lane = document.getElementById(`lane-${engine}`);
    const cells = [...lane.querySelectorAll("li")];
    show(lane, "…");
    await ask(`/race/${engine}`, "POST");
    await Promise.all(cells.map(async (cell, number) => {
      await ask(`/race/${engine}/${number}`, "POST");
      cell.className = "done";
    }));
    const { kept, keys } = await ask(`/race/${engine}`, "GET");
    cells.forEach((cell, number) => { cell.className = kept.includes(number) ? "kept" : "lost"; });
    lane.querySelector("output").textContent = kept.length;
    if (engine === "ours") document.getElementById("keys").textContent = keys;
    return kept.length;
  };

  button.hidden = false;
  button.addEventListener("click", async () => {
    // Not "disabled": that would take the focus away.
    if (button.getAttribute("aria-disabled")) return;
    button.setAttribute("aria-disabled", "true");
    result.textContent = "";
    try {
      const ours = await race("ours");
      let text = `This engine kept ${ours} of ${total}.`;
      if (document.getElementById("lane-predecessor")) {
        const theirs = await race("predecessor");
        text += ` pyramid_session_redis kept ${theirs}, and lost ${total - theirs}.`;
      }
      result.textContent = text;
      countDown(life.max); // each of these requests was a visit
      const log = await fetch("/log");
      if (log.ok) document.getElementById("log").innerHTML = await log.text();
    } catch (error) {
      for (const lane of section.querySelectorAll(".lane")) show(lane, "–");
      result.textContent = "The session has ended meanwhile. Reload the page and try again.";
    }
    button.removeAttribute("aria-disabled");
  });
}
