// The objects and queries of one camera, with undo. Values are never modified: a change replaces
// them, so that undo keeps references only.

import { EMPTY, impliedEnds, runs } from "./track.js";

const COLORS = ["#ff6b6b", "#4dabf7", "#51cf66", "#ffa94d", "#cc8bff", "#22d3d8", "#ff8ac4", "#c0d236"];
const MAX_UNDO = 500;
const rounded = (value) => Math.round(value * 1000) / 1000;

export class Annotations extends EventTarget {
  /** camera: {topic, width, height, stamps, frameOf (Map of stamp to frame), times}. */
  constructor(camera) {
    super();
    this.camera = camera;
    this.objects = new Map();
    this.notes = []; // on the annotation file
    this.queries = new Map();
    this.takenIds = new Set();
    this.colors = new Map();
    this.undone = [];
    this.done = [];
  }

  /** Replace everything by what the server sent. */
  load(data) {
    this.notes = data.notes;
    const isHere = (value) => value.topic === this.camera.topic;
    const size = data.cameras[this.camera.topic];
    if (size) [this.camera.width, this.camera.height] = size;
    this.takenIds = new Set([...data.objects, ...data.queries].map((value) => value.id));
    this.objects = new Map(
      data.objects.filter(isHere).map((value) => [value.id, this.objectFromJson(value)]),
    );
    this.queries = new Map(data.queries.filter(isHere).map((value) => [value.id, value]));
    this.done = [];
    this.undone = [];
    this.dispatchEvent(new CustomEvent("change", { detail: { keys: [] } }));
  }

  get(kind, id) {
    return this[kind].get(id);
  }

  color(id) {
    if (!this.colors.has(id)) this.colors.set(id, COLORS[this.colors.size % COLORS.length]);
    return this.colors.get(id);
  }

  newId(kind) {
    for (let number = 1; ; number++) {
      const id = `${kind}-${number}`;
      if (!this.takenIds.has(id)) {
        this.takenIds.add(id);
        return id;
      }
    }
  }

  /** Make a change that can be undone: a list of [kind, id, value or null]. */
  change(title, changes, frame) {
    const before = changes.map(([kind, id]) => [kind, id, this.get(kind, id) ?? null]);
    this.done.push({ title, before, after: changes, frame });
    if (this.done.length > MAX_UNDO) this.done.shift();
    this.undone = [];
    this.apply(changes);
  }

  /** Undo the last change; returns {title, frame}, or null if there is none. */
  undo() {
    return this.step(this.done, this.undone, "before");
  }

  redo() {
    return this.step(this.undone, this.done, "after");
  }

  step(from, to, side) {
    const step = from.pop();
    if (!step) return null;
    to.push(step);
    this.apply(step[side]);
    return step;
  }

  apply(changes) {
    for (const [kind, id, value] of changes) {
      if (value === null) this[kind].delete(id);
      else this[kind].set(id, value);
    }
    const keys = changes.map(([kind, id]) => [kind, id]);
    this.dispatchEvent(new CustomEvent("change", { detail: { keys } }));
  }

  /** Give objects and queries that are new other ids where a newer version uses theirs.
   * Returns [kind, old id, new id] of each. A query that links a new object is not sent yet either. */
  giveWay(newer, isNew) {
    for (const { id } of [...newer.objects, ...newer.queries]) this.takenIds.add(id);
    const renamed = [];
    for (const kind of ["objects", "queries"]) {
      const used = new Set(newer[kind].map(({ id }) => id));
      for (const [old, value] of [...this[kind]]) {
        if (!used.has(old) || !isNew(kind, old)) continue;
        const id = this.newId(kind === "objects" ? "object" : "query");
        this[kind].delete(old);
        this[kind].set(id, { ...value, id });
        renamed.push([kind, old, id]);
        if (kind === "queries") continue;
        for (const query of this.queries.values()) {
          if (!query.objects.includes(old)) continue;
          const objects = query.objects.map((other) => (other === old ? id : other));
          this.queries.set(query.id, { ...query, objects });
        }
      }
    }
    return renamed;
  }

