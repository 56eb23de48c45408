// The body of a function that gets element from Gradio's HTML component. A page's own script (try.js or
// study.js) follows in the same function. It sends forms to the server's 'act' and puts the server's replies in place.

const page = element.querySelector(".ds-page");
const live = element.querySelector(".ds-status");
const problems = element.querySelector(".ds-problems");
const study = element.querySelector(".ds-root").dataset.study;
const KEY = `descscore-code-${study}`;
const DRAFT = "descscore-draft";
const AGAIN_SECONDS = 10;
const SLOW_SECONDS = 30;
const LOST_SECONDS = 120;

let waiting = null; // the pressed button, until its answer comes
let asking = null; // aborts the request on its way; a later request ends an earlier one
let slow = null; // the timer that says that it takes long
let saying = null; // the timer of the next announcement; a later announcement ends an earlier one
let image = null; // the chosen file
// What the script of one page, which follows this one, does beside.
const also = { shown() {}, filled() {}, sent() {}, answered() {} };
let code = stored(); // whose page this is; another tab may show another annotator's

function stored() {
  try { return study ? localStorage.getItem(KEY) || "" : ""; } catch { return ""; }
}

function keep(value) {
  code = value;
  try { localStorage.setItem(KEY, value); } catch { return "This browser cannot remember you: write down your code."; }
  return "";
}

function forget() {
  try { if (stored() === code) localStorage.removeItem(KEY); } catch { /* no storage */ }
  code = "";
}

function announce(text) {
  clearTimeout(saying);
  live.textContent = "";
  // A moment later, because a screen reader would not announce the same words twice.
  if (text) saying = setTimeout(() => { live.textContent = text; }, 50);
}

function busy(button) {
  if (waiting?.dataset.label) waiting.textContent = waiting.dataset.label;
  waiting = button;
  if (button?.dataset.busy) {
    button.dataset.label = button.textContent;
    button.textContent = button.dataset.busy;
  }
  element.querySelectorAll("button").forEach((b) => b.toggleAttribute("aria-disabled", false));
  if (button) button.setAttribute("aria-disabled", "true");
  page.setAttribute("aria-busy", String(Boolean(button)));
  clearTimeout(slow);
  if (button) slow = setTimeout(() => announce("Still waiting for the server."), SLOW_SECONDS * 1000);
}

function controls(field) {
  return [...page.querySelectorAll(`[name="${field}"]`)].filter((c) => c.type !== "hidden");
}

function clearErrors() {
  problems.hidden = true;
  problems.replaceChildren();
  page.querySelectorAll(".ds-error").forEach((p) => { p.hidden = true; p.textContent = ""; });
  page.querySelectorAll("[aria-invalid]").forEach((c) => c.removeAttribute("aria-invalid"));
}

function showError({ field, message }) {
  const entry = document.createElement("li");
  const target = controls(field)[0];
  const place = field && page.querySelector(`#${CSS.escape(field)}-error`);
  if (place && target) {
    place.textContent = place.textContent ? `${place.textContent} ${message}` : `Error: ${message}`;
    place.hidden = false;
    (target.type === "radio" ? target.closest("fieldset") : target).setAttribute("aria-invalid", "true");
    const link = document.createElement("a");
    link.href = `#${field}`;
    link.textContent = message;
    link.addEventListener("click", (event) => { event.preventDefault(); target.focus(); });
    entry.append(link);
  } else {
    entry.textContent = message;
  }
  problems.querySelector("ul").append(entry);
}

function showErrors(errors) {
  clearErrors();
  if (!errors.length) return;
  const title = document.createElement("p");
  title.id = title.className = "ds-problems-title";
  title.textContent = errors.length === 1 ? "There is a problem" : `There are ${errors.length} problems`;
  const list = document.createElement("ul");
  list.id = "ds-problems-list";
  problems.append(title, list);
  errors.forEach(showError);
  problems.hidden = false;
  problems.focus();
  problems.scrollIntoView({ block: "start" });
}

function fill(fields) {
  for (const [name, value] of Object.entries(fields)) {
    const control = page.querySelector(`[name="${name}"]`);
    if (control) control.value = value;
  }
  also.filled(fields);
}

function place() {
  const marks = ["annotator", "step"].map((name) => page.querySelector(`[name="${name}"]`)?.value);
  return [page.querySelector("h1")?.textContent, ...marks].join(" ");
}

