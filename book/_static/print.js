// On paper nothing opens, and a dark page would be light text on white: all is open and light while the page is printed.
"use strict";
(() => {
  const root = document.documentElement;
  let closed = null, theme = "";
  addEventListener("beforeprint", () => {
    if (closed) return;
    closed = [...document.querySelectorAll(".bd-article details:not([open])")];
    theme = root.dataset.theme;
    for (const one of closed) one.open = true;
    root.dataset.theme = "light";
  });
  addEventListener("afterprint", () => {
    for (const one of closed || []) one.open = false;
    if (closed) root.dataset.theme = theme;
    closed = null;
  });
})();
