// What only a study does: the browser's Back stays in it.

// One more entry in the history, which Back takes away. The first page has none, so from there Back leads out.
function holdBack() {
  if (!page.querySelector("#consent") && !history.state?.held) history.pushState({ held: true }, "");
}

also.shown = holdBack;
window.addEventListener("popstate", () => {
  if (page.querySelector("#consent")) return;
  holdBack();
  if (waiting) return;
  const button = page.querySelector('button[value="back"], button[value="start"]');
  if (button) button.click();
  else if (!page.querySelector('[name="annotator"]')) ask("open", {}); // of somebody who is not yet known
  else announce("There is no earlier page that can be changed. What you saved is kept.");
});
