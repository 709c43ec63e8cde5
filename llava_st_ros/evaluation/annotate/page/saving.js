// Sends every change to the server at once, one request at a time, and reports the state.
//
// States: "saved", "saving", "unwritten" (the server has the changes, the file does not),
// "unsent" (the server cannot be reached), "conflict" (another tab or program changed the
// annotations), "invalid" (the server rejects a change).

const RETRY_MS = 3000;

export class Saver extends EventTarget {
  constructor(annotations) {
    super();
    this.annotations = annotations;
    this.pending = new Map(); // "kind id" of what was changed since the last request
    this.known = new Set(); // "kind id" of what the server has
    this.revision = 0;
    this.state = "saved";
    this.problem = "";
    this.incomplete = {};
    this.isSending = false;
    this.timer = 0;
    annotations.addEventListener("change", (event) => this.add(event.detail.keys));
  }

  get hasUnsent() {
    return this.pending.size > 0 || this.isSending;
  }

  /** Take over the revision and state of annotations that were just loaded. */
  loaded(data) {
    this.pending.clear();
    this.known = new Set();
    for (const kind of ["objects", "queries"]) {
      for (const { id } of data[kind]) this.known.add(`${kind} ${id}`);
    }
    this.accept(data);
  }

  add(keys) {
    for (const [kind, id] of keys) this.pending.set(`${kind} ${id}`, [kind, id]);
    if (keys.length && this.state !== "conflict") this.send();
  }

  /** Send what is pending. With force, also over the changes of another tab or program. */
  async send(force = false) {
    if (this.isSending || !this.pending.size) return;
    clearTimeout(this.timer);
    const sent = new Map(this.pending);
    this.pending.clear();
    // Without a prototype: an id of a file may be any text.
    const changes = { objects: Object.create(null), queries: Object.create(null) };
    for (const [kind, id] of sent.values()) changes[kind][id] = this.annotations.toJson(kind, id);
    this.isSending = true;
    this.show("saving", "");
    const [status, answer] = await post("changes", { revision: this.revision, changes, force });
    this.isSending = false;
    if (status === 200) {
      for (const name of sent.keys()) this.known.add(name);
      this.accept(answer);
      if (this.pending.size) this.send();
      return;
    }
    for (const [name, key] of sent) if (!this.pending.has(name)) this.pending.set(name, key);
    if (status === 409) this.show("conflict", answer.problem);
    else if (status) this.show("invalid", answer.problem);
    else {
      this.show("unsent", "the command does not answer");
      this.timer = setTimeout(() => this.send(), RETRY_MS);
    }
  }

  /** Send what is pending over the changes of another tab or program.
   * Returns what got another id: [kind, old id, new id] of each. */
  async force() {
    const [status, newer] = await get("annotations");
    if (status !== 200) {
      this.show("conflict", newer.problem ?? "the command does not answer");
      return [];
    }
    // What was created here gets another id where the newer version uses it.
    const isNew = (kind, id) => this.pending.has(`${kind} ${id}`) && !this.known.has(`${kind} ${id}`);
    const renamed = this.annotations.giveWay(newer, isNew);
    for (const [kind, old, id] of renamed) {
      this.pending.delete(`${kind} ${old}`);
      this.pending.set(`${kind} ${id}`, [kind, id]);
    }
    await this.send(true);
    return renamed;
  }

  /** Write to the file what could not be written; again after a while if that fails. */
  async retry() {
    clearTimeout(this.timer);
    if (this.pending.size) return this.send();
    const [status, answer] = await post("save", {});
    if (status === 200 && !this.isSending && !this.pending.size) this.accept(answer);
    return undefined;
  }

  /** Ask whether another tab or program has changed the annotations. */
  async check() {
    if (this.hasUnsent || this.state === "conflict") return;
    const { revision } = this;
    const [status, answer] = await get("status");
    if (status !== 200 || this.hasUnsent || revision !== this.revision) return;
    if (answer.problem) this.accept(answer);
    else if (answer.hasChanged) this.show("conflict", "the file was changed by another program");
    else if (answer.revision !== this.revision) {
      this.show("conflict", "the annotations were changed in another tab or window");
    }
  }

  accept(answer) {
    clearTimeout(this.timer);
    this.revision = answer.revision;
    this.incomplete = answer.incomplete;
    if (answer.problem) {
      this.show("unwritten", answer.problem);
      this.timer = setTimeout(() => this.retry(), RETRY_MS);
    } else {
      this.show("saved", "");
    }
  }

  show(state, problem) {
    this.state = state;
    this.problem = problem;
    this.dispatchEvent(new Event("state"));
  }
}

/** [status, JSON]; status 0 if the server cannot be reached. */
export const get = (path) => request(path);
export const post = (path, body) =>
  request(path, {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify(body),
  });

async function request(path, options) {
  try {
    const response = await fetch(path, options);
    return [response.status, await response.json()];
  } catch {
    return [0, {}];
  }
}
