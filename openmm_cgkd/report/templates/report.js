"use strict";
// The page around the figures: theme, switches, the triple of the maps, sorting. Lines carry tags: kind, label.
(() => {
  const root = document.documentElement;
  const onDark = {
    "black": "#eceff2", "#D55E00": "#ff8b47", "#0072B2": "#58b0f0", "#009E73": "#2fcf9f",
    "#CC79A7": "#ec9fca", "#E69F00": "#ffc14d", "#56B4E9": "#a5d8fa",
  };
  const models = () => Bokeh.documents.flatMap((doc) => [...doc.all_models]);
  const lines = () => models().filter((model) => model.type === "GlyphRenderer");
  const maps = JSON.parse(document.getElementById("maps").textContent);

  // --- theme ---
  const own = new Map(); // colours as they were made, for light paper
  function follow(model, name, dark) {
    const key = `${model.id} ${name}`;
    if (!own.has(key)) own.set(key, model[name]);
    const light = own.get(key);
    const color = light && Object.hasOwn(light, "value") ? light.value : light;
    model[name] = { value: dark ? (onDark[color] ?? color) : color };
  }
  function paint() {
    const dark = root.dataset.theme === "dark";
    const color = (name) => getComputedStyle(root).getPropertyValue(`--${name}`).trim();
    for (const renderer of lines()) {
      const kind = renderer.tags[0];
      if (kind === "line") follow(renderer.glyph, "line_color", dark);
      if (kind === "line" && "fill_color" in renderer.glyph) follow(renderer.glyph, "fill_color", dark);
      if (kind === "band") follow(renderer.glyph, "fill_color", dark);
    }
    for (const model of models()) {
      if (model.type.endsWith("Axis")) {
        model.setv({ axis_label_text_color: color("text"), major_label_text_color: color("text"),
          axis_line_color: color("soft"), major_tick_line_color: color("soft") });
      } else if (model.type === "Grid") {
        model.grid_line_color = color("grid");
      } else if (model.type === "LinearColorMapper") {
        if (!own.has(model.id)) own.set(model.id, [...model.palette]);
        model.palette = dark ? [...own.get(model.id)].reverse() : own.get(model.id);
        const shown = [...model.palette].filter((_, k) => k % 15 === 0).map(css);
        document.getElementById("ramp").style.background = `linear-gradient(to right, ${shown.join(", ")})`;
      }
    }
    for (const swatch of document.querySelectorAll(".swatch")) {
      swatch.dataset.light ??= swatch.style.getPropertyValue("--own").trim();
      swatch.style.setProperty("--own", dark ? (onDark[swatch.dataset.light] ?? swatch.dataset.light) : swatch.dataset.light);
    }
  }
  const css = (value) => (typeof value === "number" ? `#${(value >>> 8).toString(16).padStart(6, "0")}` : value);
  const preferred = matchMedia("(prefers-color-scheme: dark)");
  function wear(dark) {
    root.dataset.theme = dark ? "dark" : "light";
    paint();
  }
  preferred.addEventListener("change", () => wear(preferred.matches));
  document.getElementById("theme").addEventListener("click", () => wear(root.dataset.theme !== "dark"));

  // --- switches ---
  function show() {
    const bands = document.getElementById("bands").checked;
    const hidden = new Set([...document.querySelectorAll("input[data-label]")].filter((box) => !box.checked).map((box) => box.dataset.label));
    for (const renderer of lines()) {
      const [kind, label] = renderer.tags;
      if (kind === "line") renderer.visible = !hidden.has(label);
      if (kind === "band") renderer.visible = bands && !hidden.has(label);
    }
  }
  for (const box of document.querySelectorAll(".controls input")) box.addEventListener("change", show);
  document.getElementById("reset").addEventListener("click", () => {
    for (const model of models()) if (model.type.startsWith("Range") || model.type.startsWith("DataRange")) model.reset();
    choose();
  });

  // --- maps ---
  const triple = document.getElementById("triple");
  function choose() {
    if (!triple) return;
    const k = Number(triple.value), { start, end, high } = maps[k];
    for (const renderer of lines().filter((found) => found.tags[0] === "map")) {
      renderer.name = `image${k}`; // the hover tool asks for the column of this name
      renderer.glyph.setv({ image: { field: `image${k}` }, x: { field: `left${k}` }, dw: { field: `width${k}` } });
    }
    for (const plot of models().filter((model) => model.type === "Figure" && model.renderers.some((found) => found.tags[0] === "map"))) {
      plot.x_range.setv({ start, end, reset_start: start, reset_end: end });
    }
    for (const mapper of models().filter((model) => model.type === "LinearColorMapper")) mapper.high = high;
    document.getElementById("top").textContent = `${high.toPrecision(2)} × ideal gas`;
  }
  triple?.addEventListener("change", choose);

  // --- tables: a click on a title sorts ---
  for (const title of document.querySelectorAll(".numbers th")) {
    title.addEventListener("click", () => {
      const column = title.cellIndex, body = title.closest("table").tBodies[0];
      const up = title.getAttribute("aria-sort") !== "ascending";
      for (const other of title.parentNode.cells) other.removeAttribute("aria-sort");
      title.setAttribute("aria-sort", up ? "ascending" : "descending");
      const key = (row) => { const cell = row.cells[column]; return cell.dataset.value ? Number(cell.dataset.value) : cell.textContent; };
      const less = (a, b) => (typeof a === "number" && typeof b === "number" ? a - b : String(a).localeCompare(String(b)));
      [...body.rows].sort((a, b) => (up ? 1 : -1) * less(key(a), key(b))).forEach((row) => body.append(row));
    });
  }

  // --- start: what is changed before figures have their size leaves marks on them ---
  const waiting = setInterval(() => {
    if (models().length === 0 || !Bokeh.documents.every((doc) => doc.is_idle)) return;
    clearInterval(waiting);
    wear(preferred.matches);
    choose();
    root.dataset.ready = "yes";
  }, 20);
})();
