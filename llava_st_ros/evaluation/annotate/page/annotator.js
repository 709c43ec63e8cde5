// The page: connects frames, boxes, lists and saving; keys and buttons.

import { Annotations, spanAt, visibleSpans, withSpan } from "./annotations.js";
import { Panels } from "./panels.js";
import { Player } from "./player.js";
import { get, post, Saver } from "./saving.js";
import { Stage } from "./stage.js";
import { clock, nearest, Timeline } from "./timeline.js";
import { continueAt, endAt, isEnd, isHidden, nextKey, previousKey, removeBox, setBox } from "./track.js";

const POLL_MS = 100; // while the recording is indexed
const at = (id) => document.getElementById(id);

class Annotator {
  constructor(session) {
    this.annotations = new Annotations(null);
    this.saver = new Saver(this.annotations);
    this.player = new Player(at("image"));
    this.stage = new Stage(at("boxes"), this.annotations);
    this.timeline = new Timeline(at("rows"), this.annotations);
    this.panels = new Panels(this.annotations, session.tasks, at("objects"), at("queries"));
    this.object = null; // the chosen object's id
    this.query = null; // the chosen query's id
    this.pendingStart = null; // stamp at which a span of the chosen query starts
    this.connect();
  }

  // ---- Opening a camera ----

  async open(number) {
    this.number = number;
    at("editor").hidden = true;
    at("losses").hidden = true;
    at("progress").hidden = false;
    this.player.stop();
    const camera = await this.indexed(number);
    if (!camera) return;
    const start = BigInt(camera.stamps[0]);
    camera.timeOf = (stamp) => Number(BigInt(stamp) - start);
    camera.times = camera.stamps.map(camera.timeOf);
    camera.frameOf = new Map(camera.stamps.map((stamp, frame) => [stamp, frame]));
    camera.frameSize = [camera.width, camera.height];
    this.annotations.camera = camera;
    this.annotations.colors.clear();
    if (!(await this.load())) return;
    at("progress").hidden = true;
    at("editor").hidden = false;
    at("slider").max = camera.stamps.length - 1;
    this.sizeStage();
    this.player.open(camera, (frame) => `frames/${number}/${frame}.jpg`);
    this.render();
  }

  async indexed(number) {
    for (;;) {
      const [status, camera] = await get(`cameras/${number}`);
      const problem = status === 200 ? camera.problem : camera.problem ?? "the command does not answer";
      if (problem) {
        at("progress").textContent = problem;
        at("progress").classList.add("problem");
        return null;
      }
      at("progress").classList.remove("problem");
      if (camera.stamps) return camera;
      const share = camera.total ? Math.floor((100 * camera.read) / camera.total) : 0;
      at("progress").textContent = `Reading the recording: ${camera.read} of ${camera.total} messages (${share} %)`;
      await new Promise((resolve) => setTimeout(resolve, POLL_MS));
    }
  }

  /** Load the annotations from the server. With discard, from the file in any case. */
  async load(discard = false) {
    const [status, data] = discard ? await post("discard", {}) : await get("annotations");
    if (status !== 200) {
      this.warn(data.problem ?? "The command does not answer.");
      return false;
    }
    this.annotations.load(data);
    this.saver.loaded(data);
    if (!this.annotations.objects.has(this.object)) this.object = null;
    if (!this.annotations.queries.has(this.query)) this.query = null;
    this.pendingStart = null;
    this.renderLosses();
    return true;
  }

  renderLosses() {
    const { camera } = this.annotations;
    const lines = [...camera.losses, ...this.annotations.notes.map((note) => `annotation file: ${note}`)];
    const extra = this.annotations.boxesWithoutFrame;
    if (extra) lines.push(`${extra} boxes in the annotation file are at stamps without a frame; they are kept, and not shown`);
    if (camera.width !== camera.frameSize[0] || camera.height !== camera.frameSize[1]) {
      lines.push(
        `the annotation file is for images of ${camera.width}x${camera.height} pixels; the frames have ${camera.frameSize.join("x")}`,
      );
    }
    at("losses").hidden = !lines.length;
    const [first, ...others] = lines;
    at("losses").querySelector("p").textContent = first ?? "";
    at("losses").querySelector("details").hidden = !others.length;
    at("losses").querySelector("summary").textContent = `${others.length} more`;
    at("losses").querySelector("ul").replaceChildren(
      ...others.map((line) => Object.assign(document.createElement("li"), { textContent: line })),
    );
  }

