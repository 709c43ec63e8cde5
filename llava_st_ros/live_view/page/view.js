// The page: asks for updates one after the other, shows them, and sends what the user wants.

import { cut, element, setClamped, setText } from "./elements.js";
import { CameraView } from "./pictures.js";
import { Timeline } from "./timeline.js";

const TIMEOUT_MS = 15000; // of an update; the server answers every 2 s
const RETRY_MS = 1000;
const CLOCK_MS = 250;
const MAX_QUESTIONS = 20; // as the server keeps them
const at = (id) => document.getElementById(id);

class View {
  constructor() {
    this.epoch = "";
    this.version = 0;
    this.cameras = new Map(); // views by name
    this.questions = new Map(); // by number
    this.node = null;
    this.timeline = new Timeline(at("timeline"), at("events"), at("no-event"), at("more-events"));
    this.connection = "connecting"; // or "live", or the reason why not
    this.wasPaused = false;
    at("add").addEventListener("submit", (event) => this.add(event));
    at("ask").addEventListener("submit", (event) => this.ask(event));
    setInterval(() => {
      for (const camera of this.cameras.values()) camera.renderFacts();
      this.timeline.renderBars();
    }, CLOCK_MS);
  }

  // ---- Updates ----

  async follow() {
    for (;;) {
      if (document.hidden) await this.visible();
      let problem;
      try {
        const address = `updates?epoch=${this.epoch}&after=${this.version}`;
        const response = await fetch(address, { cache: "no-store", signal: AbortSignal.timeout(TIMEOUT_MS) });
        if (response.ok) await this.tryToShow(await response.arrayBuffer());
        else problem = await problemOf(response);
      } catch {
        problem = "llava-st view does not answer; trying again";
      }
      if (problem) {
        this.setConnection(problem);
        await new Promise((resolve) => setTimeout(resolve, RETRY_MS));
      }
    }
  }

  async tryToShow(buffer) {
    try {
      await this.show(buffer);
      this.setConnection("live");
    } catch (error) {
      console.error(error);
      [this.epoch, this.version] = ["", 0]; // everything again
      this.setConnection(`this page failed: ${error.message}`);
      await new Promise((resolve) => setTimeout(resolve, RETRY_MS));
    }
  }

  /** Wait while nobody sees the page: it costs the robot nothing. */
  async visible() {
    this.wasPaused = true;
    await new Promise((resolve) => {
      const check = () => {
        if (document.hidden) return;
        document.removeEventListener("visibilitychange", check);
        resolve();
      };
      document.addEventListener("visibilitychange", check);
    });
  }

  /** Show an update: the length of the JSON, the JSON, the pictures. */
  async show(buffer) {
    const length = new DataView(buffer).getUint32(0);
    const update = JSON.parse(new TextDecoder().decode(new Uint8Array(buffer, 4, length)));
    if (update.reset) this.reset();
    if (update.tasks) for (const id of ["add-task", "ask-task"]) addOptions(at(id), update.tasks);
    if (update.node) this.node = update.node;
    if (update.queries) this.renderQueries(update.queries);
    if ("hidden_queries" in update) {
      const count = update.hidden_queries;
      setText(at("more-queries"), count ? `${count} more queries are not shown` : "");
    }
    this.keepCameras(update.cameras.map(({ name }) => name));
    let offset = 4 + length;
    const drawn = update.cameras.map((values) => {
      const data = values.jpeg ? new Uint8Array(buffer, offset, values.jpeg) : null;
      offset += values.jpeg;
      for (const stamp of [values.stamp, values.tracks?.stamp]) if (stamp) this.timeline.seen(values.name, stamp);
      return this.camera(values.name).update(values, data, this.wasPaused);
    });
    if (update.events.length) this.timeline.add(update.events);
    for (const question of update.questions) this.questions.set(question.number, question);
    while (this.questions.size > MAX_QUESTIONS) this.questions.delete(this.questions.keys().next().value);
    if (update.questions.length) this.renderAnswers();
    await Promise.all(drawn);
    [this.epoch, this.version, this.wasPaused] = [update.epoch, update.version, false];
    this.renderNode();
  }

  /** Forget everything: the server or the node has started again. */
  reset() {
    this.timeline.clear();
    this.questions.clear();
    this.renderAnswers();
    this.cameras.clear();
    at("cameras").replaceChildren();
    at("no-camera").hidden = false;
  }

  /** Remove the cameras that the server has forgotten. */
  keepCameras(names) {
    const kept = new Set(names);
    for (const [name, view] of this.cameras) {
      if (kept.has(name)) continue;
      this.cameras.delete(name);
      view.close();
    }
    for (const option of document.querySelectorAll(".of-cameras option")) {
      if (option.value && !kept.has(option.value)) option.remove();
    }
  }

  camera(name) {
    if (!this.cameras.has(name)) {
      this.cameras.set(name, new CameraView(name));
      const views = [...this.cameras].sort(([a], [b]) => (a < b ? -1 : 1));
      at("cameras").replaceChildren(...views.map(([, view]) => view.root));
      at("no-camera").hidden = true;
      for (const id of ["add-camera", "ask-camera"]) addOptions(at(id), [name]);
    }
    return this.cameras.get(name);
  }

