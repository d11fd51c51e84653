/* The page of the playground: reads its fields, asks the server, draws what comes back. */
(() => {
  let facts = null, upload = null, writing = null, pending = null, version = 0;

  const number = (id) => (byId(id).value === "" ? null : Number(byId(id).value));

  function settings() {
    return {
      prompt: byId("prompt").value, chat: byId("chat").checked, system: byId("system").value,
      method: byId("method").value, positive: byId("positive").value, negative: byId("negative").value,
      bos: byId("bos").checked, rows: byId("last-row").checked ? "last" : "all", norm: number("norm"), vector: upload,
      layer: number("layer"), coefficient: number("coefficient"), position: byId("position").value.trim(),
      max_new_tokens: number("tokens") ?? 1, temperature: number("temperature") ?? 0, top_p: number("top-p") ?? 1, seed: number("seed") ?? 0,
    };
  }

  function show(start) {
    for (const [name, id] of Object.entries({ prompt: "prompt", system: "system", method: "method", positive: "positive", negative: "negative", norm: "norm", layer: "layer", coefficient: "coefficient", position: "position", max_new_tokens: "tokens", temperature: "temperature", top_p: "top-p", seed: "seed" })) byId(id).value = start[name] ?? "";
    byId("chat").checked = start.chat;
    byId("bos").checked = start.bos;
    byId("last-row").checked = start.rows === "last";
  }

  function alarm(message) {
    byId("alarm").hidden = !message;
    byId("alarm").textContent = message ?? "";
  }

  async function ask(path, body, options = {}) {
    const headers = { "Content-Type": body instanceof ArrayBuffer ? "application/octet-stream" : "application/json" };
    const sent = body === undefined ? undefined : body instanceof ArrayBuffer ? body : JSON.stringify(body);
    let answer;
    try {
      answer = await fetch(path, { method: sent === undefined ? "GET" : "POST", headers, body: sent, ...options });
    } catch (error) {
      if (error.name === "AbortError") throw error;
      throw new Error("The playground no longer answers: is `actadd play` still running in its terminal?");
    }
    if (!answer.ok) throw new Error((await answer.json()).error);
    return answer;
  }

  function tell() {
    byId("layer-told").textContent = `${byId("layer").value} of 0 to ${facts.layers}`;
    byId("coefficient-told").textContent = shown(number("coefficient"));
    byId("hint").textContent = `Takes ${facts.methods[byId("method").value].hint}; spaces count.`;
    byId("reading-hint").textContent = facts.readings[byId("reading").value].hint;
    byId("prompt-label").textContent = byId("chat").checked ? "What the user says" : "The text that the model continues";
    for (const field of document.querySelectorAll(".pair")) field.hidden = byId("measured").value !== "difference";
  }

  /* -- where it lands ------------------------------------------------------------------------------------------ */

  async function look() {
    const mine = version;
    try {
      const found = await (await ask("look", settings())).json();
      if (mine !== version) return;
      alarm(null);
      const largest = Math.max(1e-9, ...found.tokens.map((token) => Math.max(0, ...token.rows.map((row) => row.relative))));
      byId("lands").replaceChildren(...found.tokens.map((token) => {
        const chip = make("span", { class: `chip ${token.part === "template" ? "template" : ""}`, role: "listitem", title: token.part }, visible(token.text));
        const total = token.rows.reduce((sum, row) => sum + row.relative, 0);
        chip.style.backgroundColor = shade(total, largest);
        for (const row of token.rows) chip.append(make("small", {}, `${row.row === null ? "every" : `row ${row.row}`}: ${shown(row.relative)}×`));
        return chip;
      }));
      byId("code").textContent = found.code;
      if (facts.readings[byId("reading").value].at_once) await read();
    } catch (error) {
      if (mine === version) alarm(error.message);
    }
  }

  /* Work that a button asks for: the button rests meanwhile, and the place of the result says so. */
  async function meanwhile(button, holder, told, work) {
    byId(button).disabled = true;
    byId(holder).replaceChildren(make("p", { class: "busy" }, told));
    try {
      await work();
      alarm(null);
    } catch (error) {
      byId(holder).replaceChildren();
      alarm(error.message);
    } finally {
      byId(button).disabled = false;
    }
  }

  const readNow = () => meanwhile("read", "lists", "Reading ", read);

  async function read() {
    const mine = version;
    const found = await (await ask("read", { settings: settings(), reading: byId("reading").value })).json();
    if (mine !== version || found.reading !== byId("reading").value) return;
    const largest = Math.max(1e-9, ...found.rows.flatMap((row) => [...row.promoted, ...row.demoted].map(([, size]) => Math.abs(size))));
    const line = (name, tokens) => make("div", { class: "chips" }, make("span", { class: "soft" }, name), ...tokens.map(([text, size]) => {
      const chip = make("span", { class: "chip" }, visible(text), make("small", {}, shown(size, true)));
      chip.style.backgroundColor = shade(size, largest);
      return chip;
    }));
    byId("lists").replaceChildren(
      make("p", { class: "soft" }, `Below each token: ${found.size}.`),
      ...found.rows.filter((row) => row.promoted.length).map((row) => make("div", {}, make("strong", {}, row.name), line("promoted", row.promoted), line("demoted", row.demoted))),
    );
    if (!found.rows.some((row) => row.promoted.length)) byId("lists").append(make("p", {}, "Every row of this vector is zero: it reads as nothing."));
  }

  /* -- texts --------------------------------------------------------------------------------------------------- */

  const change = (token) => token.steered - token.unsteered;
  const meaning = (token) => `“${visible(token.text)}” is ${shown(Math.exp(Math.abs(change(token))))} times ${change(token) >= 0 ? "as likely" : "less likely"} in the steered model: log-probability ${shown(token.steered)} steered, ${shown(token.unsteered)} unsteered (nats)`;

  function finished(found) {
    const all = [...found.steered.tokens, ...found.unsteered.tokens];
    const largest = Math.max(1, ...all.map((token) => Math.abs(change(token))));
    for (const condition of ["unsteered", "steered"]) tokenLine(byId(condition), found[condition].tokens, { value: change, tell: meaning, output: byId("token-told"), largest });
    byId("status").textContent = `Written: ${found.steered.tokens.length} tokens steered (ended by ${found.steered.finish}), ${found.unsteered.tokens.length} unsteered (${found.unsteered.finish}).`;
  }

  async function write() {
    writing?.abort();
    const mine = (writing = new AbortController());
    byId("stop").disabled = false;
    byId("status").textContent = "Writing …";
    if (byId("steered").getBoundingClientRect().top > innerHeight) byId("texts").scrollIntoView();
    for (const condition of ["unsteered", "steered"]) { byId(condition).replaceChildren(); byId(condition).classList.add("busy"); }
    try {
      const answer = await ask("write", settings(), { signal: mine.signal });
      const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
      let rest = "";
      for (;;) {
        const { done, value } = await reader.read();
        if (done) break;
        const lines = (rest + value).split("\n");
        rest = lines.pop();
        for (const line of lines) {
          const told = JSON.parse(line);
          if (told.error) throw new Error(told.error);
          if (told.written) finished(told.written);
          else for (const condition of ["unsteered", "steered"]) byId(condition).textContent = told[condition];
        }
      }
      alarm(null);
    } catch (error) {
      if (error.name === "AbortError") { if (mine === writing) byId("status").textContent = "Stopped."; }
      else { alarm(error.message); byId("status").textContent = ""; }
    } finally {
      if (mine === writing) {
        writing = null;
        byId("stop").disabled = true;
        for (const condition of ["unsteered", "steered"]) byId(condition).classList.remove("busy");
      }
    }
  }

  /* -- the effect ---------------------------------------------------------------------------------------------- */

  async function measure() {
    const asked = { settings: settings(), measure: byId("measured").value, nulls: number("nulls"), tokens: [byId("token-a").value, byId("token-b").value] };
    const found = await (await ask("measure", asked)).json();
    const sentence = `${found.label}: ${shown(found.unsteered)} unsteered, ${shown(found.steered)} steered; effect ${shown(found.mean, true)} [${shown(found.low)}, ${shown(found.high)}], 95 % interval over ${found.prompts} prompts; p = ${shown(found.p)} against ${found.nulls.length} null vectors (two-sided; with so many nulls p is at least ${shown(1 / (found.nulls.length + 1))}).`;
    byId("effect").replaceChildren(effectPicture(found, sentence), make("p", {}, sentence), make("p", { class: "soft" }, found.told));
  }

  const measureNow = () => meanwhile("measure", "effect", "Measuring the vector and each null vector ", measure);

  /* -- files --------------------------------------------------------------------------------------------------- */

  function useUpload(key, told) {
    upload = key;
    byId("file-told").textContent = told;
    byId("forget").hidden = !key;
    for (const id of ["method", "positive", "negative", "layer", "bos"]) byId(id).disabled = Boolean(key);
    changed();
  }

  async function take(file) {
    if (!file) return;
    try {
      const found = await (await ask("vector", await file.arrayBuffer())).json();
      useUpload(found.key, `${found.label}, layer ${found.layer}, ${found.rows} rows; the coefficient above multiplies its own.`);
    } catch (error) {
      byId("file").value = "";
      alarm(error.message);
    }
  }

  async function save() {
    try {
      const content = await (await ask("save", settings())).blob();
      const link = make("a", { href: URL.createObjectURL(content), download: "vector.safetensors" });
      link.click();
      URL.revokeObjectURL(link.href);
    } catch (error) {
      alarm(error.message);
    }
  }

  /* -- what happens when ----------------------------------------------------------------------------------------- */

  function changed() {
    version += 1;
    tell();
    if (!facts.readings[byId("reading").value].at_once) byId("lists").replaceChildren();
    clearTimeout(pending);
    pending = setTimeout(() => { look(); if (byId("at-once").checked) write(); }, 250);
  }

  async function begin() {
    try {
      facts = await (await ask("facts")).json();
    } catch (error) {
      alarm(error.message);
      return;
    }
    byId("model").textContent = `${facts.model}: ${facts.layers} layers, d_model ${facts.d_model}. It runs on this machine; nothing leaves it.`;
    const options = (id, named) => byId(id).replaceChildren(...Object.entries(named).map(([name, label]) => make("option", { value: name }, label)));
    options("method", Object.fromEntries(Object.entries(facts.methods).map(([name, one]) => [name, one.label])));
    options("reading", Object.fromEntries(Object.entries(facts.readings).map(([name, one]) => [name, one.label])));
    options("measured", facts.measures);
    byId("chat-fields").hidden = !facts.chat;
    byId("layer").max = facts.layers;
    byId("tokens").max = facts.most_tokens;
    byId("nulls").max = facts.most_nulls;
    byId("effect-hint").textContent = `The effect over ${facts.prompts} neutral prompts of the package, compared with vectors of unrelated pairs with the same row norms. It takes a while on larger models.`;
    show(facts.start);
    byId("settings").addEventListener("input", (event) => { if (event.target.type !== "file") changed(); });
    byId("settings").addEventListener("submit", (event) => { event.preventDefault(); look(); write(); });
    addEventListener("keydown", (event) => { if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) { event.preventDefault(); look(); write(); } });
    byId("stop").addEventListener("click", () => writing?.abort());
    byId("measured").addEventListener("change", tell);
    byId("measure").addEventListener("click", measureNow);
    byId("method").addEventListener("change", () => { byId("position").value = facts.methods[byId("method").value].position; changed(); });
    byId("reading").addEventListener("change", () => { tell(); byId("lists").replaceChildren(); if (facts.readings[byId("reading").value].at_once) readNow(); });
    byId("read").addEventListener("click", readNow);
    byId("file").addEventListener("change", (event) => take(event.target.files[0]));
    byId("forget").addEventListener("click", () => { byId("file").value = ""; useUpload(null, ""); });
    byId("save").addEventListener("click", save);
    tell();
    await look();
    document.body.dataset.ready = "yes";
  }

  begin();
})();