  // ---- Rendering ----

  get frame() {
    return this.player.frame;
  }

  get stamp() {
    return this.annotations.camera.stamps[this.frame];
  }

  get chosen() {
    return this.annotations.objects.get(this.object);
  }

  render() {
    const { annotations, frame } = this;
    const { camera } = annotations;
    if (!camera || frame < 0) return;
    Object.assign(this.stage, { selected: this.object, frame });
    this.stage.render();
    Object.assign(this.timeline, {
      frame,
      selectedObject: this.object,
      selectedQuery: this.query,
      pendingStart: this.pendingStart,
    });
    this.timeline.render();
    this.panels.render({
      frame,
      object: this.object,
      query: this.query,
      pendingStart: this.pendingStart,
      incomplete: this.saver.incomplete,
    });
    at("slider").value = frame;
    at("slider").setAttribute("aria-valuetext", `frame ${frame + 1}, ${clock(camera.times[frame] / 1e9)}`);
    at("clock").textContent = `${clock(camera.times[frame] / 1e9)}  frame ${frame + 1} of ${camera.stamps.length}`;
    at("stamp").textContent = `header ${seconds(camera.stamps[frame])} s`;
    at("hint").textContent = this.hint();
    at("undo").disabled = !annotations.done.length;
    at("redo").disabled = !annotations.undone.length;
    at("undo").title = `Undo ${annotations.done.at(-1)?.title ?? ""} (Ctrl+Z)`;
    const { chosen } = this;
    at("object-tools").hidden = !chosen;
    if (chosen) {
      const hidden = isEnd(chosen.track, frame);
      at("hide").textContent = hidden ? "Visible again" : "Not visible from here";
      at("remove-box").disabled = !chosen.track.boxes.has(frame);
      at("keep").disabled = chosen.track.keys.has(frame) || !this.boxToKeep(chosen);
    }
  }

  hint() {
    const { chosen } = this;
    if (!chosen) return "Drag on the frame to draw a new object, or choose one.";
    const box = chosen.track.boxes.has(this.frame) ? "redraw" : "draw";
    return `Drag on the frame to ${box} ${chosen.label || "the object"}.`;
  }

  renderState() {
    const { state, problem } = this.saver;
    const text = {
      saved: "Saved",
      saving: "Saving",
      unwritten: "Not in the file",
      unsent: "Not saved",
      conflict: "Changed elsewhere",
      invalid: "Not saved",
    }[state];
    at("state").textContent = text;
    at("state").dataset.state = state;
    if (state === "saved") this.warn("");
    else if (state === "unwritten") {
      this.warn(`Not saved to the file: ${problem}. Nothing is lost: the command keeps your changes while it runs and tries again.`, [
        ["Try again", () => this.saver.retry()],
      ]);
    } else if (state === "unsent") {
      this.warn(`Not saved: ${problem}. This page keeps your changes and tries again; leave it open.`, [
        ["Try again", () => this.saver.retry()],
      ]);
    } else if (state === "invalid") {
      this.warn(`Not saved: ${problem}. Change or undo it.`);
    } else if (state === "conflict") {
      const unsent = this.saver.pending.size;
      const choices = [["Load the newer version", () => this.takeNewer()]];
      if (unsent) choices.push(["Keep my changes too", () => this.keepMine()]);
      const lost = unsent
        ? " Your last changes are not saved yet: loading drops them, keeping them adds them to the newer version."
        : "";
      this.warn(`${capital(problem)}.${lost}`, choices);
    }
    if (this.annotations.camera) this.render();
  }

  warn(text, choices = []) {
    if (at("alert").dataset.text === text) return; // a focused button stays
    at("alert").dataset.text = text;
    at("alert").hidden = !text;
    at("alert").replaceChildren(text);
    for (const [title, action] of choices) {
      const button = Object.assign(document.createElement("button"), { type: "button", textContent: title });
      button.addEventListener("click", action);
      at("alert").append(" ", button);
    }
  }

  announce(text) {
    at("announcement").textContent = text;
    at("hint").textContent = text;
  }

  async takeNewer() {
    const [status, state] = await get("status");
    if (status === 200 && (await this.load(state.hasChanged && !state.isWritten))) this.render();
  }

  async keepMine() {
    const renamed = await this.saver.force();
    const now = (kind, id) => renamed.find(([other, old]) => other === kind && old === id)?.[2] ?? id;
    this.object = now("objects", this.object);
    this.query = now("queries", this.query);
    if (this.saver.state !== "conflict" && (await this.load())) this.render();
  }

