// What scrolls in its own box must be reachable with the Tab key, and what does not scroll must not be a stop.
"use strict";
(() => {
  const boxes = "figure, .pst-scrollable-table-container, div.math, .cell_output .output, .bd-article pre";
  let waiting = 0;
  const mark = () => {
    waiting = 0;
    for (const box of document.querySelectorAll(boxes)) {
      const scrolls = box.scrollWidth > box.clientWidth + 1 || box.scrollHeight > box.clientHeight + 1;
      if (scrolls && getComputedStyle(box).overflowX !== "visible") box.tabIndex = 0;
      else box.removeAttribute("tabindex");
    }
  };
  const later = () => { waiting ||= requestAnimationFrame(mark); };
  new ResizeObserver(later).observe(document.querySelector("article") || document.body);
  addEventListener("load", later);
})();
