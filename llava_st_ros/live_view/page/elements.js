// Elements and texts. Texts of the node are set as text, never as HTML.

const MAX_TEXT = 2000; // characters, as of a query; a page with more of them stops responding

/** The beginning of a text that is longer than the limit. */
export function cut(text, limit = MAX_TEXT) {
  return text.length > limit ? `${text.slice(0, limit - 1)}…` : text;
}

/** Show a text that may have any length. */
export function setText(node, text) {
  const shown = cut(text);
  if (node.textContent !== shown) node.textContent = shown;
}

export function element(name, properties = {}, ...children) {
  const node = document.createElement(name);
  for (const [key, value] of Object.entries(properties)) node[key] = typeof value === "string" ? cut(value) : value;
  node.append(...children);
  return node;
}

/** A row of a table, whose first cell is the longest text. */
export function row(text, ...others) {
  const cells = others.map((other) => element("td", { textContent: other, title: other }));
  const longest = element("td", { className: "text" }, element("span", { textContent: text, title: text }));
  return element("tr", {}, longest, ...cells);
}

/** A number with decimals; null is one that is not finite. */
export function decimals(value, digits) {
  return value === null ? "not a number" : value.toFixed(digits);
}

/** Seconds, with tenths below ten. */
export function age(seconds) {
  return `${seconds.toFixed(seconds < 10 ? 1 : 0)} s`;
}

const FIRST_CLOCK = 1e18; // ns; earlier stamps are of a simulation, not of a clock

/** The local time of day of a stamp in ns; of a simulation, its seconds. */
export function timeText(stamp) {
  if (stamp < FIRST_CLOCK) return `${(stamp / 1e9).toFixed(1)} s`;
  const time = new Date(stamp / 1e6);
  const two = (value) => String(value).padStart(2, "0");
  const clock = [time.getHours(), time.getMinutes(), time.getSeconds()].map(two).join(":");
  return `${clock}.${Math.floor(time.getMilliseconds() / 100)}`;
}