// What was filled in exists only in this tab. It is put aside here and filled in again when the page is reloaded.
function putAside() {
  const kept = [...page.querySelectorAll("textarea, input:not([type=hidden], [type=file])")]
    .filter((c) => (c.type === "radio" || c.type === "checkbox" ? c.checked : c.value))
    .map((c) => [c.name, c.value]);
  try { sessionStorage.setItem(DRAFT, JSON.stringify({ place: place(), kept, image: Boolean(image) })); } catch { /* no storage */ }
}

function takeBack() {
  let draft = null;
  try {
    draft = JSON.parse(sessionStorage.getItem(DRAFT));
    sessionStorage.removeItem(DRAFT);
  } catch { /* no storage */ }
  if (!draft || draft.place !== place() || !draft.kept.length) return;
  for (const [name, value] of draft.kept) {
    for (const control of controls(name)) {
      if (["radio", "checkbox"].includes(control.type)) control.checked ||= control.value === value;
      else control.value = value;
    }
  }
  announce(`The form is filled in as you left it${draft.image ? ", except for the image: choose it again" : ""}.`);
}

function showPage(html) {
  page.innerHTML = html;
  clearErrors();
  image = null;
  const heading = page.querySelector("h1");
  document.title = `${heading.textContent} - descscore`;
  heading.focus();
  window.scrollTo(0, 0);
  also.shown(page);
}

function apply(reply) {
  busy(null);
  const storage = reply.code ? keep(reply.code) : "";
  if (reply.forget) forget();
  if (reply.page !== null) showPage(reply.page);
  showErrors(reply.errors);
  fill(reply.fields);
  also.answered(reply);
  announce(`${reply.status} ${storage}`.trim());
  if (reply.page !== null) takeBack();
}

function fail(message) {
  if (!page.childElementCount) announce(`${message} Trying to open the page again.`);
  if (!waiting) return;
  busy(null);
  also.answered(null);
  announce("");
  showErrors([{ field: "", message }]);
}

function collect(form) {
  const fields = {};
  for (const [name, value] of new FormData(form).entries()) {
    if (typeof value === "string") fields[name] = value;
  }
  return fields;
}

const REFUSED = {
  413: "What you sent is too large. Choose a smaller image or shorter texts.",
  503: "Too many people are waiting. What you filled in is kept; try again in a minute.",
};

// A request that fails must not leave the page waiting. The form keeps what was filled in.
async function ask(action, fields) {
  asking?.abort();
  const request = asking = new AbortController();
  const late = setTimeout(() => request.abort(), LOST_SECONDS * 1000);
  const event = JSON.stringify({ action, fields: study ? { ...fields, code } : fields });
  const body = new Blob(action === "score" && image ? [event, "\n", image] : [event]);
  let reply = null;
  let problem = "The server has not answered. What you filled in is kept; try again.";
  try {
    const response = await fetch(new URL("act", location.href), { method: "POST", body, signal: request.signal });
    if (response.ok) reply = await response.json();
    else problem = REFUSED[response.status] || "The server did not take this. What you filled in is kept; try again.";
  } catch {
    if (!request.signal.aborted) problem = await unreachable();
  }
  clearTimeout(late);
  if (request !== asking) return;
  asking = null;
  if (reply) apply(reply);
  else fail(problem);
}

// The browser says only that the request failed. It cannot send a file that was changed or deleted meanwhile.
async function unreachable() {
  try {
    await image?.slice(0, 1).arrayBuffer();
  } catch {
    return "The image file cannot be read. Choose it again.";
  }
  return "The server cannot be reached. What you filled in is kept; try again.";
}

function send(action, form, button) {
  busy(button);
  also.sent(action);
  announce(action === "score" ? "Scoring." : "");
  ask(action, form ? collect(form) : {});
}

element.addEventListener("submit", (event) => {
  event.preventDefault();
  if (waiting) return; // pressed twice
  // Return in a text field presses the form's main button, not its first.
  const main = event.target.querySelector("#score");
  const pressed = main && document.activeElement?.tagName === "INPUT" ? main : event.submitter;
  const button = pressed || event.target.querySelector("button");
  send(button.value, event.target, button);
});
window.addEventListener("pagehide", putAside);

const opening = setInterval(() => {
  if (page.childElementCount) clearInterval(opening);
  else if (!asking) ask("open", {});
}, AGAIN_SECONDS * 1000);
ask("open", {});
