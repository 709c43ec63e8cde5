// The frame and the boxes on it: drawing, moving and resizing with a pointer or keys.

import { isHidden, previousKey } from "./track.js";

const SVG = "http://www.w3.org/2000/svg";
const SIDES = { nw: [0, 1], n: [1], ne: [2, 1], e: [2], se: [2, 3], s: [3], sw: [0, 3], w: [0] };
const MIN_SIZE = 2; // pixels of the image
const MAX_LABEL = 28; // characters that are drawn
const CLICK = 4; // pixels of the screen that a click may move

export class Stage extends EventTarget {
  /** Events: "start" (of a drag), "draw" {box}, "edit" {id, box}, "select" {id or null}. */
  constructor(svg, annotations) {
    super();
    this.svg = svg;
    this.annotations = annotations;
    this.selected = null;
    this.frame = 0;
    this.drag = null;
    svg.addEventListener("pointerdown", (event) => this.start(event));
    svg.addEventListener("pointermove", (event) => this.move(event));
    svg.addEventListener("pointerup", (event) => this.end(event));
    svg.addEventListener("pointercancel", () => this.cancel());
    new ResizeObserver(() => this.render()).observe(svg);
  }

  get camera() {
    return this.annotations.camera;
  }

  /** Screen pixels per pixel of the image. */
  get scale() {
    return this.svg.getBoundingClientRect().width / this.camera.width || 1;
  }

  point(event) {
    const area = this.svg.getBoundingClientRect();
    const { width, height } = this.camera;
    return [
      ((event.clientX - area.left) / area.width) * width,
      ((event.clientY - area.top) / area.height) * height,
    ];
  }

  start(event) {
    if (event.button !== 0 || this.drag) return;
    const { target } = event;
    this.send("start", {}); // playing stops
    const { id, handle } = target.dataset;
    const at = this.point(event);
    this.svg.setPointerCapture(event.pointerId);
    this.drag = { from: at, screen: [event.clientX, event.clientY], moved: false };
    if (handle) {
      this.drag.kind = "resize";
      this.drag.sides = SIDES[handle];
      this.drag.id = this.selected;
    } else if (id) {
      this.drag.kind = "move";
      this.drag.id = id;
    } else {
      this.drag.kind = "draw";
    }
    if (this.drag.id) this.drag.box = this.annotations.objects.get(this.drag.id).track.boxes.get(this.frame);
    event.preventDefault();
  }

  move(event) {
    const { drag } = this;
    if (!drag) return;
    const distance = Math.hypot(event.clientX - drag.screen[0], event.clientY - drag.screen[1]);
    if (!drag.moved && distance < CLICK) return;
    drag.moved = true;
    const [x, y] = this.point(event);
    const [dx, dy] = [x - drag.from[0], y - drag.from[1]];
    if (drag.kind === "draw") {
      drag.result = this.inside([drag.from[0], drag.from[1], x, y]);
    } else if (drag.kind === "move") {
      drag.result = this.moved(drag.box, dx, dy);
    } else {
      const box = [...drag.box];
      for (const side of drag.sides) box[side] += side % 2 ? dy : dx;
      drag.result = this.inside(box);
    }
    this.render();
  }

  end(event) {
    const { drag } = this;
    if (!drag) return;
    this.move(event);
    this.drag = null;
    if (!drag.moved) this.send("select", { id: drag.id ?? null });
    else if (!this.isLarge(drag.result)) this.render();
    else if (drag.kind === "draw") this.send("draw", { box: drag.result });
    else this.send("edit", { id: drag.id, box: drag.result });
  }

  /** Drop a drag that has not ended. Returns whether there was one. */
  cancel() {
    const had = this.drag !== null;
    this.drag = null;
    this.render();
    return had;
  }

  isLarge(box) {
    return box[2] - box[0] >= MIN_SIZE && box[3] - box[1] >= MIN_SIZE;
  }

  /** A box with its corners in order and inside the image, in tenths of a pixel. */
  inside([x1, y1, x2, y2]) {
    const { width, height } = this.camera;
    const clamp = (value, limit) => Math.round(Math.max(0, Math.min(limit, value)) * 10) / 10;
    return [
      clamp(Math.min(x1, x2), width),
      clamp(Math.min(y1, y2), height),
      clamp(Math.max(x1, x2), width),
      clamp(Math.max(y1, y2), height),
    ];
  }

  /** A box moved, but not out of the image. */
  moved([x1, y1, x2, y2], dx, dy) {
    const { width, height } = this.camera;
    const x = Math.max(-x1, Math.min(width - x2, dx));
    const y = Math.max(-y1, Math.min(height - y2, dy));
    return this.inside([x1 + x, y1 + y, x2 + x, y2 + y]);
  }