  sizeStage() {
    const [w, h] = this.annotations.camera.frameSize;
    at("stage").style.aspectRatio = `${w} / ${h}`;
    at("stage").style.setProperty("--ratio", String(w / h));
    at("stage").style.setProperty("--zoom", at("zoom").value);
  }

  // ---- Objects ----

  chooseObject(id) {
    this.object = id;
    this.render();
  }

  addObject() {
    const object = this.annotations.newObject();
    this.annotations.change("new object", [["objects", object.id, object]], this.frame);
    this.chooseObject(object.id);
    this.announce(`${capital(object.label)}: drag its box on the frame.`);
  }

  setTrack(title, object, track) {
    this.annotations.change(title, [["objects", object.id, { ...object, track }]], this.frame);
  }

  draw(box) {
    const object = this.chosen ?? this.annotations.newObject();
    this.object = object.id;
    const track = setBox(object.track, this.frame, box, this.annotations.camera.times);
    this.setTrack("box", object, track);
  }

  edit(id, box) {
    this.object = id;
    const object = this.annotations.objects.get(id);
    this.setTrack("box", object, setBox(object.track, this.frame, box, this.annotations.camera.times));
  }

  /** The box that a keyframe here would get: the shown one, or the last one of the object. */
  boxToKeep(object) {
    const { boxes } = object.track;
    return boxes.get(this.frame) ?? boxes.get(previousKey(object.track, this.frame));
  }

  keep() {
    const box = this.chosen && this.boxToKeep(this.chosen);
    if (box) this.edit(this.object, box);
    else this.announce("Choose an object that has a box.");
  }

  boxByKey() {
    if (!this.chosen) this.addObject();
    this.edit(this.object, this.boxToKeep(this.chosen) ?? this.stage.middle());
  }

  hide() {
    const { chosen, frame } = this;
    if (!chosen) return this.announce("Choose an object.");
    const { track } = chosen;
    const { times } = this.annotations.camera;
    if (isEnd(track, frame)) return this.setTrack("visible again", chosen, continueAt(track, frame, times));
    if (isHidden(track, frame)) return this.announce(`${capital(chosen.label)} is not visible here already.`);
    return this.setTrack("not visible", chosen, endAt(track, frame));
  }

  removeBox() {
    const { chosen, frame } = this;
    if (!chosen?.track.boxes.has(frame)) return this.announce("The chosen object has no box on this frame.");
    return this.setTrack("delete box", chosen, removeBox(chosen.track, frame, this.annotations.camera.times));
  }

  toKey(find) {
    const frame = this.chosen && find(this.chosen.track, this.frame);
    if (frame === undefined) this.announce("No further keyframe of a chosen object.");
    else this.player.seek(frame);
  }

  // ---- Queries ----

  chooseQuery(id) {
    if (this.query !== id) this.pendingStart = null;
    this.query = id;
    this.render();
  }

  addQuery() {
    const query = this.annotations.newQuery();
    if (this.object) query.objects = [this.object];
    this.annotations.change("new query", [["queries", query.id, query]], this.frame);
    this.chooseQuery(query.id);
    at("queries").querySelector(".chosen textarea").focus();
  }

  editQuery(id, changes) {
    const query = { ...this.annotations.queries.get(id), ...changes };
    if (changes.noMatch) {
      query.spans = [];
      query.objects = [];
      this.pendingStart = null;
    }
    this.annotations.change("query", [["queries", id, query]], this.frame);
  }

  mark(edge, id = this.query) {
    const query = this.annotations.queries.get(id);
    if (!query) return this.announce("Choose a query.");
    const inside = spanAt(query.spans, this.stamp);
    let { spans } = query;
    let span = null;
    if (edge === "end" && this.pendingStart !== null) {
      span = [this.pendingStart, this.stamp];
    } else if (inside >= 0) {
      const [start, end] = spans[inside];
      span = edge === "start" ? [this.stamp, end] : [start, this.stamp];
      spans = spans.filter((_, index) => index !== inside);
    } else if (edge === "start") {
      this.pendingStart = this.stamp;
      this.announce("The span starts here. Go to its last frame and press ].");
      return this.render();
    } else {
      return this.announce("Go to the first frame of the span and press [.");
    }
    this.pendingStart = null;
    return this.editQuery(id, { spans: withSpan(spans, ...span), noMatch: false });
  }

