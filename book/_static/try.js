// The reader names pictures, and sees a score and a shape bias. Nothing is loaded and nothing is sent.
"use strict";
(() => {
  const place = document.getElementById("try");
  const data = JSON.parse(document.getElementById("try-data").textContent);
  const panel = place.querySelector(".panel");
  const keys = "1234567890abcdef"; // one for each class
  const sheet = (name) => `url("${place.dataset.static}${name}")`;

  // mulberry32: a small generator, so that a seed gives the same order in every browser.
  const generator = (seed) => () => {
    seed = (seed + 0x6d2b79f5) | 0;
    let t = Math.imul(seed ^ (seed >>> 15), 1 | seed);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 4294967296;
  };
  const shuffled = (list, random) => {
    const out = list.slice();
    for (let i = out.length - 1; i > 0; i--) {
      const j = Math.floor(random() * (i + 1));
      [out[i], out[j]] = [out[j], out[i]];
    }
    return out;
  };
  // Wilson's score interval of a proportion, 95 %.
  const wilson = (right, n) => {
    const z = 1.959963984540054, p = right / n, k = 1 + (z * z) / n;
    const middle = (p + (z * z) / (2 * n)) / k;
    const half = (z / k) * Math.sqrt((p * (1 - p)) / n + (z * z) / (4 * n * n));
    return [Math.max(0, middle - half), Math.min(1, middle + half)];
  };
  const share = (right, n) => {
    if (!n) return "–";
    const [low, high] = wilson(right, n);
    return `${(right / n).toFixed(2)} (${right} of ${n}; ${low.toFixed(2)} to ${high.toFixed(2)})`;
  };

  const make = (tag, text = "", attributes = {}) => {
    const element = document.createElement(tag);
    element.textContent = text;
    for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
    return element;
  };
  const button = (text, act) => {
    const element = make("button", text, { type: "button" });
    element.addEventListener("click", act);
    return element;
  };
  const tile = (name, index, columns, rows, kind) => {
    const element = make("span", "", { class: kind });
    element.style.backgroundImage = sheet(name);
    element.style.backgroundSize = `${columns * 100}% ${rows * 100}%`;
    const at = (i, n) => (n > 1 ? (i / (n - 1)) * 100 : 0);
    element.style.backgroundPosition =
      `${at(index % columns, columns)}% ${at(Math.floor(index / columns), rows)}%`;
    return element;
  };

  function begin(message) {
    const seed = make("input", "", { type: "number", min: 0, max: 999999, step: 1, id: "try-seed" });
    seed.value = crypto.getRandomValues(new Uint32Array(1))[0] % 1000000;
    const label = make("label", "Seed of the order: ", { for: "try-seed" });
    const line = make("p");
    const start = button("Start", () => ask(Number(seed.value)));
    start.className = "main";
    line.append(label, seed, " ", start);
    panel.replaceChildren(line);
    if (message) start.focus();
  }

  function ask(seed) {
    const random = generator(seed);
    const all = data.pictures.map((picture, index) => ({ index, ...picture }));
    const order = [
      ...shuffled(all.filter((picture) => picture.kind !== "cue_conflict"), random),
      ...shuffled(all.filter((picture) => picture.kind === "cue_conflict"), random),
    ];
    const answers = [];
    const status = make("p", "", { role: "status", class: "count" });
    const frame = make("div", "", { class: "asked" });
    const choices = make("div", "", { class: "choices", role: "group", "aria-label": "What is it?" });
    const stop = button("Stop here and show my result", () => show(seed, answers));
    const next = () => {
      if (answers.length === order.length) return show(seed, answers);
      const picture = order[answers.length];
      status.textContent = `Picture ${answers.length + 1} of ${order.length}`;
      const image = tile("try_pictures.png", picture.index, data.row, data.pictures.length / data.row, "picture");
      image.setAttribute("role", "img");
      image.setAttribute("aria-label", `Picture ${answers.length + 1}, to be named`);
      frame.replaceChildren(image);
    };
    const answer = (index) => {
      const { kind, shape, texture, index: picture } = order[answers.length];
      answers.push({ picture, kind, shape, texture, answer: index });
      next();
    };
    data.shapes.forEach((shape, index) => {
      const choice = button("", () => answer(index));
      choice.append(
        tile("try_classes.png", index, 16, 2, "icon"),
        tile("try_classes.png", 16 + index, 16, 2, "icon"),
        make("span", shape, { class: "name" }),
        make("span", data.textures[index], { class: "name" }),
        make("kbd", keys[index]),
      );
      choices.append(choice);
    });
    // Only while the focus is here, so that no key of the page or of a screen reader is taken.
    panel.onkeydown = (event) => {
      const index = keys.indexOf(event.key.toLowerCase());
      if (event.key.length !== 1 || index < 0 || event.ctrlKey || event.altKey || event.metaKey) return;
      if (event.target.tagName === "INPUT" || answers.length === order.length) return;
      event.preventDefault();
      answer(index);
    };
    panel.replaceChildren(status, frame, choices, stop);
    next();
    choices.firstChild.focus({ preventScroll: true });
    panel.scrollIntoView({ block: "nearest" });
  }

  function count(answers) {
    const of = (kind) => answers.filter((given) => given.kind === kind);
    const right = (list, cue) => list.filter((given) => given.answer === given[cue]).length;
    const conflicts = of("cue_conflict");
    return {
      mean_pooled: [right(of("mean_pooled"), "shape"), of("mean_pooled").length],
      ordinary: [right(of("ordinary"), "shape"), of("ordinary").length],
      shape: right(conflicts, "shape"),
      texture: right(conflicts, "texture"),
      conflicts: conflicts.length,
    };
  }

  function download(name, type, text) {
    const link = make("a", "", { download: name });
    link.href = URL.createObjectURL(new Blob([text], { type }));
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 1000);
  }

  function show(seed, answers) {
    panel.onkeydown = null;
    const told = count(answers);
    const neither = told.conflicts - told.shape - told.texture;
    const bias = share(told.shape, told.shape + told.texture);
    const texts = [share(...told.mean_pooled), share(...told.ordinary), bias];
    const row = document.getElementById("try-you");
    texts.forEach((text, i) => { row.cells[i + 1].textContent = text; });
    row.hidden = false;
    const list = make("ul");
    list.append(
      make("li", `mean-pooled pictures: ${texts[0]}`),
      make("li", `ordinary pictures: ${texts[1]}`),
      make("li", `pictures with the shape of one class and the texture of another: ${told.shape} answers follow ` +
        `the shape, ${told.texture} the texture, ${neither} neither; shape bias ${bias}`),
    );
    const result = make("div", "", { role: "status", tabindex: "-1", class: "result" });
    result.append(make("p", `Your result, seed ${seed}. In brackets: counts, and a 95 % interval (Wilson).`), list);
    const rows = answers.map((given) => [given.picture, given.kind, data.shapes[given.shape],
      data.textures[given.texture], data.shapes[given.answer], data.textures[given.answer]]);
    const names = ["picture", "kind", "shape", "texture", "answer_shape", "answer_texture"];
    const line = make("p");
    line.append(
      button("Download as JSON", () => download("my-answers.json", "application/json",
        JSON.stringify({ seed, ...told, neither,
          answers: rows.map((values) => Object.fromEntries(values.map((value, i) => [names[i], value]))) }, null, 1))),
      " ",
      button("Download as CSV", () => download("my-answers.csv", "text/csv",
        [names, ...rows].map((values) => values.join(",")).join("\n") + "\n")),
      " ",
      button("Once more", () => begin("again")),
    );
    panel.replaceChildren(result, line);
    result.focus();
  }

  begin();
})();
