// Objects and queries over time: where objects are visible, keyframes, and spans of queries.

import { runs } from "./track.js";

const RULER = 20; // CSS pixels
const ROW = 20;
const NAMES = [90, 160]; // width of the names, least and most
const STEPS = [0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 1800, 3600, 7200, 21600, 86400]; // s

export class Timeline extends EventTarget {
  /** Events: "seek" {frame}, "select" {kind, id}. */
  constructor(canvas, annotations) {
    super();
    this.canvas = canvas;
    this.annotations = annotations;
    this.frame = 0;
    this.range = 0; // seconds that are shown; 0 for all
    this.selectedObject = null;
    this.selectedQuery = null;
    this.pendingStart = null; // stamp of a span that has no end yet
    this.parts = new WeakMap();
    canvas.addEventListener("pointerdown", (event) => {
      canvas.setPointerCapture(event.pointerId);
      this.isDragging = true;
      const row = this.rows()[Math.floor((event.offsetY - RULER) / ROW)];
      if (row) this.dispatchEvent(new CustomEvent("select", { detail: row }));
      this.seek(event);
    });
    canvas.addEventListener("pointermove", (event) => this.isDragging && this.seek(event));
    for (const name of ["pointerup", "pointercancel"]) {
      canvas.addEventListener(name, () => (this.isDragging = false));
    }
    new ResizeObserver(() => this.render()).observe(canvas.parentElement);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.render());
  }

  get camera() {
    return this.annotations.camera;
  }

  rows() {
    const { objects, queries } = this.annotations;
    return [
      ...[...objects.values()].map(({ id }) => ({ kind: "objects", id })),
      ...[...queries.values()].map(({ id }) => ({ kind: "queries", id })),
    ];
  }

  /** The times (ns from the first frame) at the left and right edge. */
  limits() {
    const { times } = this.camera;
    const length = times.at(-1) || 1;
    const shown = this.range * 1e9;
    if (!this.range || shown >= length) return [0, length];
    const from = Math.max(0, Math.min(length - shown, times[this.frame] - shown / 2));
    return [from, from + shown];
  }

  seek(event) {
    const { times } = this.camera;
    const [from, to] = this.isDragging && this.frozen ? this.frozen : this.limits();
    this.frozen = [from, to]; // the view must not move under the pointer
    const { names, width } = this;
    const share = Math.max(0, Math.min(1, (event.offsetX - names) / (width - names)));
    const frame = nearest(times, from + share * (to - from));
    this.dispatchEvent(new CustomEvent("seek", { detail: { frame } }));
  }

  render() {
    const { canvas, camera } = this;
    if (!camera) return;
    if (!this.isDragging) this.frozen = null;
    const rows = this.rows();
    const width = canvas.parentElement.clientWidth;
    const names = Math.max(NAMES[0], Math.min(NAMES[1], width * 0.2));
    Object.assign(this, { names, width });
    const height = RULER + Math.max(1, rows.length) * ROW;
    const ratio = devicePixelRatio || 1;
    canvas.style.height = `${height}px`;
    canvas.width = Math.round(width * ratio);
    canvas.height = Math.round(height * ratio);
    const context = canvas.getContext("2d");
    context.scale(ratio, ratio);
    const style = getComputedStyle(canvas);
    this.ink = style.getPropertyValue("--ink").trim();
    this.soft = style.getPropertyValue("--soft").trim();
    this.line = style.getPropertyValue("--line").trim();
    this.accent = style.getPropertyValue("--accent").trim();
    context.font = `11px ${style.fontFamily}`;
    context.textBaseline = "middle";
    const [from, to] = this.frozen ?? this.limits();
    const x = (time) => names + ((time - from) / (to - from)) * (width - names);
    this.drawRuler(context, from, to, x, height, width - names);
    rows.forEach((row, index) => {
      const top = RULER + index * ROW;
      const value = this.annotations.get(row.kind, row.id);
      const isSelected = row.id === (row.kind === "objects" ? this.selectedObject : this.selectedQuery);
      if (isSelected) {
        context.fillStyle = this.line;
        context.fillRect(0, top, width, ROW);
      }
      context.save();
      context.beginPath();
      context.rect(names, 0, width - names, height);
      context.clip();
      if (row.kind === "objects") this.drawObject(context, value, x, top);
      else this.drawQuery(context, value, x, top, isSelected);
      context.restore();
      const name = row.kind === "objects" ? value.label : value.text || "query without text";
      this.drawName(context, value.noMatch ? `no match: ${name}` : name, top);
    });
    context.fillStyle = this.accent;
    context.fillRect(x(camera.times[this.frame]) - 1, 0, 2, height);
  }

  drawRuler(context, from, to, x, height, width) {
    const seconds = (to - from) / 1e9;
    const step = STEPS.find((value) => (value / seconds) * width >= 70) ?? STEPS.at(-1);
    context.fillStyle = this.soft;
    context.strokeStyle = this.line;
    for (let at = Math.ceil(from / 1e9 / step) * step; at * 1e9 <= to; at += step) {
      const left = Math.round(x(at * 1e9)) + 0.5;
      context.beginPath();
      context.moveTo(left, 0);
      context.lineTo(left, height);
      context.stroke();
      context.fillText(clock(at, step < 1 ? 1 : 0), left + 4, RULER / 2);
    }
  }

  drawObject(context, object, x, top) {
    const { times } = this.camera;
    const color = this.annotations.color(object.id);
    if (!this.parts.has(object.track)) this.parts.set(object.track, runs(object.track.boxes.keys()));
    context.fillStyle = color;
    for (const [first, last] of this.parts.get(object.track)) {
      const left = x(times[first]);
      context.globalAlpha = 0.35;
      context.fillRect(left, top + 6, Math.max(2, x(times[last]) - left), ROW - 12);
    }
    context.globalAlpha = 1;
    for (const key of object.track.keys) context.fillRect(x(times[key]) - 1, top + 3, 2, ROW - 6);
  }

  drawQuery(context, query, x, top, isSelected) {
    const time = (stamp) => this.camera.timeOf(stamp);
    context.fillStyle = this.accent;
    context.globalAlpha = 0.6;
    for (const [start, end] of query.spans) {
      const left = x(time(start));
      context.fillRect(left, top + 5, Math.max(2, x(time(end)) - left), ROW - 10);
    }
    context.globalAlpha = 1;
    if (isSelected && this.pendingStart !== null) {
      const left = x(time(this.pendingStart));
      context.fillRect(left, top + 2, 2, ROW - 4);
      context.fillRect(left, top + 2, 7, 2);
      context.fillRect(left, top + ROW - 4, 7, 2);
    }
  }

  drawName(context, text, top) {
    let shown = text.slice(0, 60);
    while (shown && context.measureText(shown).width > this.names - 20) shown = shown.slice(0, -1);
    context.fillStyle = this.ink;
    context.fillText(shown.length < text.length ? `${shown}…` : text, 6, top + ROW / 2);
  }
}

/** The frame whose time is nearest. */
export function nearest(times, time) {
  let low = 0;
  let high = times.length - 1;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (times[middle] < time) low = middle + 1;
    else high = middle;
  }
  return low > 0 && time - times[low - 1] <= times[low] - time ? low - 1 : low;
}

/** Seconds as m:ss or h:mm:ss, with decimals. */
export function clock(seconds, decimals = 3) {
  const rounded = Number(Math.abs(seconds).toFixed(decimals));
  const hours = Math.floor(rounded / 3600);
  const minutes = Math.floor((rounded % 3600) / 60);
  const rest = (rounded % 60).toFixed(decimals).padStart(decimals ? decimals + 3 : 2, "0");
  const sign = seconds < 0 ? "-" : "";
  return sign + (hours ? `${hours}:${String(minutes).padStart(2, "0")}:${rest}` : `${minutes}:${rest}`);
}
