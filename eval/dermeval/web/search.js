// The search form: a photo by choice, drop or paste, its crop, and the results without leaving the page.
"use strict";

const find = (id) => document.getElementById(id);
const form = find("search"), photo = find("photo"), results = find("results");
const sides = ["left", "top", "right", "bottom"];
const LARGE_PIXELS = 4e6, SENT_SHORT_SIDE = 1024;
let file = null;

function say(error, status) {
  find("message").textContent = error;
  find("message").hidden = !error;
  find("status").textContent = status;
}

function take(chosen) {
  if (!chosen || !(chosen.type.startsWith("image/") || /\.(hei[cf]|avif|tiff?)$/i.test(chosen.name))) {
    say("This is no image file: choose a photo.", "");
    return;
  }
  file = chosen;
  say("", "");
  URL.revokeObjectURL(find("shown").src);
  find("shown").src = URL.createObjectURL(file);
  find("cropping").hidden = false;
  setBox([0, 0, 100, 100]);
}

function showNoPicture() {
  find("cropping").hidden = true;
  say("", "This browser cannot show the photo. The search compares the whole photo.");
}

function getBox() {
  return sides.map((side) => Number(find(side).value));
}

function setBox([left, top, right, bottom]) {
  // A box has at least 5 percent of each side.
  left = Math.min(left, 95); top = Math.min(top, 95);
  right = Math.max(right, left + 5); bottom = Math.max(bottom, top + 5);
  [left, top, right, bottom].forEach((value, i) => { find(sides[i]).value = value; });
  const box = find("box");
  box.hidden = left === 0 && top === 0 && right === 100 && bottom === 100;
  Object.assign(box.style, {left: left + "%", top: top + "%", width: right - left + "%", height: bottom - top + "%"});
}

function crop() {
  const box = getBox();
  return box.join() === "0,0,100,100" ? "" : box.map((value) => value / 100).join();
}

// A large photo is cropped and shrunk here, so that less is sent and decoded. The hash of its file is sent too, by which
// the server recognises an image of its collection. A file that the browser cannot decode is sent unchanged.
async function toSend() {
  const whole = {body: file, headers: {"X-Fragment": "1"}, part: crop()};
  try {
    const picture = await createImageBitmap(file);
    if (picture.width * picture.height < LARGE_PIXELS) { return whole; }
    const [left, top, right, bottom] = getBox().map((value) => value / 100);
    const width = (right - left) * picture.width, height = (bottom - top) * picture.height;
    const scale = Math.min(1, SENT_SHORT_SIDE / Math.min(width, height));
    const canvas = new OffscreenCanvas(Math.round(width * scale), Math.round(height * scale));
    const context = canvas.getContext("2d");
    context.fillStyle = "#fff";
    context.fillRect(0, 0, canvas.width, canvas.height);
    context.imageSmoothingQuality = "high";
    context.drawImage(picture, left * picture.width, top * picture.height, width, height, 0, 0, canvas.width, canvas.height);
    const digest = new Uint8Array(await crypto.subtle.digest("SHA-256", await file.arrayBuffer()));
    const hash = [...digest].map((byte) => byte.toString(16).padStart(2, "0")).join("");
    const body = await canvas.convertToBlob({type: "image/jpeg", quality: 0.95});
    return {body, headers: {"X-Fragment": "1", "X-File-SHA256": hash}, part: ""};
  } catch {
    return whole;
  }
}

async function search(event) {
  if (!file) {
    if (form.elements.image_id) { return; } // the browser sends the form
    event.preventDefault();
    say("Choose a photo first, or an image of the collection below.", "");
    return;
  }
  event.preventDefault();
  const asked = new URLSearchParams([...new FormData(form)].filter(([name, value]) => value && name !== "image_id"));
  say("", "Searching …");
  results.setAttribute("aria-busy", "true");
  try {
    const {body, headers, part} = await toSend();
    if (part) { asked.set("crop", part); }
    const answer = await fetch("/similar?" + asked, {method: "POST", body, headers});
    if (!answer.ok) {
      const told = await answer.json().catch(() => ({}));
      say(typeof told.detail === "string" ? told.detail : "The search failed (" + answer.status + ").", "");
      if (find("found")) { results.replaceChildren(); } // these are the hits of an earlier search
      return;
    }
    results.innerHTML = await answer.text(); // made and escaped by the server's own template
    say("", "");
    find("found").focus({preventScroll: true});
    results.scrollIntoView();
  } catch {
    say("The server does not answer.", "");
  } finally {
    results.removeAttribute("aria-busy");
  }
}

function drawBox(down) {
  const preview = find("preview"), frame = preview.getBoundingClientRect();
  const share = (event) => [
    Math.round(100 * Math.min(1, Math.max(0, (event.clientX - frame.left) / frame.width))),
    Math.round(100 * Math.min(1, Math.max(0, (event.clientY - frame.top) / frame.height))),
  ];
  const [x, y] = share(down);
  const move = (event) => {
    const [toX, toY] = share(event);
    setBox([Math.min(x, toX), Math.min(y, toY), Math.max(x, toX), Math.max(y, toY)]);
  };
  const stop = () => { preview.removeEventListener("pointermove", move); };
  down.preventDefault();
  preview.setPointerCapture(down.pointerId);
  preview.addEventListener("pointermove", move);
  preview.addEventListener("pointerup", stop, {once: true});
  preview.addEventListener("pointercancel", stop, {once: true});
}

// Fields that were left empty stay out of the address.
form.addEventListener("formdata", (event) => {
  for (const [name, value] of [...event.formData]) { if (!value) { event.formData.delete(name); } }
});
form.addEventListener("submit", search);
if (photo) {
  const drop = find("drop");
  photo.addEventListener("change", () => take(photo.files[0]));
  for (const name of ["dragover", "dragleave", "drop"]) {
    document.addEventListener(name, (event) => {
      event.preventDefault();
      drop.classList.toggle("over", name === "dragover");
      if (name === "drop") { take(event.dataTransfer.files[0]); }
    });
  }
  document.addEventListener("paste", (event) => {
    if (event.clipboardData.files.length) { take(event.clipboardData.files[0]); }
  });
  for (const side of sides) { find(side).addEventListener("input", () => setBox(getBox())); }
  find("whole").addEventListener("click", () => setBox([0, 0, 100, 100]));
  find("preview").addEventListener("pointerdown", drawBox);
  find("shown").addEventListener("error", showNoPicture);
}
