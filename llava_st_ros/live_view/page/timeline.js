// The events: bars over time, and a table.

import { cut, decimals, element, setRows, setText, timeText } from "./elements.js";

const SHOWN_NS = 60e9; // of the bars
const MAX_EVENTS = 200; // as the server keeps them
const MAX_ROWS = 60; // of the table, and of the bars
const MAX_NAME = 100; // characters beside the bars
const MAX_CLOCKS = 1000;
const FINAL = ["ENDED", "RETRACTED"];
const USUAL_REASONS = ["NONE", "ANSWERS"];

export class Timeline {
  constructor(bars, body, note, more) {
    this.bars = bars;
    this.body = body;
    this.note = note;
    this.more = more;
    this.events = new Map(); // by id; the one that changed last is last
    this.newest = new Map(); // stamp by camera
    this.drawn = ""; // the bars, as JSON
    this.clear();
  }

  clear() {
    this.events.clear();
    this.newest.clear();
    this.render();
  }

  /** Add events that changed. */
  add(events) {
    for (const event of events) {
      this.events.delete(event.event_id);
      this.events.set(event.event_id, event);
      this.seen(event.camera, event.end);
    }
    while (this.events.size > MAX_EVENTS) this.events.delete(this.events.keys().next().value);
    this.renderTable();
  }

  /** A camera's clock has come to a stamp; it may have started again. */
  seen(camera, stamp) {
    const before = this.newest.get(camera) ?? 0;
    if (stamp > before || before - stamp > SHOWN_NS) this.newest.set(camera, stamp);
    if (this.newest.size > MAX_CLOCKS) this.newest.delete(this.newest.keys().next().value);
  }

  render() {
    this.renderTable();
    this.renderBars();
  }

  renderTable() {
    const all = [...this.events.values()].reverse();
    const isFinal = (event) => FINAL.includes(event.state);
    const shown = [...all.filter((event) => !isFinal(event)), ...all.filter(isFinal)].slice(0, MAX_ROWS);
    const rows = shown.map((event) => {
      const reason = USUAL_REASONS.includes(event.reason)
        ? ""
        : ` (${event.reason.toLowerCase().replaceAll("_", " ")})`;
      const seconds = ((event.end - event.start) / 1e9).toFixed(1);
      return [
        event.text,
        event.state + reason,
        `${timeText(event.start)} - ${timeText(event.end)} (${seconds} s)`,
        decimals(event.confidence, 2),
        event.camera,
        event.query_id,
      ];
    });
    setRows(this.body, rows);
    shown.forEach((event, index) => this.body.rows[index].classList.toggle("over", isFinal(event)));
    this.note.hidden = shown.length > 0;
    setText(this.more, all.length > shown.length ? `${all.length - shown.length} more events are not shown` : "");
  }

  /** Each camera has its own clock, so each row ends at the newest stamp of its camera. */
  renderBars() {
    const rows = new Map();
    for (const event of this.events.values()) {
      const end = this.newest.get(event.camera) ?? event.end;
      const from = end - SHOWN_NS;
      if (event.end < from || event.start > end) continue;
      const key = JSON.stringify([event.camera, event.query_id]);
      const name = `${event.text || event.query_id} (${event.camera})`;
      if (!rows.has(key)) rows.set(key, { key, name, bars: [] });
      const left = Math.max(0, (event.start - from) / SHOWN_NS);
      const right = Math.min(1, (event.end - from) / SHOWN_NS);
      rows.get(key).bars.push([event.state, `${100 * left}%`, `${100 * (right - left)}%`]);
    }
    const lines = [...rows.values()].slice(-MAX_ROWS).sort((a, b) => (a.key < b.key ? -1 : 1));
    const drawn = JSON.stringify(lines);
    if (drawn === this.drawn) return;
    this.drawn = drawn;
    this.bars.replaceChildren(...lines.map(line), ...(lines.length ? [scale()] : []));
  }
}

function line({ name, bars }) {
  const shown = bars.map(([state, left, width]) => {
    const bar = element("span", { className: `bar ${state}` });
    Object.assign(bar.style, { left, width });
    return bar;
  });
  return element(
    "div",
    { className: "row" },
    element("span", { className: "name", textContent: cut(name, MAX_NAME), title: name }),
    element("span", { className: "track" }, ...shown),
  );
}

function scale() {
  const times = ["60 s", "45 s", "30 s", "15 s", "now"].map((text) => element("span", { textContent: text }));
  return element("div", { className: "row" }, element("span"), element("span", { className: "scale" }, ...times));
}
