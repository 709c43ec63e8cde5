// The events: bars over time, and a table.

import { decimals, element, row, timeText } from "./elements.js";

const SHOWN_NS = 60e9; // of the bars
const MAX_EVENTS = 200; // as the server keeps them
const MAX_ROWS = 60; // of the table
const FINAL = ["ENDED", "RETRACTED"];
const USUAL_REASONS = ["NONE", "ANSWERS"];

export class Timeline {
  constructor(bars, body, note) {
    this.bars = bars;
    this.body = body;
    this.note = note;
    this.events = new Map(); // by id; the one that changed last is last
    this.newest = new Map(); // stamp by camera
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
  }

  render() {
    this.renderTable();
    this.renderBars();
  }

  renderTable() {
    const all = [...this.events.values()].reverse();
    const isFinal = (event) => FINAL.includes(event.state);
    const shown = [...all.filter((event) => !isFinal(event)), ...all.filter(isFinal)].slice(0, MAX_ROWS);
    this.body.replaceChildren(
      ...shown.map((event) => {
        const reason = USUAL_REASONS.includes(event.reason)
          ? ""
          : ` (${event.reason.toLowerCase().replaceAll("_", " ")})`;
        const seconds = ((event.end - event.start) / 1e9).toFixed(1);
        const line = row(
          event.text,
          event.state + reason,
          `${timeText(event.start)} - ${timeText(event.end)} (${seconds} s)`,
          decimals(event.confidence, 2),
          event.camera,
          event.query_id,
        );
        line.classList.toggle("over", isFinal(event));
        return line;
      }),
    );
    this.note.hidden = shown.length > 0;
  }

  /** Each camera has its own clock, so each row ends at the newest stamp of its camera. */
  renderBars() {
    const rows = new Map();
    for (const event of this.events.values()) {
      const end = this.newest.get(event.camera) ?? event.end;
      const from = end - SHOWN_NS;
      if (event.end < from || event.start > end) continue;
      const key = JSON.stringify([event.camera, event.query_id]);
      if (!rows.has(key)) rows.set(key, { event, bars: [] });
      const left = Math.max(0, (event.start - from) / SHOWN_NS);
      const right = Math.min(1, (event.end - from) / SHOWN_NS);
      const bar = element("span", { className: `bar ${event.state}` });
      bar.style.left = `${100 * left}%`;
      bar.style.width = `${100 * (right - left)}%`;
      rows.get(key).bars.push(bar);
    }
    const lines = [...rows.keys()].sort().map((key) => {
      const { event, bars } = rows.get(key);
      const name = `${event.text || event.query_id} (${event.camera})`;
      return element(
        "div",
        { className: "row" },
        element("span", { className: "name", textContent: name, title: name }),
        element("span", { className: "track" }, ...bars),
      );
    });
    if (lines.length) {
      const scale = ["60 s", "45 s", "30 s", "15 s", "now"].map((text) => element("span", { textContent: text }));
      lines.push(element("div", { className: "row" }, element("span"), element("span", { className: "scale" }, ...scale)));
    }
    this.bars.replaceChildren(...lines);
  }
}