  /** Set the spans of a query to where its objects are visible. */
  spansFromBoxes(id) {
    const { objects, queries, camera } = this.annotations;
    const query = queries.get(id);
    const linked = query.objects.map((name) => objects.get(name)).filter(Boolean);
    const spans = visibleSpans(linked, camera.stamps);
    if (!spans.length) return this.announce("The objects of the query have no box.");
    return this.editQuery(id, { spans, noMatch: false });
  }

  toggleNoMatch() {
    const query = this.annotations.queries.get(this.query);
    if (query) this.editQuery(query.id, { noMatch: !query.noMatch });
    else this.announce("Choose a query.");
  }

  // ---- Undo ----

  step(name) {
    if (this.stage.cancel()) return;
    const step = this.annotations[name]();
    if (!step) return this.announce(`Nothing to ${name}.`);
    if (!this.annotations.objects.has(this.object)) this.object = null;
    if (!this.annotations.queries.has(this.query)) this.query = null;
    this.player.seek(step.frame);
    this.render();
    return this.announce(`${name === "undo" ? "Undone" : "Done again"}: ${step.title}.`);
  }

  zoom(step) {
    const select = at("zoom");
    select.selectedIndex = Math.max(0, Math.min(select.options.length - 1, select.selectedIndex + step));
    this.sizeStage();
  }

  // ---- Events ----

  connect() {
    const { annotations, saver, player, stage, timeline, panels } = this;
    annotations.addEventListener("change", () => this.render());
    saver.addEventListener("state", () => this.renderState());
    player.addEventListener("seek", () => this.render());
    player.addEventListener("state", () => {
      at("play").textContent = player.playing ? "Pause" : "Play";
    });
    player.addEventListener("shown", ({ detail }) => {
      at("frame-problem").hidden = !detail.problem;
      const [width, height] = annotations.camera.frameSize;
      const { naturalWidth, naturalHeight } = player.image;
      if (!detail.problem && (naturalWidth !== width || naturalHeight !== height)) {
        this.announce(`This frame has ${naturalWidth}x${naturalHeight} pixels, the first one ${width}x${height}: it is shown stretched.`);
      }
      at("frame-problem").textContent = `Frame ${player.shown + 1} cannot be shown: ${detail.problem}`;
    });
    on(stage, {
      start: () => player.settle(),
      draw: ({ box }) => this.draw(box),
      edit: ({ id, box }) => this.edit(id, box),
      select: ({ id }) => this.chooseObject(id),
    });
    on(timeline, {
      seek: ({ frame }) => player.seek(frame),
      select: ({ kind, id }) => (kind === "objects" ? this.chooseObject(id) : this.chooseQuery(id)),
    });
    on(panels, {
      object: ({ id }) => this.chooseObject(id),
      query: ({ id }) => this.chooseQuery(this.query === id ? null : id),
      rename: ({ id, label }) => {
        const object = annotations.objects.get(id);
        if (object) annotations.change("label", [["objects", id, { ...object, label }]], this.frame);
      },
      "delete-object": ({ id }) => {
        annotations.removeObject(id, this.frame);
        if (this.object === id) this.chooseObject(null);
      },
      "edit-query": ({ id, changes }) => annotations.queries.has(id) && this.editQuery(id, changes),
      "delete-query": ({ id }) => {
        annotations.change("delete query", [["queries", id, null]], this.frame);
        if (this.query === id) this.chooseQuery(null);
      },
      "spans-from-boxes": ({ id }) => this.spansFromBoxes(id),
      mark: ({ id, edge }) => this.mark(edge, id),
      seek: ({ stamp }) => player.seek(nearest(annotations.camera.times, annotations.camera.timeOf(stamp))),
    });
    const clicks = {
      play: () => player.toggle(),
      back: () => player.seek(this.frame - 1),
      forward: () => player.seek(this.frame + 1),
      undo: () => this.step("undo"),
      redo: () => this.step("redo"),
      "help-open": () => at("help").showModal(),
      "new-object": () => this.addObject(),
      "new-query": () => this.addQuery(),
      keep: () => this.keep(),
      hide: () => this.hide(),
      "remove-box": () => this.removeBox(),
      "key-before": () => this.toKey(previousKey),
      "key-after": () => this.toKey(nextKey),
    };
    for (const [id, action] of Object.entries(clicks)) at(id).addEventListener("click", action);
    at("slider").addEventListener("input", () => player.seek(Number(at("slider").value)));
    at("speed").addEventListener("change", () => (player.speed = Number(at("speed").value)));
    at("zoom").addEventListener("change", () => this.sizeStage());
    at("range").addEventListener("change", () => {
      timeline.range = Number(at("range").value);
      timeline.render();
    });
    at("camera").addEventListener("change", () => {
      if (!saver.hasUnsent) return this.open(Number(at("camera").value));
      at("camera").value = this.number;
      return this.announce("The last changes are not saved yet: the camera can be changed when they are.");
    });
    document.addEventListener("keydown", (event) => this.key(event));
    addEventListener("focus", () => saver.check());
    addEventListener("beforeunload", (event) => {
      document.activeElement?.blur?.(); // a text that is being typed is saved
      if (saver.hasUnsent) event.preventDefault();
    });
  }

