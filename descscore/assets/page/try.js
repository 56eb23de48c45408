// What only the page to try texts does: pictures from files, drop, paste and camera, and the result beside the form.

const MAX_PICTURES = 12;
const MOST_NAMED = 3; // refused files
const SHOW_COUNT = 0.5; // of the limit, from which on the length of a text is shown

const pictures = []; // { number, file, name, address, texts }, in the order in which they came
let taken = 0; // pictures so far
let chosen = null; // the picture of these that is scored
const TEXTS = ["description", "caption", "context", "drafts"];
let example = {}; // the texts of the example that was filled in last
let asked = ""; // what was sent last, as one text
let scored = ""; // what the result belongs to

const part = (selector) => page.querySelector(selector);
const form = () => part("form");
const megabytes = () => Number(part("#image").dataset.megabytes);

function entered() {
  return JSON.stringify([collect(form()), chosen?.number ?? ""]);
}

// The result stays while somebody writes on. It then says that it belongs to what was there before.
function markOld(working = false) {
  const result = part(".ds-result");
  if (!result || result.hidden) return;
  const old = working || entered() !== scored;
  const note = part(".ds-old-note");
  result.classList.toggle("ds-old", old);
  note.hidden = !old;
  if (old) note.textContent = working ? "Scoring. This is the earlier result." : "This result is old: it belongs to the picture and the texts before your change. Press Score for a new one.";
}

function showPreview(address, text) {
  const place = part(".ds-preview");
  if (!place) return;
  place.hidden = !address;
  const shown = place.querySelector("img");
  shown.alt = text;
  shown.onerror = () => { place.hidden = true; };
  address ? (shown.src = address) : shown.removeAttribute("src");
}

function showThumbs() {
  const list = part(".ds-thumbs");
  list.hidden = !pictures.length;
  list.replaceChildren(...pictures.map((picture) => {
    const entry = document.createElement("li");
    const button = document.createElement("button");
    const shown = document.createElement("img");
    const name = document.createElement("span");
    const gone = document.createElement("button");
    button.type = gone.type = "button";
    button.className = "ds-second ds-thumb";
    gone.className = "ds-second";
    gone.textContent = "Remove";
    gone.setAttribute("aria-label", `Remove ${picture.name}`);
    gone.addEventListener("click", () => remove(picture));
    button.setAttribute("aria-pressed", String(picture === chosen));
    button.addEventListener("click", () => { choose(picture); part('.ds-thumbs [aria-pressed="true"]').focus(); announce("Image chosen."); });
    shown.alt = "";
    shown.onerror = () => shown.remove();
    shown.src = picture.address;
    name.textContent = picture.name;
    button.append(shown, name);
    entry.append(button, gone);
    return entry;
  }));
}

// The example's texts describe the example, so they go when another picture comes. What was written stays.
function dropExample() {
  for (const [name, value] of Object.entries(example)) {
    const control = form().elements[name];
    if (control && control.value === value) control.value = "";
  }
  example = {};
  countAll();
}

function keepTexts() {
  if (chosen) chosen.texts = TEXTS.map((name) => form().elements[name].value);
}

// A picture that was here before has its own texts. A new one begins with those that stand there.
function choose(picture) {
  keepTexts();
  dropExample();
  clearErrors();
  chosen = picture;
  if (picture?.texts) TEXTS.forEach((name, place) => { form().elements[name].value = picture.texts[place]; });
  countAll();
  image = picture?.file || null;
  showPreview(picture?.address || "", "The image that you chose");
  showThumbs();
  markOld();
}

function remove(picture) {
  const place = pictures.indexOf(picture);
  pictures.splice(place, 1);
  URL.revokeObjectURL(picture.address);
  if (picture === chosen) choose(pictures[Math.min(place, pictures.length - 1)] || null);
  else showThumbs();
  (page.querySelectorAll(".ds-thumb")[Math.min(place, pictures.length - 1)] || part("#image")).focus();
  announce(`${picture.name} removed.`);
}

// What is surely no picture is refused at once, by its name. The server looks at the others.
const isPicture = (file) => !file.type || part("#image").accept.split(",").includes(file.type);

function refusals(large, others) {
  const names = (files) => files.slice(0, MOST_NAMED).map((file) => file.name).join(", ") + (files.length > MOST_NAMED ? ` and ${files.length - MOST_NAMED} more` : "");
  const named = (files, what) => `${names(files)} ${files.length > 1 ? "are" : "is"} ${what}`;
  const messages = [];
  if (large.length) messages.push(named(large, `larger than ${megabytes()} MB. Choose ${large.length > 1 ? "smaller ones" : "a smaller one"}.`));
  if (others.length) messages.push(named(others, `not in a format that can be read. Choose ${part("#image").dataset.formats}.`));
  return messages.map((message) => ({ field: "image", message }));
}

