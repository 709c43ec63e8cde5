// The current frame of a camera: loading, stepping and playing.

const AHEAD = 4; // frames loaded before they are shown
const KEPT = 12; // decoded frames

export class Player extends EventTarget {
  /** Shows frames in place of an <img>; url(frame) is the address of a frame. */
  constructor(image) {
    super();
    this.image = image;
    this.count = 0;
    this.frame = 0;
    this.shown = -1;
    this.playing = false;
    this.speed = 1;
    this.images = new Map(); // frame to its promise, oldest first
  }

  open(camera, url) {
    this.stop();
    this.camera = camera;
    this.url = url;
    this.count = camera.stamps.length;
    this.images.clear();
    this.shown = -1;
    this.frame = -1;
    this.seek(0);
  }

  /** Make a frame the current one and show it as soon as it is loaded. */
  seek(frame) {
    const next = Math.max(0, Math.min(this.count - 1, Math.round(frame)));
    if (next === this.frame) return Promise.resolve();
    const step = next > this.frame ? 1 : -1;
    this.frame = next;
    this.dispatchEvent(new Event("seek"));
    return this.display(next, step);
  }

  /** Stop at the frame that is visible: what is drawn next belongs to it. */
  settle() {
    this.stop();
    if (this.shown >= 0 && this.shown !== this.frame) this.seek(this.shown);
  }

  async display(frame, step) {
    const { camera } = this;
    if (this.waiting) {
      this.wanted = [frame, step]; // the newest one is loaded next; those between are skipped
      return this.waiting;
    }
    this.waiting = (async () => {
      let problem = "";
      let image = null;
      try {
        image = await this.load(frame);
      } catch (error) {
        problem = error.message;
      }
      this.waiting = null;
      if (camera !== this.camera) return;
      this.shown = frame;
      if (image) {
        this.image.replaceWith(image); // it is decoded: the frame and its boxes change together
        this.image = image;
      }
      this.dispatchEvent(new CustomEvent("shown", { detail: { problem } }));
      if (frame === this.frame) {
        for (let ahead = 1; ahead <= AHEAD; ahead++) {
          const other = frame + ahead * step;
          if (other >= 0 && other < this.count) this.load(other).catch(() => {});
        }
      }
    })();
    await this.waiting;
    const wanted = this.wanted;
    this.wanted = null;
    if (wanted && (wanted[0] !== frame || camera !== this.camera)) await this.display(...wanted);
    return undefined;
  }

  load(frame) {
    const known = this.images.get(frame);
    if (known) return known;
    const url = this.url(frame);
    const loading = (async () => {
      const image = new Image();
      image.alt = "";
      image.draggable = false;
      image.src = url;
      try {
        await image.decode();
      } catch {
        this.images.delete(frame);
        throw new Error(await reasonOf(url));
      }
      return image;
    })();
    this.images.set(frame, loading);
    for (const old of this.images.keys()) {
      if (this.images.size <= KEPT) break;
      this.images.delete(old);
    }
    return loading;
  }

  toggle() {
    if (this.playing) this.stop();
    else this.play();
  }

  /** Play from the current frame (from the start at the end) at the pace of the stamps. */
  play() {
    if (this.frame >= this.count - 1) this.seek(0);
    this.playing = true;
    const { times } = this.camera;
    let last = performance.now();
    let time = times[this.frame];
    const tick = (now) => {
      if (!this.playing) return;
      time += (now - last) * 1e6 * this.speed;
      last = now;
      let next = this.frame;
      while (next < this.count - 1 && times[next + 1] <= time) next++;
      // A pause in the recording is not waited for.
      if (next === this.frame && times[next + 1] - time > 1e9) {
        next++;
        time = times[next];
      }
      if (next !== this.frame) {
        if (this.waiting) time = Math.min(time, times[next]); // frames that load slowly
        else this.seek(next);
      }
      if (this.frame >= this.count - 1) this.stop();
      else requestAnimationFrame(tick);
    };
    requestAnimationFrame(tick);
    this.dispatchEvent(new Event("state"));
  }

  stop() {
    if (!this.playing) return;
    this.playing = false;
    this.dispatchEvent(new Event("state"));
  }
}

async function reasonOf(url) {
  try {
    const response = await fetch(url);
    if (response.ok) return "the browser cannot show it";
    return (await response.json()).problem;
  } catch {
    return "the command does not answer";
  }
}
