// Elements and texts. Texts of the node are set as text, never as HTML.

export function element(name, properties = {}, ...children) {
  const node = Object.assign(document.createElement(name), properties);
  node.append(...children);
  return node;
}

/** A row of a table, whose first cell is the longest text. */
export function row(text, ...others) {
  const cells = others.map((other) => element("td", { textContent: other }));
  return element("tr", {}, element("td", { className: "text", textContent: text }), ...cells);
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