function add(files) {
  const fits = (file) => file.size <= megabytes() * 2 ** 20;
  const readable = files.filter(isPicture);
  const refused = refusals(readable.filter((file) => !fits(file)), files.filter((file) => !isPicture(file)));
  const fresh = readable.filter(fits).map((file) => ({ number: ++taken, file, name: file.name, address: URL.createObjectURL(file) }));
  pictures.push(...fresh);
  for (const gone of pictures.splice(0, Math.max(pictures.length - MAX_PICTURES, 0))) URL.revokeObjectURL(gone.address);
  if (fresh.length || !chosen) choose(pictures.find((picture) => fresh.includes(picture)) || null);
  if (fresh.length) announce(fresh.length > 1 ? `${fresh.length} images chosen. The first is shown.` : "Image chosen.");
  if (refused.length) showErrors(refused);
  part("#image").value = ""; // so that the same file can be chosen again
}

function count(control) {
  const limit = Number(control.dataset.limit);
  const place = part(`#${control.id}-count`);
  const length = [...control.value.trim()].length;
  place.hidden = length < limit * SHOW_COUNT;
  place.textContent = `${length.toLocaleString("en")} of ${limit.toLocaleString("en")} characters${length > limit ? ": too long" : ""}`;
  place.classList.toggle("ds-error", length > limit);
}

function countAll() {
  page.querySelectorAll("[data-limit]").forEach(count);
}

also.shown = () => {
  chosen = null;
  pictures.splice(0).forEach((picture) => URL.revokeObjectURL(picture.address));
  part('[data-do="camera"]').hidden = !navigator.mediaDevices?.getUserMedia && !matchMedia("(pointer: coarse)").matches;
};
also.filled = (fields) => {
  if (!fields.example) return;
  const { example: name, ...texts } = fields;
  example = { ...texts, example: name };
  image = chosen = null;
  showThumbs();
  countAll();
};
also.sent = (action) => {
  keepTexts();
  live.classList.remove("ds-unseen");
  if (action !== "score") return;
  asked = entered();
  markOld(true);
};
also.answered = (reply) => {
  if (reply?.preview) showPreview(...reply.preview);
  if (reply && reply.result !== null) {
    const place = part(".ds-result");
    place.innerHTML = reply.result;
    place.hidden = false;
    part(".ds-waiting").hidden = true;
    scored = asked;
    live.classList.add("ds-unseen"); // it says what the result says
    toResult();
  }
  markOld();
};

// Beside the form it comes into view. Below the form it also gets the focus.
function toResult() {
  const heading = part("#result");
  const { top, bottom } = heading.getBoundingClientRect();
  const beside = part(".ds-result").getBoundingClientRect().left > form().getBoundingClientRect().right;
  if (!beside) heading.focus({ preventScroll: true });
  if (!beside || top < 0 || bottom > window.innerHeight) heading.scrollIntoView({ block: "start" });
}

async function copy(button) {
  const text = part(".ds-signature");
  try {
    await navigator.clipboard.writeText(text.textContent);
  } catch { // no permission, or a page without TLS
    getSelection().selectAllChildren(text);
    if (!document.execCommand("copy")) return announce("The browser does not copy. The signature is selected: copy it yourself.");
    getSelection().removeAllRanges();
    button.focus();
  }
  button.textContent = "Copied";
  setTimeout(() => { button.textContent = "Copy the signature"; }, 2000);
  announce("Signature copied.");
}

const dialog = () => part(".ds-camera");

async function camera() {
  if (matchMedia("(pointer: coarse)").matches) return part("#camera").click(); // the device's own camera
  try {
    part("video").srcObject = await navigator.mediaDevices.getUserMedia({ video: true });
  } catch {
    return showErrors([{ field: "image", message: "No camera can be used here. Choose a file." }]);
  }
  dialog().showModal();
}

function closeCamera() {
  part("video").srcObject?.getTracks().forEach((track) => track.stop());
  part("video").srcObject = null;
  dialog().close();
}

function shutter() {
  const video = part("video");
  const canvas = document.createElement("canvas");
  canvas.width = video.videoWidth;
  canvas.height = video.videoHeight;
  canvas.getContext("2d").drawImage(video, 0, 0);
  closeCamera();
  canvas.toBlob((blob) => { if (blob) add([new File([blob], "photo.jpg", { type: "image/jpeg" })]); }, "image/jpeg", 0.92);
}

const DO = { camera, shutter, close: closeCamera, copy };

element.addEventListener("click", (event) => {
  const button = event.target.closest("[data-do]");
  if (button) DO[button.dataset.do](button);
});
element.addEventListener("cancel", (event) => { // Escape
  if (event.target === dialog()) closeCamera();
}, true);
element.addEventListener("change", (event) => {
  if (event.target.type === "file" && event.target.files.length) add([...event.target.files]);
});
element.addEventListener("input", (event) => {
  if (event.target.dataset.limit) count(event.target);
  markOld();
});
document.addEventListener("paste", (event) => {
  const files = [...event.clipboardData.files];
  if (!files.length || !form()) return; // a text goes where it is pasted
  event.preventDefault();
  add(files);
});
document.addEventListener("dragover", (event) => {
  if (!event.dataTransfer.types.includes("Files")) return;
  event.preventDefault(); // the browser would open the file in place of the page
  part(".ds-drop")?.classList.add("ds-over");
});
for (const kind of ["dragleave", "drop"]) {
  document.addEventListener(kind, () => part(".ds-drop")?.classList.remove("ds-over"));
}
document.addEventListener("drop", (event) => {
  if (!event.dataTransfer.files.length) return;
  event.preventDefault();
  if (form()) add([...event.dataTransfer.files]);
});
