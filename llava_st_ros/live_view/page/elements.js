// Elements and texts. Texts of the node are set as text, never as HTML; the server bounds them.

const MAX_CLAMPED = 500; // characters of a text of which three lines are shown
const MAX_JOINED = 2000; // characters of a line that is made of several texts

/** The beginning of a text that is longer than the limit. */
export function cut(text, limit = MAX_JOINED) {
  if (text.length <= limit) return text;
  return `${text.slice(0, limit - 1).replace(/[\uD800-\uDBFF]$/, "")}…`; // no half of a character
}

/** Show a text; one that is shown already is not rendered again. */
export function setText(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

export function element(name, properties = {}, ...children) {
  const node = document.createElement(name);
  for (const [key, value] of Object.entries(properties)) node[key] = value;
  node.append(...children);
  return node;
}

/** Show the first lines of a text, with the others in the node's title; returns the node. */
export function setClamped(node, text) {
  node.title = text;
  node.textContent = cut(text, MAX_CLAMPED); // the browser would lay out all lines
  return node;
}

/** Let a table have these rows of texts, the longest first; what is as before is not rendered again. */
export function setRows(body, rows) {
  while (body.rows.length > rows.length) body.lastElementChild.remove();
  rows.forEach((texts, index) => {
    const line = body.rows[index] ?? body.appendChild(emptyRow(texts.length));
    texts.forEach((text, column) => {
      const cell = column ? line.cells[column] : line.cells[0].firstChild;
      if (cell.title !== text) setClamped(cell, text);
    });
  });
}

function emptyRow(columns) {
  const others = Array.from({ length: columns - 1 }, () => element("td"));
  return element("tr", {}, element("td", { className: "text" }, element("span")), ...others);
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
