// The lists of objects and queries beside the frame.

import { isHidden } from "./track.js";
import { clock } from "./timeline.js";

const TYPING_MS = 500; // after the last key a text is saved

/** Keep one <li> per value, in order; make(value) returns the element and its update(value). */
class List {
  constructor(list, make) {
    this.list = list;
    this.make = make;
    this.rows = new Map();
  }

  render(values) {
    for (const [id, row] of this.rows) {
      if (!values.some((value) => value.id === id)) {
        row.element.remove();
        this.rows.delete(id);
      }
    }
    values.forEach((value, index) => {
      if (!this.rows.has(value.id)) this.rows.set(value.id, this.make(value.id));
      const { element, update } = this.rows.get(value.id);
      if (this.list.children[index] !== element) {
        this.list.insertBefore(element, this.list.children[index] ?? null);
      }
      update(value, index);
    });
  }
}

function make(name, attributes = {}, ...children) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (key.startsWith("on")) element.addEventListener(key.slice(2), value);
    else element.setAttribute(key, value);
  }
  element.append(...children);
  return element;
}

/** A text field that reports its value when typing pauses or ends. */
function textField(name, attributes, report) {
  const field = make(name, attributes);
  let timer = 0;
  const send = () => {
    clearTimeout(timer);
    if (field.value !== field.dataset.known) {
      field.dataset.known = field.value;
      report(field.value);
    }
  };
  field.addEventListener("input", () => {
    clearTimeout(timer);
    timer = setTimeout(send, TYPING_MS);
  });
  field.addEventListener("change", send);
  field.addEventListener("blur", send);
  field.show = (value) => {
    if (field.dataset.known === value) return;
    field.dataset.known = value;
    field.value = value;
  };
  return field;
}

export class Panels extends EventTarget {
  /** Events: "object", "query" {id} (chosen); "rename" {id, label}; "delete-object" {id};
   * "edit-query" {id, changes}; "delete-query" {id}; "spans-from-boxes" {id}; "mark" {id, edge}; "seek" {stamp}. */
  constructor(annotations, tasks, objectList, queryList) {
    super();
    this.annotations = annotations;
    this.tasks = tasks;
    this.objects = new List(objectList, (id) => this.objectRow(id));
    this.queries = new List(queryList, (id) => this.queryRow(id));
    this.view = { frame: 0, object: null, query: null, pendingStart: null, incomplete: {} };
  }

  send(name, detail) {
    this.dispatchEvent(new CustomEvent(name, { detail }));
  }

  /** view: the frame, the ids that are chosen, the start of an open span, what is incomplete. */
  render(view) {
    this.view = view;
    this.objects.render([...this.annotations.objects.values()]);
    this.queries.render([...this.annotations.queries.values()]);
  }

  objectRow(id) {
    const swatch = make("span", { class: "swatch" });
    const number = make("span");
    const choose = make(
      "button",
      { type: "button", class: "choose", onclick: () => this.send("object", { id }) },
      swatch,
      number,
    );
    const label = textField("input", { type: "text", maxlength: "200", autocomplete: "off" }, (value) =>
      this.send("rename", { id, label: value }),
    );
    label.addEventListener("focus", () => this.send("object", { id }));
    const where = make("span", { class: "where" });
    const remove = make(
      "button",
      { type: "button", class: "delete", onclick: () => this.send("delete-object", { id }) },
      "✕",
    );
    const element = make("li", {}, choose, label, where, remove);
    const update = (object, index) => {
      const { frame } = this.view;
      const isChosen = this.view.object === id;
      element.classList.toggle("chosen", isChosen);
      choose.setAttribute("aria-pressed", String(isChosen));
      choose.setAttribute("aria-label", `Choose object ${index + 1}, ${object.label}`);
      swatch.style.background = this.annotations.color(id);
      number.textContent = String(index + 1);
      label.setAttribute("aria-label", `Label of object ${index + 1}`);
      label.show(object.label);
      remove.setAttribute("aria-label", `Delete object ${object.label}`);
      where.textContent = whereOf(object.track, frame);
    };
    return { element, update };
  }

