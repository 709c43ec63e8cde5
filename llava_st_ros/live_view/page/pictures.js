// The picture of each camera with the boxes of its tracks.

import { age, cut, decimals, element, setRows, setText } from "./elements.js";

const COLORS = ["#ff6b6b", "#4dabf7", "#51cf66", "#ffa94d", "#cc8bff", "#22d3d8", "#ff8ac4", "#c0d236"];
const SVG = "http://www.w3.org/2000/svg";
const SILENT_S = 2;
const RATE_S = 3; // over which the rate is counted
const MAX_LABEL = 40; // characters
const DROPPED_S = 5; // for which it is said that images were not shown
const FONT = 13; // CSS pixels
const SOURCES = { GROUNDED: "model", PROPAGATED: "propagated", LOST: "lost" };

const MAX_COLORS = 1000;
const colors = new Map(); // by query
let next = 0;

function colorOf(query) {
  if (!colors.has(query)) colors.set(query, COLORS[next++ % COLORS.length]);
  if (colors.size > MAX_COLORS) colors.delete(colors.keys().next().value);
  return colors.get(query);
}

export class CameraView {
  constructor(name) {
    this.name = name;
    this.bitmap = null;
    this.stamp = 0; // of the picture
    this.tracks = [];
    this.lastNumber = null; // of the last picture; null: those before do not count as dropped
    this.dropped = []; // [when, how many] pictures were not shown
    this.times = []; // when pictures were shown
    this.arrival = null; // of the camera's last image, on this page's clock
    this.health = {};
    this.canvas = element("canvas", { width: 4, height: 1, role: "img" });
    this.svg = document.createElementNS(SVG, "svg");
    this.svg.setAttribute("aria-hidden", "true");
    this.silent = element("p", { className: "silent" });
    this.stage = element("div", { className: "stage" }, this.canvas, this.svg, this.silent);
    this.facts = element("span", { className: "note" });
    this.problem = element("span", { className: "note problem" });
    this.more = element("p", { className: "note" });
    this.body = element("tbody");
    const head = ["Text", "Track", "State", "Confidence", "Age (s)", "Query"];
    this.table = element(
      "table",
      {},
      element("caption", { className: "spoken", textContent: `Tracks of camera ${name}` }),
      element("thead", {}, element("tr", {}, ...head.map((text) => element("th", { scope: "col", textContent: text })))),
      this.body,
    );
    this.root = element(
      "figure",
      {},
      this.stage,
      element("figcaption", {}, element("h3", { textContent: name }), this.facts, this.problem),
      element("div", { className: "scroll" }, this.table),
      this.more,
    );
    new ResizeObserver(() => this.drawBoxes()).observe(this.stage);
  }

  /** Show an update; the promise is fulfilled once it is drawn. */
  async update(values, data, isPaused) {
    this.health = values.health ?? this.health;
    this.arrival = values.age === null ? null : performance.now() - 1000 * values.age;
    let failure = "";
    if (data) {
      const dropped = this.lastNumber === null || isPaused ? 0 : values.number - this.lastNumber - 1;
      if (dropped > 0) this.dropped.push([performance.now(), dropped]);
      this.lastNumber = values.number;
      try {
        const bitmap = await createImageBitmap(new Blob([data], { type: "image/jpeg" }));
        this.bitmap?.close();
        this.bitmap = bitmap;
        this.stamp = values.stamp;
        this.drawPicture();
      } catch {
        failure = "this browser cannot show the last image";
      }
    }
    if ("tracks" in values) {
      this.tracks = values.tracks?.tracks ?? [];
      setText(this.more, values.tracks?.hidden ? `${values.tracks.hidden} more tracks are not shown` : "");
    }
    if (data || "tracks" in values) {
      this.renderTracks();
      this.drawBoxes();
    }
    const health = this.health.level && this.health.level !== "ok" ? this.health.message : "";
    const unreadable = values.unreadable ? `${values.unreadable} images unreadable: ${values.problem}` : "";
    setText(this.problem, [failure, values.problem ? unreadable : "", health].filter(Boolean).join("; "));
    this.renderFacts();
  }

  /** Remove it from the page. */
  close() {
    this.root.remove();
    this.bitmap?.close();
  }

  drawPicture() {
    const { bitmap, canvas } = this;
    if (canvas.width !== bitmap.width || canvas.height !== bitmap.height) {
      canvas.width = bitmap.width;
      canvas.height = bitmap.height;
    }
    canvas.getContext("2d").drawImage(bitmap, 0, 0);
    canvas.dataset.stamp = this.stamp;
    this.times.push(performance.now());
  }

