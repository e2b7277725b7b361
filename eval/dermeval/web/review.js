"use strict";
const find = (id) => document.getElementById(id);
const keys = {a: "accept", r: "reject", u: "unsure"};
let shown = null, busy = false, blinking = null;

function say(problem) {
  find("problem").textContent = problem;
  find("problem").hidden = !problem;
}

function setOverlay(percent) { find("laid").style.opacity = percent / 100; }

function blink() {
  const button = document.querySelector("[data-key=b]");
  if (blinking) {
    clearInterval(blinking);
    blinking = null;
    setOverlay(find("overlay").value);
  } else {
    let on = false;
    blinking = setInterval(() => { on = !on; setOverlay(on ? 100 : 0); }, 500);
  }
  button.setAttribute("aria-pressed", String(Boolean(blinking)));
}

/* An id breaks after / _ . - and not within a number. */
function breakable(name) {
  return name.split(/(?<=[/_.-])/).flatMap((part) => [document.createTextNode(part), document.createElement("wbr")]);
}

function caption(id, side) {
  const lines = [breakable(side.image), ["record ", ...breakable(side.group)], [side.split + " · " + side.labels]];
  find(id).replaceChildren(...lines.flatMap((line) => [...line, document.createElement("br")]));
}

function showParts(state) {
  find("parts").hidden = state.parts.length < 2;
  find("parts").replaceChildren(...state.parts.map((title, number) => {
    const button = document.createElement("button");
    button.textContent = title;
    button.setAttribute("aria-pressed", String(number === state.part));
    button.addEventListener("click", () => ask("/api/pair?part=" + number));
    return button;
  }));
}

function show(state) {
  shown = state;
  showParts(state);
  const decided = state.ranked - state.waiting, counts = state.counts;
  find("progress").max = Math.max(1, state.ranked);
  find("progress").value = decided;
  find("counts").textContent = counts.accept + " accepted, " + counts.reject + " rejected, " + counts.unsure
    + " unsure, " + state.waiting + " left";
  find("enough").hidden = !state.enough;
  find("rest").textContent = state.parts[state.part];
  find("pair").hidden = state.pair === null;
  find("done").hidden = state.pair !== null;
  if (state.pair === null) { find("heading").textContent = "Done"; return; }
  const single = state.sides.length === 1;
  for (const part of document.querySelectorAll(".two")) { part.hidden = single; }
  document.querySelector(".stage").classList.toggle("single", single);
  find("heading").textContent = (single ? "Image " : "Pair ") + state.rank + " of " + state.ranked
    + (single ? "" : " (" + state.ranked_confirmed + " confirmed)")
    + (state.confirmed ? "" : ", below the threshold") + (state.decision ? " (decided: " + state.decision + ")" : "");
  const address = (part) => "/picture?part=" + state.part + "&pair=" + state.pair + "&which=" + part;
  find("first").src = address("first");
  if (!single) {
    find("under").src = address("first");
    find("second").src = address("second");
    find("laid").src = address("laid");
  }
  state.sides.forEach((side, number) => caption("side" + number, side));
  find("kind").textContent = state.kind;
  find("facts").replaceChildren(...state.facts.map((fact) => {
    const item = document.createElement("li");
    item.textContent = fact;
    return item;
  }));
}

async function ask(address, body) {
  if (busy) { return; }
  busy = true;
  try {
    const given = body === undefined ? {} : {method: "POST", body: JSON.stringify(body), headers: {"Content-Type": "application/json"}};
    const answer = await fetch(address, given);
    const told = await answer.json();
    if (!answer.ok) { throw new Error(typeof told.detail === "string" ? told.detail : "The server answered " + answer.status + "."); }
    say("");
    show(told);
  } catch (error) {
    say(error instanceof TypeError ? "The server does not answer. All earlier decisions are saved." : error.message);
  } finally {
    busy = false;
  }
}

function press(key) {
  if (key.length === 1 && key !== " " && !"aruzb".includes(key)) { say("There is no key " + key + ": a accept, r reject, u unsure, z undo, b blink."); }
  if (key === "b") { blink(); }
  if (key === "z" && shown) { ask("/api/undo", {part: shown.part}); }
  if (key in keys && shown && shown.pair !== null) { ask("/api/decide", {part: shown.part, pair: shown.pair, decision: keys[key]}); }
}

document.addEventListener("keydown", (event) => {
  if (!event.ctrlKey && !event.metaKey && !event.altKey && !event.repeat) { press(event.key.toLowerCase()); }
});
for (const button of document.querySelectorAll("[data-key]")) {
  button.addEventListener("click", () => press(button.dataset.key));
}
find("overlay").addEventListener("input", (event) => { setOverlay(event.target.value); });
setOverlay(50);
ask("/api/pair?part=" + (Number(location.hash.slice(1)) || 0));