  newObject() {
    const id = this.newId("object");
    return { id, label: id.replace("-", " "), topic: this.camera.topic, track: EMPTY, others: {}, otherKeys: [] };
  }

  newQuery() {
    const id = this.newId("query");
    return { id, text: "", task: "STVG", topic: this.camera.topic, spans: [], objects: [], noMatch: false };
  }

  /** Remove an object, also from the queries that it is linked to. */
  removeObject(id, frame) {
    const changes = [["objects", id, null]];
    for (const query of this.queries.values()) {
      if (query.objects.includes(id)) {
        const objects = query.objects.filter((other) => other !== id);
        changes.push(["queries", query.id, { ...query, objects }]);
      }
    }
    this.change(`delete ${this.objects.get(id).label}`, changes, frame);
  }

  objectFromJson(value) {
    const frameOf = this.camera.frameOf;
    const track = { boxes: new Map(), keys: new Set(), ends: new Set() };
    const others = {}; // boxes at stamps without a frame: kept as they are
    for (const [stamp, box] of Object.entries(value.boxes)) {
      const frame = frameOf.get(stamp);
      if (frame === undefined) others[stamp] = box;
      else track.boxes.set(frame, box);
    }
    const otherKeys = value.keyframes.filter((stamp) => !frameOf.has(stamp));
    for (const stamp of value.keyframes) if (frameOf.has(stamp)) track.keys.add(frameOf.get(stamp));
    track.ends = impliedEnds(track.boxes, track.keys, this.camera.stamps.length);
    for (const stamp of value.ends) if (frameOf.has(stamp)) track.ends.add(frameOf.get(stamp));
    return { id: value.id, label: value.label, topic: value.topic, track, others, otherKeys };
  }

  /** The JSON that the server reads; null for what was removed. */
  toJson(kind, id) {
    const value = this.get(kind, id);
    if (!value || kind === "queries") return value ?? null;
    const { stamps } = this.camera;
    const boxes = { ...value.others };
    for (const [frame, box] of value.track.boxes) boxes[stamps[frame]] = box.map(rounded);
    return {
      id,
      label: value.label,
      topic: value.topic,
      boxes,
      keyframes: [...[...value.track.keys].map((frame) => stamps[frame]), ...value.otherKeys],
      ends: [...value.track.ends].map((frame) => stamps[frame]),
    };
  }

  /** How many boxes have a stamp that no frame has. */
  get boxesWithoutFrame() {
    let count = 0;
    for (const value of this.objects.values()) count += Object.keys(value.others).length;
    return count;
  }
}

// ---- Spans, as pairs of stamps -------------------------------------------------------------

const compare = (a, b) => (BigInt(a) < BigInt(b) ? -1 : BigInt(a) > BigInt(b) ? 1 : 0);

/** Add a span; spans that it overlaps or touches are joined with it. */
export function withSpan(spans, start, end) {
  let [first, last] = compare(start, end) <= 0 ? [start, end] : [end, start];
  const apart = [];
  for (const span of spans) {
    if (compare(span[1], first) < 0 || compare(span[0], last) > 0) {
      apart.push(span);
    } else {
      if (compare(span[0], first) < 0) first = span[0];
      if (compare(span[1], last) > 0) last = span[1];
    }
  }
  return [...apart, [first, last]].sort((a, b) => compare(a[0], b[0]));
}

/** The spans of the frames on which one of some objects is visible. */
export function visibleSpans(objects, stamps) {
  const frames = new Set(objects.flatMap(({ track }) => [...track.boxes.keys()]));
  return runs(frames).map(([first, last]) => [stamps[first], stamps[last]]);
}

/** The index of the span that contains a stamp; -1 if there is none. */
export function spanAt(spans, stamp) {
  return spans.findIndex(([start, end]) => compare(start, stamp) <= 0 && compare(stamp, end) <= 0);
}
