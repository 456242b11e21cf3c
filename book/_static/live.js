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
    const id = `live-select-${(select.count = (select.count || 0) + 1)}`;
    const list = html("select", { id, onchange: () => chosen(list.selectedIndex) });
    list.append(...options.map((text) => html("option", {}, text)));
    list.selectedIndex = start;
    return html("span", { class: "live-field" }, html("label", { for: id }, label), list);
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
    const hint = "Point at a value or tap it, or move to the chart with the Tab key and use the arrow keys.";
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

    /* Values that are to be seen: {line, paper, points: [{count, value, low, high, seeds}]}. */
    function visible() {
      const found = [];
      for (const index of shown) {
        const line = lines[index];
        const points = (line.points[depth] || []).map(([count, mean, low, high, values]) =>
          seed < 0 ? { count, value: mean, low, high, seeds: values.filter((value) => value !== null).length }
                   : { count, value: values[seed], low: null, high: null, seeds: 1 });
        found.push({ line, paper: false, points: points.filter((point) => point.value !== null) });
        if (paper && line.paper[depth])
          found.push({ line, paper: true, points: line.paper[depth].map(([count, value]) => ({ count, value, low: null, high: null })) });
      }
      return found.filter((one) => one.points.length);
    }

    function counts() {
      const all = lines.flatMap((line) => [...(line.points[depth] || []), ...(paper ? line.paper[depth] || [] : [])]);
      return [...new Set(all.map((point) => point[0]))].sort((a, b) => a - b);
    }

    function text({ line, paper: theirs, count, value, low, high, seeds }) {
      const where = `${line.label}, ${whole(count)} samples`;
      if (theirs) return `The paper's ${where}: ${value.toFixed(3)} (one run).`;
      if (seed >= 0) return `${where}, seed ${data.seeds[seed]}: ${value.toFixed(3)}.`;
      if (low === null) return `${where}: ${value.toFixed(3)} (one seed).`;
      const what = seeds >= data.least[depth] ? "95 % interval" : "lowest and highest";
      return `${where}: ${value.toFixed(3)} (mean of ${seeds} seeds; ${what}, ${low.toFixed(3)} to ${high.toFixed(3)}).`;
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
      let next = Infinity; // from the right, so that the last one has its label
      for (const count of [...all].reverse()) {
        const x = px(count);
        if (x < box.left || x > box.right || next - x < 14 + 7 * whole(count).length) continue;
        next = x;
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
        const banded = points.filter((point) => point.low !== null);
        if (banded.length > 1) {
          const upper = banded.map(({ count, high }) => `${px(count)},${py(high)}`);
          const lower = banded.map(({ count, low }) => `${px(count)},${py(low)}`).reverse();
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
      bar.append(select("Layers", names, (index) => { depth = data.depths[index]; view = at = null; offer(); render(); }, data.depths.indexOf(depth)));
    }
    let here = []; // places of the seeds that this depth has
    let which = null; // offers them
    function offer() {
      const values = lines.flatMap((line) => line.points[depth] || []).map((point) => point[4]);
      const each = values.map((one) => one.filter((value) => value !== null).length).filter(Boolean);
      const low = Math.min(...each), high = Math.max(...each);
      here = [...data.seeds.keys()].filter((place) => values.some((one) => one[place] !== null));
      if (!here.includes(seed)) seed = -1;
      const mean = here.length ? `mean of ${low === high ? low : `${low} to ${high}`} seed${high === 1 ? "" : "s"}` : "no runs of ours";
      const list = select("Show", [mean, ...here.map((place) => `seed ${data.seeds[place]}`)],
        (index) => { seed = index ? here[index - 1] : -1; render(); }, here.indexOf(seed) + 1);
      if (which) which.replaceWith(list); else bar.append(list);
      which = list;
    }
    offer();
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

  // ------------------------------------------------------------------ Pictures of masks

  /* A canvas for pictures of masks: rows are inputs, columns outputs, as in the picture in print. */
  function maskPicture(colours, name) {
    const canvas = html("canvas", { class: "live-mask", role: "img", "aria-label": name });
    canvas.showing = (text, says) => {
      const rows = text.split("/");
      canvas.width = rows[0].length;
      canvas.height = rows.length;
      canvas.setAttribute("aria-label", `${name} ${says}`);
      const context = canvas.getContext("2d");
      rows.forEach((row, y) => [...row].forEach((level, x) => {
        context.fillStyle = colours[parseInt(level, 36)];
        context.fillRect(x, y, 1, 1);
      }));
    };
    return canvas;
  }
  const scale = (colours) => html("div", { class: "live-scale", "aria-hidden": "true" }, html("span", {}, "none kept"),
    html("i", { style: `background:linear-gradient(to right, ${colours.join(",")})` }), html("span", {}, "all kept"));

  function forming(data) {
    let frame = data.steps.length - 1, chosen = data.matrices.length - 4, timer = null;
    if (chosen < 0) chosen = 0;
    const told = readout("");
    const bars = html("div", { class: "live-bars" });
    const picture = maskPicture(data.colours, "Picture of the soft mask:");
    const title = html("p", { class: "live-title" });
    const slider = html("input", { type: "range", min: 0, max: frame, step: 1, value: frame, oninput: () => { stop(); go(Number(slider.value)); } });
    const play = button("play", "play the search from its start", () => (timer ? stop() : start()));
    const most = 1.05 * Math.max(...data.matrices.flatMap((one) => [...one.density, ...one.soft]));
    const name = (one) => `layer ${one.layer}, ${one.part}`;
    const rows = data.matrices.map((one) => {
      const fill = html("i"), mean = html("b"), value = html("span", { class: "live-value" });
      const row = html("div", { class: "live-row" }, html("span", {}, one.part), html("span", { class: "live-track" }, fill, mean), value);
      return { one, fill, mean, value, row };
    });
    const heads = data.layers.map((layer) => {
      const head = html("p", { class: "live-title" });
      bars.append(head, ...rows.filter((row) => row.one.layer === layer.layer).map((row) => row.row));
      return { layer, head };
    });
    bars.append(html("p", { class: "live-key" }, "Bar: share that the hard mask keeps. Stroke: mean of the soft mask."));

    function go(to) {
      frame = to;
      const step = `step ${whole(data.steps[frame])} of ${whole(data.steps[data.steps.length - 1])}`;
      slider.value = frame;
      slider.setAttribute("aria-valuetext", step);
      for (const { layer, head } of heads) head.textContent = `Layer ${layer.layer} keeps ${percent(layer.density[frame])}`;
      for (const { one, fill, mean, value, row } of rows) {
        fill.style.width = `${(100 * one.density[frame]) / most}%`;
        mean.style.left = `${(100 * one.soft[frame]) / most}%`;
        value.textContent = percent(one.density[frame]);
        row.classList.toggle("live-chosen", one === data.matrices[chosen]);
      }
      const one = data.matrices[chosen];
      picture.showing(one.pictures[frame], `${name(one)}, ${step}`);
      picture.style.aspectRatio = `${clamp(one.outputs / one.inputs, 0.5, 2)}`;
      title.textContent = `${name(one)}: ${one.inputs} inputs (down), ${one.outputs} outputs (across)`;
      told.textContent = `At ${step}, temperature ${data.temperatures[frame].toFixed(1)}, the hard mask keeps ${percent(data.density[frame])} of the weights; ` +
        `of ${name(one)} it keeps ${percent(one.density[frame])}, and the mean of the soft mask is ${one.soft[frame].toFixed(3)}.`;
    }
    function start() {
      if (frame === data.steps.length - 1) go(0);
      play.textContent = "stop";
      play.setAttribute("aria-label", "stop the search");
      timer = setInterval(() => (frame < data.steps.length - 1 ? go(frame + 1) : stop()), 350);
    }
    function stop() {
      clearInterval(timer);
      timer = null;
      play.textContent = "play";
      play.setAttribute("aria-label", "play the search from its start");
    }
    const turn = (by) => () => { stop(); go(clamp(frame + by, 0, data.steps.length - 1)); };
    const buttons = html("span", { class: "live-buttons" }, button("‹", "One step back", turn(-1)), button("›", "One step on", turn(1)));
    // Who asked for less motion moves the slider.
    if (!matchMedia("(prefers-reduced-motion: reduce)").matches) buttons.append(play);
    const bar = html("div", { class: "live-bar" }, html("label", { class: "live-field live-slide" }, html("span", {}, "Step of the search"), slider), buttons,
      select("Picture of", data.matrices.map(name), (index) => { chosen = index; go(frame); }, chosen));
    go(frame);
    return [bar, told, html("div", { class: "live-sides" }, bars, html("div", {}, title, picture, scale(data.colours)))];
  }

  // ------------------------------------------------------------------ The network

  function network(data) {
    let seed = 0, chosen = 0;
    const told = readout("");
    const facts = html("div", { class: "live-told" });
    const holder = html("div", { class: "live-drawn" });
    const picture = maskPicture(data.colours, "Picture of the mask at the end of the search:");
    const pictured = html("div", {}, picture, scale(data.colours)), unpictured = html("p", {}, `There is a picture of the mask for seed ${data.pictured}.`);
    const layers = [...new Set(data.matrices.map((one) => one.layer))];
    const total = data.matrices.reduce((sum, one) => sum + one.inputs * one.outputs, 0);
    const share = (one) => one.kept[seed] / (one.inputs * one.outputs);
    let tiles = [], width = 0;

    function tile(index, x, y, unit) {
      const one = data.matrices[index], wide = one.outputs * unit, high = one.inputs * unit, side = Math.sqrt(share(one));
      const press = () => { chosen = index; render(); tiles[index].focus(); };
      tiles[index] = svg("g", {
        role: "button", tabindex: 0, transform: `translate(${x},${y})`, class: "live-tile", "aria-pressed": String(index === chosen),
        "aria-label": `layer ${one.layer}, ${one.part}: ${percent(share(one))} kept`, onclick: press,
        onkeydown: (event) => {
          const by = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
          if (event.key !== "Enter" && event.key !== " " && !by) return;
          event.preventDefault();
          index = clamp(index + (by || 0), 0, data.matrices.length - 1);
          chosen = index;
          render();
          tiles[chosen].focus();
        } },
      svg("rect", { width: wide, height: high, class: "live-all" }), svg("rect", { y: high * (1 - side), width: wide * side, height: high * side, class: "live-kept" }));
      const over = svg("text", { x: x + wide / 2, y: y - 6, "text-anchor": "middle", class: "live-name", "aria-hidden": "true" }, one.part);
      const below = svg("text", { x: x + wide / 2, y: y + high + 15, "text-anchor": "middle", "aria-hidden": "true" }, percent(share(one)));
      return [tiles[index], over, below];
    }

    function render() {
      const left = 26, gap = 34;
      const widest = Math.max(...data.matrices.map((one, i) => one.outputs + (data.matrices[i + 1] && i % 2 === 0 ? data.matrices[i + 1].outputs : 0)));
      const unit = Math.min((width - left - 2 * gap - 4) / widest, 0.3);
      const plot = svg("svg", { width, class: "live-drawing" });
      const stream = svg("path", { class: "live-stream" });
      plot.append(stream, svg("text", { x: left, y: 16 }, "a, b and = go in; embeddings (not masked)"));
      let y = 34;
      tiles = [];
      for (const layer of layers) {
        const own = data.matrices.map((one, i) => i).filter((i) => data.matrices[i].layer === layer);
        for (let k = 0; k < own.length; k += 2) {
          const pair = own.slice(k, k + 2), high = Math.max(...pair.map((i) => data.matrices[i].inputs * unit));
          plot.append(svg("text", { x: left, y: y + 8, class: "live-head" }, `Layer ${layer}: ${data.matrices[pair[0]].part.startsWith("attn") ? "attention" : "MLP"}`));
          y += 34;
          const middle = y + high / 2;
          let x = left + gap / 2;
          plot.append(svg("path", { d: `M10,${middle}H${x}`, class: "live-stream" }));
          pair.forEach((i, place) => {
            const one = data.matrices[i];
            if (place) plot.append(svg("path", { d: `M${x - gap},${middle}H${x}`, class: "live-stream" }));
            plot.append(...tile(i, x, middle - (one.inputs * unit) / 2, unit));
            x += one.outputs * unit + gap;
          });
          const back = middle + high / 2 + 26;
          plot.append(svg("path", { d: `M${x - gap},${middle}H${x - gap / 2}V${back}H16`, class: "live-stream" }), svg("circle", { cx: 10, cy: back, r: 6, class: "live-plus" }),
            svg("path", { d: `M6,${back}H14M10,${back - 4}V${back + 4}`, class: "live-stream" }));
          y = back + 20;
        }
      }
      stream.setAttribute("d", `M10,4V${y + 8}`);
      plot.append(svg("text", { x: left, y: y + 10 }, "the answer comes out"));
      plot.setAttribute("height", y + 18);
      holder.replaceChildren(plot);
      tell();
    }

    function tell() {
      const one = data.matrices[chosen], kept = data.matrices.reduce((sum, each) => sum + each.kept[seed], 0);
      const name = `layer ${one.layer}, ${one.part}`, size = one.inputs * one.outputs;
      told.textContent = `${name}: ${whole(one.kept[seed])} of ${whole(size)} weights kept, ${percent(share(one))}. All matrices: ${whole(kept)} of ${whole(total)}, ${percent(kept / total)}.`;
      const lines = [["Matrix", name], ["What it does", one.meaning], ["Shape", `${one.inputs} inputs × ${one.outputs} outputs`], ["Kept", whole(one.kept[seed])], ["Density", percent(share(one))]];
      facts.replaceChildren(html("dl", {}, ...lines.flatMap(([term, value]) => [html("dt", {}, term), html("dd", {}, value)])));
      unpictured.hidden = !(pictured.hidden = data.seeds[seed] !== data.pictured);
      picture.style.aspectRatio = `${clamp(one.outputs / one.inputs, 0.5, 2)}`;
      picture.showing(one.picture, name);
    }
    sized(holder, (now) => { width = now; render(); });
    const bar = html("div", { class: "live-bar" }, select("Subnetwork of", data.seeds.map((one) => `seed ${one}`), (index) => { seed = index; render(); }),
      html("span", { class: "live-key" }, "Outline: all weights. Filled: the share that is kept."));
    return [bar, told, html("div", { class: "live-sides" }, holder, html("div", { class: "live-beside" }, facts, pictured, unpictured))];
  }

  // ------------------------------------------------------------------ Cue conflicts

  const FOLLOWS = { shape: ["●", "the shape"], texture: ["▨", "the texture"], neither: ["–", "neither"] };

  function conflicts(data) {
    let asked = Math.max(data.networks.findIndex((one) => one.label.startsWith("subnetwork")), 0), only = null, chosen = 0;
    const told = readout("");
    const table = html("div", { class: "live-told", "aria-live": "polite" });
    const grid = html("div", { class: "live-grid-pictures" });
    const image = (one) => html("img", { src: `data:image/png;base64,${one.png}`, alt: "", width: 64, height: 64 });
    const verdict = (network, k) => `${network.answers[k]} ${FOLLOWS[network.follows[k]][0]}`;
    const buttons = data.pictures.map((one, k) => {
      const answer = html("span");
      const press = html("button", { type: "button", onclick: () => { chosen = k; render(); } }, image(one), answer);
      grid.append(press);
      return { press, answer };
    });

    function render() {
      const network = data.networks[asked], count = (kind) => network.follows.filter((one) => one === kind).length, all = network.totals;
      told.textContent = `${network.label}: of these ${data.pictures.length} answers ${count("shape")} follow the shape, ${count("texture")} the texture, ${count("neither")} neither. ` +
        `Of all ${whole(all.images)}: ${whole(all.shape)}, ${whole(all.texture)}, ${whole(all.neither)}.`;
      buttons.forEach(({ press, answer }, k) => {
        const one = data.pictures[k], follows = network.follows[k];
        press.hidden = only !== null && follows !== only;
        press.className = `live-${follows}`;
        press.setAttribute("aria-pressed", String(k === chosen));
        press.setAttribute("aria-label", `Picture ${k + 1}, shape ${one.shape}, texture ${one.texture}. Answer: ${network.answers[k]}, follows ${FOLLOWS[follows][1]}`);
        answer.textContent = verdict(network, k);
      });
      const one = data.pictures[chosen];
      const rows = data.networks.map((each) => html("tr", {}, html("th", { scope: "row" }, each.label), html("td", {}, each.answers[chosen]), html("td", {}, FOLLOWS[each.follows[chosen]].join(" "))));
      table.replaceChildren(html("div", { class: "live-asked" }, filled(image(one), { width: 112, height: 112, alt: `Picture ${chosen + 1}` }, []),
        html("p", {}, `Picture ${chosen + 1}. Shape: ${one.shape}. Texture: that of ${one.texture}.`)),
      html("table", {}, html("thead", {}, html("tr", {}, ...["Network", "Answer", "Follows"].map((text) => html("th", { scope: "col" }, text)))), html("tbody", {}, ...rows)));
    }
    const kinds = [null, "shape", "texture", "neither"];
    const bar = html("div", { class: "live-bar" }, select("Network", data.networks.map((one) => one.label), (index) => { asked = index; render(); }, asked),
      select("Answers", ["all", "● follow the shape", "▨ follow the texture", "– follow neither"], (index) => { only = kinds[index]; render(); }));
    render();
    return [bar, told, html("div", { class: "live-sides" }, grid, table)];
  }

  // ------------------------------------------------------------------ Start

  const KINDS = { curves, forming, network, conflicts };
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
