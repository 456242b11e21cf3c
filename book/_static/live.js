/* Live figures. The page holds a picture and, as JSON, the numbers it was made from (book/_ext/live_figure.py).
   Here the numbers are drawn in the picture's place. When anything fails, the picture stays. */
"use strict";
(() => {
  // ------------------------------------------------------------------ Small helpers

  function filled(element, attributes, children) {
    for (const [name, value] of Object.entries(attributes)) {
      if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
      else if (value === true) element.setAttribute(name, "");
      else if (value !== false && value !== null) element.setAttribute(name, value);
    }
    element.append(...children);
    return element;
  }
  const html = (tag, attributes = {}, ...children) => filled(document.createElement(tag), attributes, children);
  const svg = (tag, attributes = {}, ...children) =>
    filled(document.createElementNS("http://www.w3.org/2000/svg", tag), attributes, children);

  const whole = (number) => number.toLocaleString("en-US");
  const percent = (share) => `${(100 * share).toFixed(1)} %`;
  const clamp = (value, low, high) => Math.min(Math.max(value, low), high);

  /* A labelled drop-down. Options are texts; `chosen` gets the number of the one that was taken. */
  function select(label, options, chosen, start = 0) {
    const list = html("select", { onchange: () => chosen(list.selectedIndex) });
    list.append(...options.map((text) => html("option", {}, text)));
    list.selectedIndex = start;
    return html("label", { class: "live-field" }, html("span", {}, label), list);
  }
  const button = (text, name, press) => html("button", { type: "button", "aria-label": name, title: name, onclick: press }, text);
  const readout = (text) => html("p", { class: "live-readout", "aria-live": "polite" }, text);

  /* Calls `drawn` with the width of `element`, now and whenever it changes. */
  function sized(element, drawn) {
    let last = 0;
    new ResizeObserver(() => {
      const width = Math.round(element.clientWidth);
      if (width && width !== last) drawn((last = width));
    }).observe(element);
  }

  // Black is the colour of text, which a dark page has light.
  const colour = (name) => (name === "#000000" ? "var(--live-ink)" : name);
  const DASHES = { "-": null, "--": "7 4", ":": "2 3", "-.": "7 3 2 3" };
  const MARKERS = {
    o: (r) => `M${-r},0a${r},${r} 0 1,0 ${2 * r},0a${r},${r} 0 1,0 ${-2 * r},0`,
    s: (r) => `M${-r},${-r}h${2 * r}v${2 * r}h${-2 * r}z`,
    "^": (r) => `M0,${-r}L${r},${r}H${-r}z`,
    v: (r) => `M0,${r}L${r},${-r}H${-r}z`,
    D: (r) => `M0,${-1.3 * r}L${1.3 * r},0L0,${1.3 * r}L${-1.3 * r},0z`,
    d: (r) => `M0,${-1.3 * r}L${0.8 * r},0L0,${1.3 * r}L${-0.8 * r},0z`,
    P: (r) => `M${-r},${-r / 3}H${-r / 3}V${-r}H${r / 3}V${-r / 3}H${r}V${r / 3}H${r / 3}V${r}H${-r / 3}V${r / 3}H${-r}z`,
    x: (r) => `M${-r},${-r}L${r},${r}M${-r},${r}L${r},${-r}`,
  };
  function marker(line, x, y, hollow = false) {
    const open = hollow || line.marker === "x";
    return svg("path", {
      d: (MARKERS[line.marker] || MARKERS.o)(4), transform: `translate(${x},${y})`, class: hollow ? "live-hollow" : "",
      style: `stroke:${colour(line.colour)};fill:${open ? "none" : colour(line.colour)}`, "stroke-width": 1.6,
    });
  }

  // ------------------------------------------------------------------ Curves

  function curves(data) {
    const lines = data.lines;
    const hint = "Point at a value, or move to the chart with the Tab key and use the arrow keys.";
    const told = readout(hint);
    const holder = html("div", {
      class: "live-chart", tabindex: 0, role: "application",
      "aria-label": `Chart. Arrow keys read the values, plus and minus zoom, 0 shows the whole. ${data.alt}`,
    });
    let depth = data.depths.find((one) => lines.some((line) => line.points[one])) ?? data.depths[0];
    let seed = -1; // of all: the mean
    let paper = lines.some((line) => line.paper[depth]);
    let view = null, at = null, places = [], width = 0, dragged = null;
    const shown = new Set(lines.keys());

    /* Values that are to be seen: {line, paper, points: [{count, value, half, seeds}]}. */
    function visible() {
      const found = [];
      for (const index of shown) {
        const line = lines[index];
        const points = (line.points[depth] || []).map(([count, mean, half, values]) =>
          seed < 0 ? { count, value: mean, half, seeds: values.filter((value) => value !== null).length }
                   : { count, value: values[seed], half: null, seeds: 1 });
        found.push({ line, paper: false, points: points.filter((point) => point.value !== null) });
        if (paper && line.paper[depth])
          found.push({ line, paper: true, points: line.paper[depth].map(([count, value]) => ({ count, value, half: null })) });
      }
      return found.filter((one) => one.points.length);
    }

    function counts() {
      const all = lines.flatMap((line) => [...(line.points[depth] || []), ...(paper ? line.paper[depth] || [] : [])]);
      return [...new Set(all.map((point) => point[0]))].sort((a, b) => a - b);
    }

    function text({ line, paper: theirs, count, value, half, seeds }) {
      const where = `${line.label}, ${whole(count)} samples`;
      if (theirs) return `The paper's ${where}: ${value.toFixed(3)} (one run).`;
      if (seed >= 0) return `${where}, seed ${data.seeds[seed]}: ${value.toFixed(3)}.`;
      const mean = half === null ? value.toFixed(3) : `${value.toFixed(3)} ± ${half.toFixed(3)}`;
      return `${where}: ${mean} (mean of ${seeds} seed${seeds === 1 ? "" : "s"}${half === null ? "" : ", 95 % interval"}).`;
    }

    function render() {
      if (!width) return;
      const height = Math.round(clamp(0.62 * width, 260, 420));
      const box = { left: 46, right: width - 10, top: 10, bottom: height - 44 };
      const all = counts();
      const unit = all.find((count) => count > 0) || 1;
      const scaled = (count) => Math.log1p(count / unit);
      const full = { x0: scaled(all[0]) - 0.08, x1: scaled(all[all.length - 1]) + 0.08, y0: 0, y1: 1.03 };
      const seen = view || full;
      const px = (count) => box.left + ((scaled(count) - seen.x0) / (seen.x1 - seen.x0)) * (box.right - box.left);
      const py = (value) => box.bottom - ((value - seen.y0) / (seen.y1 - seen.y0)) * (box.bottom - box.top);
      const plot = svg("svg", { width, height, viewBox: `0 0 ${width} ${height}`, "aria-hidden": "true" });
      const clip = `live-clip-${curves.number = (curves.number || 0) + 1}`;
      plot.append(svg("clipPath", { id: clip }, svg("rect", {
        x: box.left - 6, y: box.top - 6, width: box.right - box.left + 12, height: box.bottom - box.top + 12 })));
      // Axes
      const step = [0.005, 0.01, 0.02, 0.05, 0.1, 0.2].find((one) => (seen.y1 - seen.y0) / one <= 6.5) || 0.2;
      for (let tick = Math.ceil(seen.y0 / step); tick * step <= seen.y1; tick++) {
        const y = py(tick * step);
        plot.append(svg("line", { x1: box.left, x2: box.right, y1: y, y2: y, class: "live-grid" }),
          svg("text", { x: box.left - 6, y: y + 4, "text-anchor": "end" }, (tick * step).toFixed(step < 0.01 ? 3 : step < 0.1 ? 2 : 1)));
      }
      let last = -Infinity;
      for (const count of all) {
        const x = px(count);
        if (x < box.left || x > box.right || x - last < 14 + 7 * whole(count).length) continue;
        last = x;
        plot.append(svg("line", { x1: x, x2: x, y1: box.top, y2: box.bottom, class: "live-grid" }),
          svg("text", { x: Math.min(x, width - 4 * whole(count).length), y: box.bottom + 17, "text-anchor": "middle" }, whole(count)));
      }
      plot.append(svg("text", { x: (box.left + box.right) / 2, y: height - 6, "text-anchor": "middle" }, "disambiguation samples in the training set"),
        svg("text", { transform: `translate(11,${(box.top + box.bottom) / 2}) rotate(-90)`, "text-anchor": "middle" }, "accuracy on unambiguous pairs"));
      // Lines
      const inside = svg("g", { "clip-path": `url(#${clip})` });
      const floor = data.floors[depth];
      if (floor !== undefined) inside.append(svg("line", { x1: box.left, x2: box.right, y1: py(floor), y2: py(floor), class: "live-floor" }));
      places = [];
      for (const { line, paper: theirs, points } of visible()) {
        const path = points.map((point, i) => `${i ? "L" : "M"}${px(point.count)},${py(point.value)}`).join("");
        const banded = points.filter((point) => point.half !== null);
        if (banded.length > 1) {
          const upper = banded.map(({ count, value, half }) => `${px(count)},${py(Math.min(value + half, 1))}`);
          const lower = banded.map(({ count, value, half }) => `${px(count)},${py(Math.max(value - half, 0))}`).reverse();
          inside.append(svg("path", { d: `M${upper.concat(lower).join("L")}z`, class: "live-band", style: `fill:${colour(line.colour)}` }));
        }
        inside.append(svg("path", {
          d: path, fill: "none", style: `stroke:${colour(line.colour)}`, "stroke-dasharray": theirs ? null : DASHES[line.dash],
          "stroke-width": theirs ? 0.8 : line.label === "subnetwork" ? 2.6 : 1.7, opacity: theirs ? 0.7 : 1 }));
        for (const point of points) {
          const place = { line, paper: theirs, ...point, x: px(point.count), y: py(point.value) };
          places.push(place);
          inside.append(marker(line, place.x, place.y, theirs));
        }
      }
      // The value that is read
      const read = at && places.find((one) => one.line === at.line && one.paper === at.paper && one.count === at.count);
      if (read) {
        inside.append(svg("line", { x1: read.x, x2: read.x, y1: box.top, y2: box.bottom, class: "live-guide" }),
          svg("circle", { cx: read.x, cy: read.y, r: 9, class: "live-ring" }));
        if (told.textContent !== text(read)) told.textContent = text(read);
      } else {
        const none = !lines.some((line) => line.points[depth]);
        told.textContent = none ? `${depth} layers have not been run here: the paper's values alone.` : hint;
      }
      const frame = svg("rect", { class: "live-drag", visibility: "hidden" });
      plot.append(inside, frame);
      plot.geometry = { box, seen, full, frame };
      holder.replaceChildren(plot);
    }

    function zoom(factor) {
      const { seen, full } = holder.firstChild.geometry;
      const read = at && places.find((one) => one.line === at.line && one.paper === at.paper && one.count === at.count);
      const { box } = holder.firstChild.geometry;
      const share = read ? { x: (read.x - box.left) / (box.right - box.left), y: (box.bottom - read.y) / (box.bottom - box.top) } : { x: 0.5, y: 0.5 };
      show({ x0: seen.x0 + share.x * (seen.x1 - seen.x0) * (1 - factor), x1: seen.x1 - (1 - share.x) * (seen.x1 - seen.x0) * (1 - factor),
        y0: seen.y0 + share.y * (seen.y1 - seen.y0) * (1 - factor), y1: seen.y1 - (1 - share.y) * (seen.y1 - seen.y0) * (1 - factor) }, full);
    }

    /* Shows a part of the whole, no smaller than a fiftieth of it, and never more than it. */
    function show(part, full) {
      const wide = Math.max(part.x1 - part.x0, (full.x1 - full.x0) / 50), high = Math.max(part.y1 - part.y0, (full.y1 - full.y0) / 50);
      if (wide >= full.x1 - full.x0 && high >= full.y1 - full.y0) view = null;
      else {
        const x0 = clamp(part.x0, full.x0, Math.max(full.x1 - wide, full.x0)), y0 = clamp(part.y0, full.y0, Math.max(full.y1 - high, full.y0));
        view = { x0, x1: Math.min(x0 + wide, full.x1), y0, y1: Math.min(y0 + high, full.y1) };
      }
      render();
    }

    function look(place) {
      at = place && { line: place.line, paper: place.paper, count: place.count };
      if (place && view) { // a value beside the part that is shown: the part moves
        const { box, full } = holder.firstChild.geometry;
        const dx = place.x < box.left ? place.x - box.left : Math.max(place.x - box.right, 0);
        const dy = place.y > box.bottom ? place.y - box.bottom : Math.min(place.y - box.top, 0);
        const byX = (dx * 1.2 / (box.right - box.left)) * (view.x1 - view.x0), byY = (-dy * 1.2 / (box.bottom - box.top)) * (view.y1 - view.y0);
        if (dx || dy) return show({ x0: view.x0 + byX, x1: view.x1 + byX, y0: view.y0 + byY, y1: view.y1 + byY }, full);
      }
      render();
    }

    function key(event) {
      if (event.ctrlKey || event.metaKey || event.altKey) return;
      const zooms = { "+": () => zoom(0.6), "=": () => zoom(0.6), "-": () => zoom(1 / 0.6), 0: () => { view = null; render(); }, Escape: () => look(null) };
      const ways = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1], Home: [-Infinity, 0], End: [Infinity, 0] };
      if (zooms[event.key]) zooms[event.key]();
      else if (ways[event.key]) move(...ways[event.key]);
      else return;
      event.preventDefault();
    }

    function move(along, up) {
      const read = at && places.find((one) => one.line === at.line && one.paper === at.paper && one.count === at.count);
      if (!read) return look(places[0]);
      const own = up ? places.filter((one) => one.count === read.count).sort((a, b) => a.value - b.value)
        : places.filter((one) => one.line === read.line && one.paper === read.paper);
      look(own[clamp(own.indexOf(read) + (up || along), 0, own.length - 1)]);
    }

    function position(event) {
      const corner = holder.firstChild.getBoundingClientRect();
      return { x: event.clientX - corner.left, y: event.clientY - corner.top };
    }

    holder.addEventListener("keydown", key);
    holder.addEventListener("pointerdown", (event) => {
      if (event.pointerType !== "touch" && event.button === 0) dragged = position(event);
    });
    holder.addEventListener("pointermove", (event) => {
      const here = position(event);
      if (dragged && Math.hypot(here.x - dragged.x, here.y - dragged.y) > 6) {
        const { frame } = holder.firstChild.geometry;
        filled(frame, { x: Math.min(here.x, dragged.x), y: Math.min(here.y, dragged.y), visibility: "visible",
          width: Math.abs(here.x - dragged.x), height: Math.abs(here.y - dragged.y) }, []);
        return;
      }
      nearest(here);
    });
    function nearest(here) {
      const { box } = holder.firstChild.geometry;
      const near = places.filter((one) => one.x > box.left - 7 && one.x < box.right + 7 && one.y > box.top - 7 && one.y < box.bottom + 7)
        .map((one) => [Math.hypot(one.x - here.x, one.y - here.y), one]).sort((a, b) => a[0] - b[0])[0];
      if (near && near[0] < 40 && !(at && at.line === near[1].line && at.paper === near[1].paper && at.count === near[1].count)) look(near[1]);
    }
    holder.addEventListener("click", (event) => nearest(position(event)));
    window.addEventListener("pointerup", (event) => {
      if (!dragged) return;
      const here = position(event), { box, seen, full } = holder.firstChild.geometry, from = dragged;
      dragged = null;
      if (Math.abs(here.x - from.x) < 10 || Math.abs(here.y - from.y) < 10) return render();
      const sx = (x) => seen.x0 + ((clamp(x, box.left, box.right) - box.left) / (box.right - box.left)) * (seen.x1 - seen.x0);
      const sy = (y) => seen.y0 + ((box.bottom - clamp(y, box.top, box.bottom)) / (box.bottom - box.top)) * (seen.y1 - seen.y0);
      show({ x0: sx(Math.min(here.x, from.x)), x1: sx(Math.max(here.x, from.x)), y0: sy(Math.max(here.y, from.y)), y1: sy(Math.min(here.y, from.y)) }, full);
    });
    holder.addEventListener("dblclick", () => { view = null; render(); });

    // Controls
    const bar = html("div", { class: "live-bar" });
    if (data.depths.length > 1) {
      const names = data.depths.map((one) => `${one}${lines.some((line) => line.points[one]) ? "" : " (the paper's only)"}`);
      bar.append(select("Layers", names, (index) => { depth = data.depths[index]; view = at = null; render(); }, data.depths.indexOf(depth)));
    }
    bar.append(select("Show", [`mean of ${data.seeds.length} seeds`, ...data.seeds.map((one) => `seed ${one}`)], (index) => { seed = index - 1; render(); }));
    if (lines.some((line) => Object.keys(line.paper).length)) {
      const box = html("input", { type: "checkbox", checked: paper, onchange: () => { paper = box.checked; view = null; render(); } });
      bar.append(html("label", { class: "live-field" }, box, html("span", {}, "the paper's values (hollow)")));
    }
    bar.append(html("span", { class: "live-buttons" }, button("+", "Zoom in", () => zoom(0.6)), button("−", "Zoom out", () => zoom(1 / 0.6)),
      button("whole", "Show the whole chart", () => { view = null; render(); })));
    const starts = html("fieldset", { class: "live-starts" }, html("legend", {}, "The new network starts with"));
    lines.forEach((line, index) => {
      const box = html("input", { type: "checkbox", checked: true, onchange: () => {
        if (box.checked) shown.add(index); else shown.delete(index);
        render();
      } });
      const sample = svg("svg", { width: 34, height: 14, "aria-hidden": "true" },
        svg("line", { x1: 1, x2: 33, y1: 7, y2: 7, style: `stroke:${colour(line.colour)}`, "stroke-width": 2, "stroke-dasharray": DASHES[line.dash] }), marker(line, 17, 7));
      starts.append(html("label", {}, box, sample, html("span", {}, line.label)));
    });
    sized(holder, (now) => { width = now; render(); });
    return [bar, told, holder, starts];
  }

  // ------------------------------------------------------------------ Start

  const KINDS = { curves };
  for (const figure of document.querySelectorAll("figure.live")) {
    try {
      const data = JSON.parse(figure.querySelector("script.live-data").textContent);
      const kind = Object.keys(KINDS).find((name) => figure.classList.contains(`live-${name}`));
      const box = html("div", { class: "live-box", role: "group", "aria-label": data.alt }, ...KINDS[kind](data));
      figure.insertBefore(box, figure.querySelector("figcaption"));
      figure.classList.add("live-on");
    } catch (error) {
      console.error("live figure:", error);
    }
  }
})();