  /** Move a box, or its lower right corner, by keys. */
  nudge(dx, dy, resizes) {
    const box = this.boxOf(this.selected);
    if (!box) return;
    const [x1, y1, x2, y2] = box;
    const changed = resizes ? this.inside([x1, y1, x2 + dx, y2 + dy]) : this.moved(box, dx, dy);
    if (this.isLarge(changed)) this.send("edit", { id: this.selected, box: changed });
  }

  /** A box in the middle of the image, for drawing without a pointer. */
  middle() {
    const { width, height } = this.camera;
    return this.inside([width * 0.4, height * 0.4, width * 0.6, height * 0.6]);
  }

  boxOf(id) {
    return this.annotations.objects.get(id)?.track.boxes.get(this.frame);
  }

  send(name, detail) {
    this.dispatchEvent(new CustomEvent(name, { detail }));
  }

  render() {
    const { svg, annotations, frame, selected, drag } = this;
    if (!this.camera) return;
    const { width, height } = this.camera;
    svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
    svg.replaceChildren();
    const objects = [...annotations.objects.values()];
    objects.sort((a, b) => (a.id === selected) - (b.id === selected)); // the selected one on top
    for (const { id, label, track } of objects) {
      const color = annotations.color(id);
      let box = track.boxes.get(frame);
      if (drag?.id === id && drag.result) box = drag.result;
      if (box) {
        const kind = track.keys.has(frame) || drag?.id === id ? "key" : "interpolated";
        this.addBox(id, label, box, color, kind);
      } else if (id === selected && !isHidden(track, frame)) {
        const before = track.boxes.get(previousKey(track, frame));
        this.add("rect", { class: "ghost", ...rectangle(before), stroke: color });
      }
    }
    if (drag?.kind === "draw" && drag.result) {
      const color = selected ? annotations.color(selected) : "#ffffff";
      this.addBox("", "", drag.result, color, "key");
    }
    const box = this.boxOf(selected);
    if (box && drag?.kind !== "draw") this.addHandles(drag?.result ?? box, annotations.color(selected));
  }

  addBox(id, label, box, color, kind) {
    const isSelected = id === this.selected;
    this.add("rect", { class: `under ${kind}`, ...rectangle(box) });
    this.add("rect", {
      class: `box ${kind}${isSelected ? " selected" : ""}`,
      ...rectangle(box),
      stroke: color,
      fill: color,
      "data-id": id,
    });
    if (!label) return;
    const size = 13 / this.scale;
    const y = box[1] > size * 1.6 ? box[1] - size * 0.4 : box[1] + size * 1.15;
    const isRight = box[0] > this.camera.width / 2; // there it would leave the image
    const text = this.add("text", {
      x: isRight ? box[2] - size * 0.2 : box[0] + size * 0.2,
      y,
      "text-anchor": isRight ? "end" : "start",
      "font-size": size,
      fill: color,
    });
    text.textContent = label.length > MAX_LABEL ? `${label.slice(0, MAX_LABEL - 1)}…` : label;
  }

  addHandles([x1, y1, x2, y2], color) {
    const coarse = matchMedia("(pointer: coarse)").matches;
    const size = (coarse ? 12 : 9) / this.scale;
    const reach = (coarse ? 28 : 14) / this.scale; // what can be grabbed
    const places = {
      n: [(x1 + x2) / 2, y1], s: [(x1 + x2) / 2, y2], w: [x1, (y1 + y2) / 2], e: [x2, (y1 + y2) / 2],
      nw: [x1, y1], ne: [x2, y1], sw: [x1, y2], se: [x2, y2],
    };
    const isNarrow = (x2 - x1) * this.scale < 48;
    const isLow = (y2 - y1) * this.scale < 48;
    for (const [name, [x, y]] of Object.entries(places)) {
      if ((isNarrow && /^[ns]$/.test(name)) || (isLow && /^[we]$/.test(name))) continue;
      const square = (side) => ({ x: x - side / 2, y: y - side / 2, width: side, height: side });
      this.add("rect", { class: "handle", ...square(size), fill: color });
      this.add("rect", { class: `grip ${name}`, ...square(reach), "data-handle": name });
    }
  }

  add(name, attributes) {
    const element = document.createElementNS(SVG, name);
    for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
    this.svg.append(element);
    return element;
  }
}

const rectangle = ([x1, y1, x2, y2]) => ({ x: x1, y: y1, width: x2 - x1, height: y2 - y1 });
