/* The page of a trace. */
(() => {
  const data = JSON.parse(byId("data").textContent);
  const heads = data.parts[0].length - 1;
  const at = { layer: 0, column: 0 };
  const unit = data.unit ? ` ${data.unit}` : "";
  const named = (column) => (column < heads ? `head ${column}` : "MLP");
  const names = data.tokens.map(visible);

  function sentence(layer, column) {
    const part = data.parts[layer][column];
    const nulls = part.p === undefined || part.p === null ? "" : `; null vectors: ${shown(part.null_mean, true)} ± ${shown(part.null_sd)}, adjusted p = ${shown(part.p)}, ${part.p <= 0.05 ? "significant" : "not significant"} after correction`;
    return `Layer ${data.first + layer}, ${named(column)}: adds ${shown(part.value, true)}${unit} to ${data.metric} directly${nulls}.`;
  }

  function drawMap() {
    const largest = Math.max(1e-12, ...data.parts.flat().map((part) => Math.abs(part.value ?? 0)));
    const columns = Array.from({ length: heads + 1 }, (_, column) => column);
    const head = make("tr", { role: "row" }, make("th", { scope: "col", role: "columnheader" }, "layer"), ...columns.map((column) => make("th", { scope: "col", role: "columnheader" }, named(column))));
    const rows = data.parts.map((row, layer) => make("tr", { role: "row" }, make("th", { scope: "row", role: "rowheader" }, String(data.first + layer)), ...columns.map((column) => {
      const told = sentence(layer, column), p = row[column].p;
      const box = make("td", { role: "gridcell", tabindex: "-1", title: told, "aria-label": told, class: data.nulls > 1 && !(p !== null && p <= 0.05) ? "weak" : "", "data-place": `${layer},${column}`, onclick: () => go(layer, column, true), onmouseenter: () => { byId("hover").textContent = told; } }, shown(row[column].value, true));
      box.style.backgroundColor = shade(row[column].value, largest);
      return box;
    })));
    byId("caption").textContent = `Direct contribution to ${data.metric}, steered − unsteered${unit ? `, in${unit}` : ""}, taken at the ${data.at} model`;
    byId("map").replaceChildren(make("thead", {}, head), make("tbody", {}, ...rows));
    byId("rule").textContent = data.nulls > 1 ? `Hatched: not significant after correction over all components (${data.nulls} null vectors).` : "No null vectors were run, so nothing here is tested: the largest of many parts is large in a null vector's trace too.";
  }

  function drawSum() {
    const sums = data.parts.map((row) => row.reduce((sum, part) => sum + (part.value ?? 0), 0));
    const told = { [data.metric]: `${shown(data.unsteered)} unsteered, ${shown(data.steered)} steered: change ${shown(data.steered - data.unsteered, true)}${unit}`, "heads and MLPs": shown(sums.reduce((sum, value) => sum + value, 0), true) };
    for (const [name, value] of Object.entries(data.rest)) told[name] = shown(Math.abs(value) > 1e-5 ? value : 0, true);
    byId("sum").replaceChildren(...Object.entries(told).flatMap(([name, value]) => [make("dt", {}, name), make("dd", {}, value)]));
  }

  function show() {
    byId("layer").value = at.layer;
    byId("column").value = at.column;
    byId("layer-told").textContent = data.first + at.layer;
    byId("column-told").textContent = named(at.column);
    for (const box of byId("map").querySelectorAll("td")) {
      const here = box.dataset.place === `${at.layer},${at.column}`;
      box.classList.toggle("here", here);
      box.tabIndex = here ? 0 : -1;
      box.setAttribute("aria-selected", here);
    }
    const isHead = at.column < heads;
    const changes = isHead ? data.head_change[at.layer][at.column] : data.mlp_change[at.layer];
    byId("part-title").textContent = `Layer ${data.first + at.layer}, ${named(at.column)}`;
    byId("sentence").textContent = sentence(at.layer, at.column);
    byId("change").replaceChildren(barPicture(names, changes, "Norm of the change of what it writes, at each token; the table below holds the numbers."));
    byId("attention-part").hidden = !isHead;
    const columns = [["token", names], ["norm of the change", changes.map((value) => shown(value))]];
    if (isHead) {
      const paid = data.attention_steered[at.layer][at.column], plain = data.attention_unsteered[at.layer][at.column];
      byId("attention").replaceChildren(mirrored(paid, plain));
      columns.push(["attention steered", paid.map((value) => shown(value))], ["attention unsteered", plain.map((value) => shown(value))]);
    }
    byId("numbers").replaceChildren(make("table", {}, make("thead", {}, make("tr", {}, ...columns.map(([name]) => make("th", { scope: "col" }, name)))), make("tbody", {}, ...names.map((_, index) => make("tr", {}, ...columns.map(([, values]) => make("td", {}, values[index])))))));
  }

  function mirrored(up, down) {
    const both = names.flatMap((name) => [name, ""]);
    return barPicture(both, up.flatMap((value, index) => [value, -down[index]]), "Attention to the injected tokens, steered above and unsteered below the line; the table below holds the numbers.");
  }

  function go(layer, column, focus) {
    at.layer = Math.max(0, Math.min(data.parts.length - 1, layer));
    at.column = Math.max(0, Math.min(heads, column));
    show();
    if (focus) byId("map").querySelector("td.here").focus();
  }

  byId("title").textContent = data.title;
  byId("told").textContent = data.vectors.join(" and ");
  byId("tokens").replaceChildren(...names.map((name, index) => {
    const chip = make("span", { class: "chip", role: "listitem" }, name, make("small", {}, String(index)));
    if (data.injected.includes(index)) { chip.style.backgroundColor = shade(1, 1); chip.title = "the vector lands here"; }
    return chip;
  }));
  drawSum();
  drawMap();
  byId("layer").max = data.parts.length - 1;
  byId("column").max = heads;
  for (const name of ["layer", "column"]) byId(name).addEventListener("input", () => { at[name] = Number(byId(name).value); show(); });
  byId("map").addEventListener("keydown", (event) => {
    const step = { ArrowDown: [1, 0], ArrowUp: [-1, 0], ArrowRight: [0, 1], ArrowLeft: [0, -1] }[event.key];
    if (!step) return;
    event.preventDefault();
    go(at.layer + step[0], at.column + step[1], true);
  });
  const all = data.parts.flatMap((row, layer) => row.map((part, column) => [Math.abs(part.value ?? 0), layer, column]));
  const largest = all.reduce((best, one) => (one[0] > best[0] ? one : best));
  go(largest[1], largest[2], false);
  document.body.dataset.ready = "yes";
})();
