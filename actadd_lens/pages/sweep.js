/* The page of a sweep. */
(() => {
  const data = JSON.parse(byId("data").textContent);
  const at = { metric: 0, pair: 0, layer: 0, coefficient: 0, position: 0 };
  const metric = () => data.metrics[at.metric];
  const cell = (table, layer = at.layer, coefficient = at.coefficient) => table[at.pair][layer][coefficient][at.position];
  const unit = () => (metric().unit ? ` ${metric().unit}` : "");

  function sentence(layer, coefficient) {
    const one = metric(), p = cell(one.p, layer, coefficient);
    const interval = one.covers === "nothing" ? "no interval, because there is only one number" : `95 % interval ${shown(cell(one.low, layer, coefficient))} to ${shown(cell(one.high, layer, coefficient))} over ${one.covers}`;
    const tested = p === null ? "" : `; adjusted p = ${shown(p)} against ${data.nulls} null vectors`;
    const verdict = one.covers === "nothing" && p === null ? "not tested" : cell(one.significant, layer, coefficient) ? "significant after correction" : "not significant after correction";
    return `Layer ${data.layers[layer]}, coefficient ${shown(data.coefficients[coefficient])}: effect ${shown(cell(one.effect, layer, coefficient), true)}${unit()}, ${interval}${tested}; ${verdict}.`;
  }

  function drawMap() {
    const one = metric();
    const largest = Math.max(1e-12, ...data.layers.flatMap((_, layer) => data.coefficients.map((_, coefficient) => Math.abs(cell(one.effect, layer, coefficient) ?? 0))));
    const head = make("tr", { role: "row" }, make("th", { scope: "col", role: "columnheader" }, "layer"), ...data.coefficients.map((value) => make("th", { scope: "col", role: "columnheader" }, shown(value))));
    const rows = data.layers.map((layer, row) => make("tr", { role: "row" }, make("th", { scope: "row", role: "rowheader" }, String(layer)), ...data.coefficients.map((_, column) => {
      const told = sentence(row, column);
      const box = make("td", { role: "gridcell", tabindex: "-1", title: told, "aria-label": told, class: cell(one.significant, row, column) ? "" : "weak", "data-place": `${row},${column}`, onclick: () => go(row, column, true), onmouseenter: () => { byId("hover").textContent = told; } }, shown(cell(one.effect, row, column), true));
      box.style.backgroundColor = shade(cell(one.effect, row, column), largest);
      return box;
    })));
    byId("caption").textContent = `${one.name}, steered − unsteered${unit() ? `, in${unit()}` : ""}; rows are injection layers, columns injection coefficients`;
    byId("map").replaceChildren(make("thead", {}, head), make("tbody", {}, ...rows));
    byId("rule").textContent = `Orange: above zero; blue: below. Hatched: not significant after correction over the whole grid${data.nulls ? ` (${data.nulls} null vectors, ${data.null_kind.replaceAll("_", " ")})` : " (flipped signs; no null vectors were run)"}, or the interval contains zero.`;
  }

  function drawLayers() {
    const one = metric(), [width, height, left, bottom] = [640, 236, 84, 50];
    const order = data.layers.map((_, index) => index).sort((a, b) => data.layers[a] - data.layers[b]);
    const values = order.flatMap((layer) => [cell(one.effect, layer), cell(one.low, layer), cell(one.high, layer), 0]).filter((value) => value !== null);
    const least = Math.min(...values), most = Math.max(...values);
    const x = (place) => left + ((place + 0.5) / order.length) * (width - left - 8);
    const y = (value) => 8 + ((most - value) / (most - least || 1)) * (height - bottom - 16);
    const picture = draw("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": `Effect over layers at coefficient ${data.coefficients[at.coefficient]}; the table above holds the numbers.` });
    picture.append(draw("line", { x1: left, x2: width, y1: y(0), y2: y(0), stroke: "var(--soft)", "stroke-dasharray": "3 3" }));
    order.forEach((layer, place) => {
      const effect = cell(one.effect, layer), low = cell(one.low, layer), high = cell(one.high, layer);
      if (low !== null && high !== null) picture.append(draw("line", { x1: x(place), x2: x(place), y1: y(low), y2: y(high), stroke: "var(--steered)", "stroke-width": 2, "stroke-opacity": 0.6 }));
      if (effect !== null) picture.append(draw("circle", { cx: x(place), cy: y(effect), r: layer === at.layer ? 6 : 3.5, fill: "var(--steered)" }));
      if (order.length <= 24 || place % Math.ceil(order.length / 24) === 0) picture.append(draw("text", { x: x(place), y: height - 28, "text-anchor": "middle" }, String(data.layers[layer])));
    });
    for (const value of [least, most]) picture.append(draw("text", { x: left - 6, y: Math.max(18, y(value) + 4), "text-anchor": "end" }, shown(value)));
    picture.append(draw("text", { x: (width + left) / 2, y: height - 2, "text-anchor": "middle" }, "injection layer"));
    byId("layers-title").textContent = `Over layers, at coefficient ${shown(data.coefficients[at.coefficient])}`;
    byId("layers").replaceChildren(picture);
  }

  function drawTexts() {
    if (!data.texts) return;
    const steered = cell(data.texts.steered);
    const rows = steered.map((text, prompt) => make("tr", {}, ...[data.prompts[prompt], data.texts.unsteered[prompt], text].map((part) => { const box = make("td", {}, part); box.style.cssText = "white-space:pre-wrap;text-align:left;min-width:9rem"; return box; })));
    const head = make("tr", {}, ...["prompt", "unsteered", "steered"].map((name) => make("th", { scope: "col" }, name)));
    const left = data.texts.left_out ? ` ${data.texts.left_out} prompts are left out to keep the page small.` : "";
    byId("texts").replaceChildren(make("details", { open: true }, make("summary", {}, `Texts in this cell, the first sample of each prompt.${left}`), make("div", { class: "scroll" }, make("table", {}, make("thead", {}, head), make("tbody", {}, ...rows)))));
  }

  function show() {
    const one = metric();
    byId("layer").value = at.layer;
    byId("coefficient").value = at.coefficient;
    byId("layer-told").textContent = data.layers[at.layer];
    byId("coefficient-told").textContent = shown(data.coefficients[at.coefficient]);
    for (const box of byId("map").querySelectorAll("td")) {
      const here = box.dataset.place === `${at.layer},${at.coefficient}`;
      box.classList.toggle("here", here);
      box.tabIndex = here ? 0 : -1;
      box.setAttribute("aria-selected", here);
    }
    byId("cell-title").textContent = `Layer ${data.layers[at.layer]}, coefficient ${shown(data.coefficients[at.coefficient])}`;
    byId("sentence").textContent = sentence(at.layer, at.coefficient);
    const interval = one.covers === "nothing" ? { low: null, high: null } : { low: cell(one.low), high: cell(one.high) };
    byId("picture").replaceChildren(effectPicture({ mean: cell(one.effect) ?? 0, ...interval, nulls: cell(one.nulls) }, sentence(at.layer, at.coefficient)));
    const rows = data.prompts.map((prompt, index) => make("tr", {}, make("td", {}, shown(cell(one.by_prompt)[index], true)), make("td", { style: "white-space:normal;text-align:left" }, prompt)));
    byId("prompts").replaceChildren(make("table", {}, make("thead", {}, make("tr", {}, make("th", { scope: "col" }, "effect"), make("th", { scope: "col" }, "prompt"))), make("tbody", {}, ...rows)));
    drawTexts();
    drawLayers();
  }

  function go(layer, coefficient, focus) {
    at.layer = Math.max(0, Math.min(data.layers.length - 1, layer));
    at.coefficient = Math.max(0, Math.min(data.coefficients.length - 1, coefficient));
    show();
    if (focus) byId("map").querySelector("td.here").focus();
  }

  function choose(id, names) {
    byId(id).replaceChildren(...names.map((name, index) => make("option", { value: index }, name)));
    byId(`${id}-row`).hidden = names.length < 2;
    byId(id).addEventListener("change", () => { at[id] = Number(byId(id).value); drawMap(); show(); });
  }

  byId("title").textContent = data.title;
  byId("told").textContent = data.told;
  choose("metric", data.metrics.map((one) => one.name));
  choose("pair", data.pairs);
  choose("position", data.positions);
  for (const name of ["layer", "coefficient"]) {
    byId(name).max = data[`${name}s`].length - 1;
    byId(name).addEventListener("input", () => { at[name] = Number(byId(name).value); show(); });
  }
  byId("map").addEventListener("keydown", (event) => {
    const step = { ArrowDown: [1, 0], ArrowUp: [-1, 0], ArrowRight: [0, 1], ArrowLeft: [0, -1] }[event.key];
    if (!step) return;
    event.preventDefault();
    go(at.layer + step[0], at.coefficient + step[1], true);
  });
  drawMap();
  const sizes = data.layers.flatMap((_, layer) => data.coefficients.map((_, coefficient) => [Math.abs(cell(metric().effect, layer, coefficient) ?? 0), layer, coefficient]));
  const largest = sizes.reduce((best, one) => (one[0] > best[0] ? one : best));
  go(largest[1], largest[2], false);
  document.body.dataset.ready = "yes";
})();
