// The reader's own tables as lines beside the book's. The files are read in the browser and go nowhere.
"use strict";
(() => {
  const data = JSON.parse(document.getElementById("own-data").textContent);
  const panel = document.querySelector("#own .panel");
  const stems = Object.values(data.tables), known = stems.map((name) => `${name}.csv`);
  const own = new Map(); // name of a table -> its lines
  // 97.5 % points of Student's t, for 1 to 30 degrees of freedom.
  const t = [12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.16, 2.145, 2.131,
    2.12, 2.11, 2.101, 2.093, 2.086, 2.08, 2.074, 2.069, 2.064, 2.06, 2.056, 2.052, 2.048, 2.045, 2.042];

  const make = (tag, text = "", attributes = {}) => {
    const element = document.createElement(tag);
    element.textContent = text;
    for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
    return element;
  };
  const draw = (tag, attributes, text = "") => {
    const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
    for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
    element.textContent = text;
    return element;
  };

  // Rows of a CSV file; a field in quotes may have commas, line breaks and doubled quotes in it.
  function parse(text) {
    const rows = [];
    let row = [], field = "", quoted = false;
    for (let i = 0; i < text.length; i++) {
      const c = text[i];
      if (quoted) {
        if (c !== '"') field += c;
        else if (text[i + 1] === '"') { field += c; i++; } else quoted = false;
      } else if (c === '"') quoted = true;
      else if (c === ",") { row.push(field); field = ""; }
      else if (c === "\n") { rows.push([...row, field.replace(/\r$/, "")]); row = []; field = ""; }
      else field += c;
    }
    if (field || row.length) rows.push([...row, field]);
    return rows.filter((cells) => cells.length > 1 || cells[0]);
  }

  // The rows of a table's parts, each a file with a name and a text. Of rows with the same start, depth, number of
  // samples and seed those of the latest part count. An error says what a file lacks.
  function rowsOf(parts) {
    const latest = new Map();
    parts.forEach(({ name, text }, part) => {
      const [header = [], ...rows] = parse(text.replace(/^\ufeff/, ""));
      const missing = data.columns.filter((column) => !header.includes(column));
      if (missing.length) {
        throw new Error(`${name} has no column ${missing.join(", ")}. Expected a table like ${known.join(" or ")}.`);
      }
      rows.forEach((cells, i) => {
        const row = Object.fromEntries(header.map((column, j) => [column, cells[j] ?? ""]));
        const depth = Number(row.n_layer), samples = Number(row.n_disambiguation);
        if (!row.n_layer || !row.n_disambiguation || !Number.isFinite(depth) || !Number.isFinite(samples)) {
          throw new Error(`${name}, row ${i + 2}: n_layer is "${row.n_layer}" and n_disambiguation ` +
            `"${row.n_disambiguation}": expected a number in both.`);
        }
        // A run that diverged has no accuracy, as in the book's own figures.
        const lost = row.test_accuracy === "" || row.test_accuracy === "nan";
        const value = lost ? null : Number(row.test_accuracy);
        if (!lost && !(value >= 0 && value <= 1)) {
          throw new Error(`${name}, row ${i + 2}: test_accuracy is "${row.test_accuracy}": expected 0 to 1.`);
        }
        const key = JSON.stringify([row.start, depth, samples, row.seed]);
        if (latest.get(key)?.part !== part) latest.set(key, { part, rows: [] });
        latest.get(key).rows.push({ start: row.start, depth, samples, value });
      });
    });
    return [...latest.values()].flatMap(({ rows }) => rows).filter(({ value }) => value !== null);
  }

  // Means over seeds for every start, depth and number of samples.
  function lines(name, parts) {
    const groups = new Map();
    for (const { start, depth, samples, value } of rowsOf(parts)) {
      const key = JSON.stringify([start, depth]);
      if (!groups.has(key)) groups.set(key, { start, n_layer: depth, at: new Map() });
      const at = groups.get(key).at;
      at.set(samples, [...(at.get(samples) || []), value]);
    }
    if (!groups.size) throw new Error(`${name} has no row with an accuracy.`);
    return [...groups.values()].map(({ start, n_layer, at }) => ({
      start, n_layer, ...look(start),
      points: [...at].sort((a, b) => a[0] - b[0]).map(([samples, values]) => {
        const n = values.length, mean = values.reduce((a, b) => a + b) / n;
        const deviation = Math.sqrt(values.reduce((a, b) => a + (b - mean) ** 2, 0) / (n - 1));
        const half = (t[n - 2] ?? 1.96) * deviation / Math.sqrt(n);
        // As in the book: the interval of the mean, cut at what an accuracy can be; of too few seeds, where they lie.
        const [low, high] = n < 2 ? [null, null] : n >= (n_layer < data.deep ? data.least : data.fewest)
          ? [Math.max(0, mean - half), Math.min(1, mean + half)] : [Math.min(...values), Math.max(...values)];
        return [samples, mean, low, high, n];
      }),
    }));
  }
  function look(start) {
    const line = Object.values(data.book).flat().find((one) => one.start === start);
    return { label: line ? line.label : start.replaceAll("_", " "), colour: line ? line.colour : "#666666" };
  }

  // Which table a file belongs to: runs/mine/03_transfer/PART.csv is a part of runs/mine/03_transfer.
  function tableOf(file, all) {
    const path = file.webkitRelativePath || file.name, folders = path.split("/").slice(0, -1);
    if (known.includes(file.name)) return path;
    if (!stems.includes(folders.at(-1)) || !path.endsWith(".csv")) return "";
    // Without its record a part is not whole.
    return all.some((other) => other.webkitRelativePath === path.replace(/csv$/, "json")) ? folders.join("/") : "";
  }

  async function read(files) {
    const given = [...files].sort((a, b) => (a.name < b.name ? -1 : 1)), tables = new Map();
    for (const file of given) {
      // Of a folder only the tables that have curves; one file is taken whatever its name is.
      const name = tableOf(file, given) || (given.length === 1 ? file.name : "");
      if (name) tables.set(name, [...(tables.get(name) || []), file]);
    }
    problem.textContent = "";
    if (given.length && !tables.size) {
      problem.textContent = `None of these ${given.length} files is ${known.join(" or ")}, or a part of one.`;
      return;
    }
    for (const [name, parts] of tables) {
      try {
        own.set(name, lines(name, await Promise.all(
          parts.map(async (file) => ({ name: file.name, text: await file.text() })))));
      } catch (error) {
        problem.textContent = error.message;
      }
    }
    update();
  }

  function update() {
    const everything = [...Object.values(data.book), ...own.values()].flat();
    const depths = [...new Set(everything.map((line) => line.n_layer))].sort((a, b) => a - b);
    const starts = [...new Map(everything.map((line) => [line.start, line.label]))];
    options(depth, depths.map((n) => [String(n), `${n} layers`]));
    options(start, [["", "all"], ...starts]);
    options(book, [...Object.keys(data.book).map((scale) => [scale, `${scale} scale`]), ["none", "none"]]);
    taken.replaceChildren(...[...own.keys()].map((name) => {
      const item = make("li", `${name} `), out = make("button", "remove", { type: "button" });
      out.setAttribute("aria-label", `remove ${name}`);
      out.addEventListener("click", () => { own.delete(name); update(); });
      item.append(out);
      return item;
    }));
    const shown = (list) => list.filter((line) =>
      String(line.n_layer) === depth.value && (!start.value || line.start === start.value));
    const books = shown(data.book[book.value] || []);
    const owns = [...own].flatMap(([name, list]) => shown(list).map((line) => ({ ...line, file: name })));
    figure.replaceChildren(chart(books, owns), make("p", "Dashed: the book. Solid, with dots: your files. " +
      `Bars are 95 % intervals over seeds, or of fewer than ${data.least} from the lowest to the highest.`), legend([...books, ...owns]), table(books, owns));
  }
  function options(select, list) {
    const before = select.value;
    select.replaceChildren(...list.map(([value, text]) => make("option", text, { value })));
    if (list.some(([value]) => value === before)) select.value = before;
  }

  function chart(books, owns) {
    const all = [...books, ...owns], counts = [...new Set(all.flatMap((line) => line.points.map((p) => p[0])))];
    counts.sort((a, b) => a - b);
    // As in the book's figures: log(1 + n / m), m the smallest number above 0, so that 0 has a place.
    const unit = counts.find((n) => n > 0) || 1, scale = (n) => Math.log1p(n / unit);
    const [low, high] = [scale(counts[0] ?? 0), scale(counts.at(-1) ?? 1)];
    const x = (n) => 56 + (high > low ? (scale(n) - low) / (high - low) : 0.5) * 520, y = (v) => 300 - v * 272;
    const svg = draw("svg", { viewBox: "0 0 600 350", role: "img", "aria-label": "Line chart. Accuracy on a squared " +
      `plus ab against the number of disambiguation samples: ${books.length} lines of the book and ${owns.length} ` +
      "lines of your files. The table below has the numbers." });
    svg.append(draw("rect", { width: 600, height: 350, rx: 8, fill: "#ffffff" }));
    for (const v of [0, 0.25, 0.5, 0.75, 1]) {
      svg.append(draw("line", { x1: 56, x2: 580, y1: y(v), y2: y(v), stroke: "#dddddd" }),
        draw("text", { x: 48, y: y(v) + 5, "text-anchor": "end" }, String(v)));
    }
    svg.append(draw("text", { x: 10, y: 14 }, "accuracy"));
    let right = -Infinity;
    for (const n of counts) {
      if (x(n) - right < 40) continue;
      right = x(n);
      svg.append(draw("text", { x: right, y: 320, "text-anchor": "middle" }, String(n)));
    }
    svg.append(draw("text", { x: 318, y: 342, "text-anchor": "middle" }, "disambiguation samples in the training set"));
    for (const line of all) {
      const mine = "file" in line;
      const group = draw("g", { class: mine ? "yours" : "book", stroke: line.colour, fill: "none" });
      group.append(draw("title", {}, `${mine ? "yours" : "the book"}: ${line.label}`), draw("polyline", {
        points: line.points.map((p) => `${x(p[0]).toFixed(1)},${y(p[1]).toFixed(1)}`).join(" "),
        "stroke-width": mine ? 3 : 1.8, "stroke-dasharray": mine ? "none" : "6 4" }));
      for (const [n, mean, low, high] of mine ? line.points : []) {
        group.append(draw("circle", { cx: x(n), cy: y(mean), r: 4, fill: line.colour }));
        if (low !== null) group.append(draw("line", { x1: x(n), x2: x(n), y1: y(low), y2: y(high), "stroke-width": 1.5 }));
      }
      svg.append(group);
    }
    return svg;
  }

  function legend(all) {
    const list = make("ul", "", { class: "legend" });
    for (const [label, colour] of new Map(all.map((line) => [line.label, line.colour]))) {
      const item = make("li"), patch = make("span");
      patch.style.background = colour;
      item.append(patch, label);
      list.append(item);
    }
    return list;
  }

  function table(books, owns) {
    const box = make("div", "", { class: "pst-scrollable-table-container" }), grid = make("table", "", { class: "table" });
    const head = make("tr");
    for (const text of ["whose", "start", "samples", "accuracy", "from", "to", "seeds"]) {
      head.append(make("th", text, { scope: "col" }));
    }
    grid.append(make("thead"), make("tbody"));
    grid.tHead.append(head);
    for (const line of [...owns, ...books]) {
      for (const [n, mean, low, high, seeds] of line.points) {
        const row = make("tr");
        for (const text of [line.file || `the book, ${book.value}`, line.label, n, mean.toFixed(3),
          ...[low, high].map((end) => (end === null ? "–" : end.toFixed(3))), seeds]) row.append(make("td", String(text)));
        grid.tBodies[0].append(row);
      }
    }
    box.append(grid);
    return box;
  }

  const field = (text, element) => {
    const label = make("label", `${text} `);
    label.append(element);
    return label;
  };
  const problem = make("p", "", { role: "alert", class: "problem" });
  const taken = make("ul", "", { class: "taken" });
  const figure = make("div", "", { class: "chart" });
  const [depth, start, book] = ["own-depth", "own-start", "own-book"].map((id) => make("select", "", { id }));
  for (const select of [depth, start, book]) select.addEventListener("change", update);
  const files = make("input", "", { type: "file", accept: ".csv,text/csv", multiple: "", id: "own-files" });
  const folder = make("input", "", { type: "file", webkitdirectory: "", id: "own-folder" });
  for (const input of [files, folder]) input.addEventListener("change", () => read(input.files));
  const drop = make("div", "", { class: "drop" });
  drop.append(field("Your files:", files));
  if ("webkitdirectory" in folder) drop.append(field("or a folder, such as runs/mine:", folder));
  drop.append(make("p", "Or drop files here."));
  drop.addEventListener("dragover", (event) => event.preventDefault());
  drop.addEventListener("drop", (event) => { event.preventDefault(); read(event.dataTransfer.files); });
  const choices = make("div", "", { class: "fields" });
  choices.append(field("Depth", depth), field("Start", start), field("Beside", book));
  panel.replaceChildren(drop, problem, taken, choices, figure);
  update();
})();