  key(event) {
    if (at("editor").hidden || at("help").open || event.isComposing) return;
    const { target, key } = event;
    const isTyping = target.matches("textarea, select, input:not([type=range], [type=checkbox])");
    const command = event.ctrlKey || event.metaKey;
    if (isTyping && key !== "Escape") return;
    if (command && key.toLowerCase() === "z") this.step(event.shiftKey ? "redo" : "undo");
    else if (command && key.toLowerCase() === "y") this.step("redo");
    else if (command) return;
    else if (event.altKey) {
      if (!this.nudge(key, event.shiftKey)) return;
    } else if (!this.plainKey(key, event)) return;
    event.preventDefault();
  }

  /** Returns whether the key is an arrow. */
  nudge(key, resizes) {
    const step = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[key];
    if (step) this.stage.nudge(...step, resizes);
    return Boolean(step);
  }

  /** Returns whether the key has a meaning. */
  plainKey(key, event) {
    const { player, frame } = this;
    const onButton = event.target.matches("button, summary, input[type=checkbox]");
    if (key === " " && onButton) return false; // presses the button
    const step = event.shiftKey ? 10 : 1;
    const actions = {
      ArrowLeft: () => player.seek(frame - step),
      ArrowRight: () => player.seek(frame + step),
      Home: () => player.seek(0),
      End: () => player.seek(player.count - 1),
      " ": () => player.toggle(),
      ",": () => this.toKey(previousKey),
      ".": () => this.toKey(nextKey),
      "+": () => this.zoom(1),
      "-": () => this.zoom(-1),
      n: () => this.addObject(),
      b: () => this.boxByKey(),
      k: () => this.keep(),
      x: () => this.hide(),
      Delete: () => this.removeBox(),
      Backspace: () => this.removeBox(),
      q: () => this.addQuery(),
      "[": () => this.mark("start"),
      "]": () => this.mark("end"),
      m: () => this.toggleNoMatch(),
      "?": () => at("help").showModal(),
      Escape: () => {
        if (event.target.matches("input, textarea, select")) event.target.blur();
        else if (!this.stage.cancel()) this.chooseObject(null);
      },
    };
    const action = actions[key.length === 1 ? key.toLowerCase() : key];
    if (action) action();
    else if (/^[1-9]$/.test(key)) {
      const id = [...this.annotations.objects.keys()][Number(key) - 1];
      if (id) this.chooseObject(id);
    } else return false;
    return true;
  }
}

function on(target, listeners) {
  for (const [name, listener] of Object.entries(listeners)) {
    target.addEventListener(name, ({ detail }) => listener(detail));
  }
}

const capital = (text) => text.charAt(0).toUpperCase() + text.slice(1);

/** A stamp in nanoseconds as seconds, all digits. */
function seconds(stamp) {
  const sign = stamp.startsWith("-") ? "-" : "";
  const digits = stamp.slice(sign.length).padStart(10, "0");
  return `${sign}${digits.slice(0, -9)}.${digits.slice(-9)}`;
}

async function main() {
  const [status, session] = await get("session");
  if (status !== 200) {
    at("progress").textContent = session.problem ?? "The command does not answer.";
    at("progress").classList.add("problem");
    return;
  }
  document.title = `${session.bag}: annotate`;
  at("bag").textContent = session.bag;
  at("file").textContent = `Annotations: ${session.file}`;
  at("camera-choice").hidden = session.topics.length < 2;
  session.topics.forEach((topic, number) => at("camera").append(new Option(topic, number)));
  const annotator = new Annotator(session);
  await annotator.open(0);
}

main();