  queryRow(id) {
    const edit = (changes) => this.send("edit-query", { id, changes });
    const choose = make("button", {
      type: "button",
      class: "choose wide",
      onclick: () => this.send("query", { id }),
    });
    const remove = make(
      "button",
      { type: "button", class: "delete", onclick: () => this.send("delete-query", { id }) },
      "✕",
    );
    const text = textField("textarea", { rows: "2", maxlength: "2000", class: "query-text" }, (value) =>
      edit({ text: value }),
    );
    const task = make("select", { onchange: () => edit({ task: task.value }) });
    task.append(...this.tasks.map((name) => make("option", {}, name)));
    const links = make("fieldset", { class: "links" }, make("legend", {}, "Objects it describes"));
    const boxes = make("div");
    links.append(boxes);
    const spans = make("ul", { class: "spans" });
    const start = make(
      "button",
      { type: "button", title: "A span starts at this frame ([)", onclick: () => this.send("mark", { id, edge: "start" }) },
      "Start here",
    );
    const end = make(
      "button",
      { type: "button", title: "A span ends at this frame (])", onclick: () => this.send("mark", { id, edge: "end" }) },
      "End here",
    );
    const fromBoxes = make(
      "button",
      { type: "button", title: "While one of its objects has a box", onclick: () => this.send("spans-from-boxes", { id }) },
      "While visible",
    );
    const none = make("input", { type: "checkbox", onchange: () => edit({ noMatch: none.checked }) });
    const problem = make("p", { class: "note problem" });
    const body = make(
      "div",
      { class: "body" },
      make("label", { class: "field" }, "Text", text),
      make("label", { class: "field row" }, "Task", task),
      make("p", { class: "small" }, "Spans: when it is true"),
      spans,
      make("div", { class: "tools" }, start, end, fromBoxes),
      make("label", { class: "check" }, none, "No match in this recording"),
      links,
      problem,
    );
    const element = make("li", { class: "query" }, make("div", { class: "head" }, choose, remove), body);
    const update = (query, index) => {
      const isChosen = this.view.query === id;
      const missing = this.view.incomplete[id] ?? "";
      element.classList.toggle("chosen", isChosen);
      choose.setAttribute("aria-pressed", String(isChosen));
      choose.setAttribute("aria-expanded", String(isChosen));
      const count = query.noMatch ? "no match" : `${query.spans.length} span${query.spans.length === 1 ? "" : "s"}`;
      choose.replaceChildren(
        make("span", { class: "text" }, query.text || `Query ${index + 1}`),
        make("span", { class: missing ? "where problem" : "where" }, missing ? "incomplete" : count),
      );
      remove.setAttribute("aria-label", `Delete query ${query.text || index + 1}`);
      body.hidden = !isChosen;
      if (!isChosen) return;
      text.show(query.text);
      task.value = query.task;
      none.checked = query.noMatch;
      links.disabled = query.noMatch;
      fromBoxes.disabled = !query.objects.length;
      problem.textContent = missing ? `Not in the file yet: ${missing}.` : query.text ? "" : "It has no text.";
      this.renderSpans(spans, query);
      this.renderLinks(boxes, query, edit);
    };
    return { element, update };
  }

  renderSpans(list, query) {
    const { camera } = this.annotations;
    const shown = (stamp) => clock(camera.timeOf(stamp) / 1e9);
    const open = this.view.pendingStart;
    const content = JSON.stringify([query.spans, open]);
    if (list.dataset.content === content) return;
    list.dataset.content = content;
    const go = (stamp, text) =>
      make("button", { type: "button", class: "link", onclick: () => this.send("seek", { stamp }) }, text);
    list.replaceChildren(
      ...query.spans.map(([start, end], index) =>
        make(
          "li",
          {},
          go(start, shown(start)),
          " to ",
          go(end, shown(end)),
          make(
            "button",
            {
              type: "button",
              class: "delete",
              "aria-label": `Delete span ${index + 1}`,
              onclick: () =>
                this.send("edit-query", {
                  id: query.id,
                  changes: { spans: query.spans.filter((_, other) => other !== index) },
                }),
            },
            "✕",
          ),
        ),
      ),
    );
    if (open !== null) list.append(make("li", { class: "open" }, `${shown(open)} to … (go to its end, then End here)`));
  }

  renderLinks(list, query, edit) {
    const objects = [...this.annotations.objects.values()];
    const content = JSON.stringify([objects.map(({ id, label }) => [id, label]), query.objects]);
    if (list.dataset.content === content) return;
    const focused = list.contains(document.activeElement) ? document.activeElement.value : null;
    list.dataset.content = content;
    list.replaceChildren(
      ...objects.map(({ id, label }) => {
        const box = make("input", { type: "checkbox", value: id });
        box.checked = query.objects.includes(id);
        box.addEventListener("change", () => {
          const others = query.objects.filter((other) => other !== id);
          edit({ objects: box.checked ? [...others, id] : others });
        });
        const swatch = make("span", { class: "swatch" });
        swatch.style.background = this.annotations.color(id);
        return make("label", { class: "check" }, box, swatch, label);
      }),
    );
    if (!objects.length) list.replaceChildren("none yet");
    if (focused) list.querySelector(`input[value="${CSS.escape(focused)}"]`)?.focus();
  }
}

function whereOf(track, frame) {
  if (track.keys.has(frame)) return "keyframe";
  if (track.boxes.has(frame)) return "interpolated";
  if (!track.boxes.size) return "no box yet";
  return isHidden(track, frame) ? "not visible" : "no box here";
}
