// What scrolls sideways must be reachable by keyboard. The theme puts tables into such regions after loading.
const reach = () =>
  document.querySelectorAll(".md-typeset__scrollwrap, .md-typeset pre > code").forEach((one) => {
    one.tabIndex = 0;
  });
reach();
new MutationObserver(reach).observe(document.body, { childList: true, subtree: true });