  drawBoxes() {
    const { svg, bitmap } = this;
    svg.replaceChildren();
    if (!bitmap) return;
    const { width, height } = bitmap;
    svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
    const scale = Math.max(width / (svg.clientWidth || width), height / (svg.clientHeight || height));
    const size = FONT * scale;
    const isValid = (track) => track.image.every((value) => value > 0) && !track.box.includes(null);
    const drawn = this.tracks.filter(isValid).map((track) => this.drawBox(track, width, height, scale));
    // All lengths are read before a label is moved, so that the browser lays the page out once.
    const lengths = drawn.map(({ text }) => text.getComputedTextLength());
    const labels = []; // where they are
    drawn.forEach(({ text, x, y }, index) => {
      const length = lengths[index];
      const left = Math.max(0, Math.min(x, width - length));
      let bottom = Math.max(size, y - size * 0.35);
      const isTaken = () =>
        labels.some(([x, y, w]) => left < x + w && x < left + length && Math.abs(y - bottom) < size * 1.1);
      while (isTaken() && bottom < height) bottom += size * 1.2;
      labels.push([left, bottom, length]);
      text.setAttribute("x", left);
      text.setAttribute("y", bottom);
    });
  }

  /** Draw a box, and its label, which has no place yet; returns the label and the box's corner. */
  drawBox(track, width, height, scale) {
    // Where the pictures of the topic have another size than the node's.
    const [sx, sy] = [width / track.image[0], height / track.image[1]];
    const [x1, y1, x2, y2] = track.box.map((value, side) => value * (side % 2 ? sy : sx));
    const color = colorOf(track.query_id);
    const box = { x: x1, y: y1, width: Math.max(0, x2 - x1), height: Math.max(0, y2 - y1) };
    this.add("rect", { class: `under ${track.state}`, ...box });
    this.add("rect", { class: `box ${track.state}`, ...box, stroke: color, "data-track": track.track_id });
    const text = this.add("text", { fill: color, "font-size": FONT * scale, "stroke-width": 3 * scale });
    text.textContent = this.label(track);
    return { text, x: x1, y: y1 };
  }

  label(track) {
    const text = cut(track.label, MAX_LABEL);
    const late = this.lateness(track);
    const source = SOURCES[track.state] ?? track.state;
    return `${text} ${decimals(track.confidence, 2)} ${source}${late >= 0.05 ? `, ${late.toFixed(1)} s old` : ""}`;
  }

  /** By how many seconds a box is older than the picture. */
  lateness(track) {
    return this.stamp ? Math.max(0, (this.stamp - track.stamp) / 1e9) : 0;
  }

  add(name, attributes) {
    const node = document.createElementNS(SVG, name);
    for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
    this.svg.append(node);
    return node;
  }

  renderTracks() {
    this.table.hidden = !this.tracks.length;
    const rows = this.tracks.map((track) => [
      track.label,
      String(track.track_id),
      track.state,
      decimals(track.confidence, 2),
      this.lateness(track).toFixed(1),
      track.query_id,
    ]);
    setRows(this.body, rows);
    const names = this.tracks.map((track) => this.label(track)).join("; ");
    this.canvas.ariaLabel = cut(`Camera ${this.name}: ${names || "no tracks"}`);
  }

  /** Update what changes with time. */
  renderFacts() {
    const now = performance.now();
    const since = this.arrival === null ? null : Math.max(0, (now - this.arrival) / 1000);
    while (this.times.length && now - this.times[0] > 1000 * RATE_S) this.times.shift();
    const isSilent = since === null || since > SILENT_S;
    const facts = [];
    if (this.bitmap) facts.push(`${this.bitmap.width}×${this.bitmap.height}`);
    facts.push(`${(this.times.length / RATE_S).toFixed(1)} images/s`);
    facts.push(since === null ? "no image yet" : `last image ${age(since)} ago`);
    while (this.dropped.length && now - this.dropped[0][0] > 1000 * DROPPED_S) this.dropped.shift();
    const dropped = this.dropped.reduce((sum, [, count]) => sum + count, 0);
    if (dropped) facts.push(`${dropped} not shown: this page or the network is slower`);
    setText(this.facts, facts.join(", "));
    this.stage.classList.toggle("stale", isSilent);
    this.silent.hidden = !isSilent;
    const source = this.health.topic || this.name;
    setText(this.silent, since === null ? `No image yet from ${source}` : `No image for ${age(since)}`);
  }
}