  // ---- What is shown ----

  setConnection(connection) {
    this.connection = connection;
    this.renderNode();
  }

  renderNode() {
    const { node, connection } = this;
    const isLive = connection === "live";
    const problem = isLive ? node?.problem ?? "" : connection === "connecting" ? "" : connection;
    const state = !isLive ? (problem ? "disconnected" : "connecting") : problem ? "problem" : "live";
    const text = { disconnected: "Disconnected", connecting: "Connecting", problem: "Problem", live: "Live" };
    if (at("state").dataset.state !== state) {
      at("state").dataset.state = state;
      at("state").textContent = text[state];
    }
    setText(at("alert"), problem);
    at("alert").hidden = !problem;
    if (!node) return;
    setText(at("node"), node.name);
    document.title = cut(`${node.name} - llava-st view`);
    setText(at("health"), node.message ?? "");
    at("health").className = node.level ?? "";
  }

  renderQueries(queries) {
    const list = at("queries");
    const hadFocus = list.contains(document.activeElement);
    list.replaceChildren(
      ...queries.map((query) => {
        const ariaLabel = `Remove query ${query.id}`;
        const remove = element("button", { type: "button", textContent: "Remove", ariaLabel });
        remove.addEventListener("click", () => this.remove(query.id, remove));
        const period = query.period === null ? "period not a number" : `every ${query.period} s`;
        const details = [query.id, query.task, query.cameras.join(", ") || "all cameras", period];
        if (query.expiry) details.push(`removed after ${query.expiry} s`);
        return element(
          "li",
          {},
          setClamped(element("p"), query.text || query.task),
          element("p", { className: "note", textContent: cut(details.join(", ")) }),
          remove,
        );
      }),
    );
    at("no-query").hidden = queries.length > 0;
    if (hadFocus) (list.querySelector("button") ?? at("add-text")).focus();
  }

  renderAnswers() {
    const states = { WAITING: "waits", RUNNING: "is being answered", FAILED: "not answered", CANCELED: "canceled" };
    const questions = [...this.questions.values()].sort((a, b) => b.number - a.number);
    at("answers").replaceChildren(
      ...questions.map((question) => {
        const item = element("li", {}, setClamped(element("p"), question.text));
        item.dataset.state = question.state;
        const tokens = question.tokens ? `, ${question.tokens} tokens` : "";
        const lines = question.state in states ? [`${states[question.state]}${tokens}`, ...question.lines] : question.lines;
        for (const line of lines) {
          const isProblem = question.state === "FAILED";
          item.append(element("p", { className: isProblem ? "note problem" : "note", textContent: line }));
        }
        if (["WAITING", "RUNNING"].includes(question.state)) {
          const ariaLabel = `Cancel question ${question.text}`;
          const cancel = element("button", { type: "button", textContent: "Cancel", ariaLabel });
          cancel.addEventListener("click", () => send("questions/cancel", { number: question.number }));
          item.append(cancel);
        }
        return item;
      }),
    );
  }

  // ---- What the user does ----

  async add(event) {
    event.preventDefault();
    const values = { text: at("add-text").value, id: at("add-id").value, task: at("add-task").value };
    values.cameras = at("add-camera").value ? [at("add-camera").value] : [];
    const result = await submit(event.target, "queries/add", values, at("add-result"));
    if (!result) return;
    at("add-text").value = at("add-id").value = "";
    showResult(at("add-result"), [`added as ${result.id}`, result.note].filter(Boolean).join("; "), false);
  }

  async remove(id, button) {
    button.disabled = true;
    const [isDone, result] = await send("queries/remove", { id });
    button.disabled = false;
    showResult(at("add-result"), isDone ? `removed ${id}` : result.problem, !isDone);
  }

  async ask(event) {
    event.preventDefault();
    const values = { text: at("ask-text").value, task: at("ask-task").value, camera: at("ask-camera").value };
    const result = await submit(event.target, "questions/ask", values, at("ask-result"));
    if (!result) return;
    at("ask-text").value = "";
    showResult(at("ask-result"), "", false);
  }
}

/** Send a form's values; returns the result, or shows why there is none. */
async function submit(form, path, values, note) {
  const button = form.querySelector("button");
  button.disabled = true;
  showResult(note, "sent", false);
  const [isDone, result] = await send(path, values);
  button.disabled = false;
  if (!isDone) showResult(note, result.problem, true);
  return isDone ? result : null;
}

function showResult(note, text, isProblem) {
  setText(note, text);
  note.classList.toggle("problem", isProblem);
}

/** POST values; returns whether it was done, and the result or {problem}. */
async function send(path, values) {
  try {
    const response = await fetch(path, {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify(values),
    });
    if (!response.ok) return [false, { problem: await problemOf(response) }];
    return [true, await response.json()];
  } catch {
    return [false, { problem: "llava-st view does not answer" }];
  }
}

async function problemOf(response) {
  try {
    return (await response.json()).problem;
  } catch {
    return `the server answers with status ${response.status}`;
  }
}

/** Add options that a select lacks. */
function addOptions(select, names) {
  const known = new Set([...select.options].map((option) => option.value));
  for (const name of names) if (!known.has(name)) select.append(element("option", { value: name, textContent: name }));
}

new View().follow();
