"use strict";
/* Shared by the playground and by saved pages: elements, numbers, colours, lines of tokens, the picture of an effect. */

const SVG = "http://www.w3.org/2000/svg";
const byId = (id) => document.getElementById(id);

function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (value === true) element.setAttribute(name, "");
    else if (value !== false && value !== null && value !== undefined) element.setAttribute(name, value);
  }
  element.append(...children);
  return element;
}

function draw(tag, attributes, text) {
  const element = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  if (text !== undefined) element.textContent = text;
  return element;
}

/* Three digits, a real minus, and a dash where there is no number. */
function shown(value, signed = false) {
  if (value === null || value === undefined || Number.isNaN(value)) return "–";
  const size = Math.abs(value);
  const digits = size !== 0 && (size < 1e-3 || size >= 1e5) ? value.toExponential(1) : String(Number(value.toPrecision(3)));
  return (signed && value > 0 ? "+" : "") + digits.replace("-", "−");
}

const visible = (text) => text.replaceAll(" ", "·").replaceAll("\n", "⏎").replaceAll("\t", "⇥") || "∅";

/* Orange above zero, blue below; as deep as the value is large. */
function shade(value, largest) {
  if (value === null || !Number.isFinite(value) || !largest) return "transparent";
  const depth = Math.min(1, Math.abs(value) / largest) * 0.62;
  return `rgba(var(--${value > 0 ? "rise" : "fall"}), ${depth.toFixed(3)})`;
}

/* A line of text whose tokens can be pointed at, and walked through with the arrow keys; `tell` says what one means. */
function tokenLine(holder, tokens, { value, tell, output, largest }) {
  holder.replaceChildren();
  const top = largest ?? Math.max(1e-9, ...tokens.map((token) => Math.abs(value(token))).filter(Number.isFinite));
  const spans = tokens.map((token, index) => {
    const span = make("span", { class: "token", title: tell(token), onclick: () => go(index) }, token.text);
    span.style.backgroundColor = shade(value(token), top);
    return span;
  });
  holder.append(...spans);
  holder.tabIndex = 0;
  let here = -1;
  function go(index) {
    if (!spans.length) return;
    if (here >= 0) spans[here].classList.remove("here");
    here = Math.max(0, Math.min(spans.length - 1, index));
    spans[here].classList.add("here");
    output.textContent = tell(tokens[here]);
  }
  holder.onkeydown = (event) => {
    const step = { ArrowRight: here + 1, ArrowLeft: here - 1, Home: 0, End: spans.length - 1 }[event.key];
    if (step === undefined) return;
    event.preventDefault();
    go(step);
  };
}

/* An effect with its interval, above the effects of its nulls. */
function effectPicture(effect, described) {
  const [width, height, left, right] = [640, 112, 96, 16];
  const numbers = [0, effect.mean, effect.low, effect.high, ...effect.nulls].filter((number) => Number.isFinite(number) && number !== null);
  const least = Math.min(...numbers), most = Math.max(...numbers), room = (most - least || 1) * 0.06;
  const x = (value) => left + ((value - least + room) / (most - least + 2 * room || 1)) * (width - left - right);
  const picture = draw("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": described });
  picture.append(draw("line", { x1: x(0), x2: x(0), y1: 8, y2: 82, stroke: "var(--soft)", "stroke-dasharray": "3 3" }));
  picture.append(draw("text", { x: 0, y: 32 }, "effect"));
  if (effect.low !== null && effect.high !== null)
    picture.append(draw("line", { x1: x(effect.low), x2: x(effect.high), y1: 28, y2: 28, stroke: "var(--steered)", "stroke-width": 3 }));
  picture.append(draw("circle", { cx: x(effect.mean), cy: 28, r: 6, fill: "var(--steered)" }));
  if (effect.nulls.length) picture.append(draw("text", { x: 0, y: 66 }, `${effect.nulls.length} nulls`));
  effect.nulls.forEach((value, index) => picture.append(draw("circle", { cx: x(value), cy: 57 + (index % 5) * 3, r: 3.2, fill: "var(--null)", "fill-opacity": 0.65 })));
  picture.append(draw("line", { x1: left, x2: width - right, y1: 84, y2: 84, stroke: "var(--line)" }));
  for (const value of [least, 0, most].filter((one, index, all) => all.findIndex((other) => Math.abs(x(other) - x(one)) < 50) === index))
    picture.append(draw("text", { x: x(value), y: 102, "text-anchor": "middle" }, shown(value)));
  return picture;
}

/* Bars side by side, one for each name; a table of the same numbers stands below for those who do not see them. */
function barPicture(names, values, described) {
  const [width, height, bottom] = [640, 150, 44];
  const largest = Math.max(1e-12, ...values.map((value) => Math.abs(value ?? 0)));
  const each = width / names.length, middle = values.some((value) => value < 0) ? (height - bottom) / 2 : height - bottom;
  const picture = draw("svg", { viewBox: `-40 0 ${width + 40} ${height}`, role: "img", "aria-label": described });
  values.forEach((value, index) => {
    const size = (Math.abs(value ?? 0) / largest) * (middle - 8), tall = Math.max(size, 0.5);
    const bar = draw("rect", { x: index * each + each * 0.12, width: each * 0.76, y: value >= 0 ? middle - tall : middle, height: tall, fill: value >= 0 ? "var(--steered)" : "var(--unsteered)" });
    bar.append(draw("title", {}, `${names[index]}: ${shown(value, true)}`));
    const at = (index + 0.5) * each, y = height - bottom + 14;
    picture.append(bar, draw("text", { x: at, y, "text-anchor": "end", transform: `rotate(-38 ${at} ${y})` }, names[index].slice(0, 10)));
  });
  picture.append(draw("line", { x1: 0, x2: width, y1: middle, y2: middle, stroke: "var(--line)" }));
  return picture;
}

/* Light or dark: as the system has it, until someone presses the button. */
(() => {
  const root = document.documentElement, system = matchMedia("(prefers-color-scheme: dark)");
  let chosen = null;
  const show = () => { root.dataset.theme = chosen ?? (system.matches ? "dark" : "light"); };
  system.addEventListener("change", show);
  show();
  addEventListener("DOMContentLoaded", () => {
    const button = byId("theme");
    if (!button) return;
    const name = () => { button.textContent = root.dataset.theme === "dark" ? "Light" : "Dark"; };
    button.addEventListener("click", () => { chosen = root.dataset.theme === "dark" ? "light" : "dark"; show(); name(); });
    system.addEventListener("change", name);
    name();
  });
})();
