// The boxes of one object over the frames of a camera: values that are never modified.
//
// boxes: Map of frame number to [x1, y1, x2, y2] in pixels, where the object is visible.
// keys:  Set of the frame numbers whose box a person or tool set; the others are interpolated.
// ends:  Set of frame numbers from which the object is not visible, until its next keyframe.

export const EMPTY = Object.freeze({ boxes: new Map(), keys: new Set(), ends: new Set() });

const copied = (track) => ({
  boxes: new Map(track.boxes),
  keys: new Set(track.keys),
  ends: new Set(track.ends),
});

/** The last keyframe before a frame; undefined if there is none. */
export function previousKey(track, frame) {
  let found;
  for (const key of track.keys) if (key < frame && !(found >= key)) found = key;
  return found;
}

/** The first keyframe after a frame; undefined if there is none. */
export function nextKey(track, frame) {
  let found;
  for (const key of track.keys) if (key > frame && !(found <= key)) found = key;
  return found;
}

/** The first end in (from, to]; undefined if there is none. */
function endIn(track, from, to) {
  let found;
  for (const end of track.ends) if (end > from && end <= to && !(found <= end)) found = end;
  return found;
}

/** Interpolate the frames between two keyframes, linearly in time. */
function interpolate(track, from, to, times) {
  const a = track.boxes.get(from);
  const b = track.boxes.get(to);
  for (let frame = from + 1; frame < to; frame++) {
    const share = (times[frame] - times[from]) / (times[to] - times[from]);
    track.boxes.set(frame, a.map((value, side) => value + (b[side] - value) * share));
  }
}

/** Keep the box of a keyframe up to, but without, a frame. */
function hold(track, key, to) {
  for (let frame = key + 1; frame < to; frame++) track.boxes.set(frame, track.boxes.get(key));
}

/** Fill the frames after a keyframe up to the next one: interpolated, or held up to an end. */
function fillAfter(track, key, times) {
  const next = nextKey(track, key);
  const end = endIn(track, key, next ?? Infinity);
  if (end !== undefined) hold(track, key, end);
  else if (next !== undefined) interpolate(track, key, next, times);
}

/** Set the box of a frame, which becomes a keyframe. */
export function setBox(track, frame, box, times) {
  const changed = copied(track);
  const before = previousKey(track, frame);
  changed.boxes.set(frame, box);
  changed.keys.add(frame);
  changed.ends.delete(frame);
  // Frames before a keyframe that ends a gap keep their boxes.
  if (before !== undefined && endIn(changed, before, frame) === undefined) {
    interpolate(changed, before, frame, times);
  }
  fillAfter(changed, frame, times);
  return changed;
}

/** Remove the box of a frame. A keyframe's neighbors are interpolated again. */
export function removeBox(track, frame, times) {
  const changed = copied(track);
  if (!track.keys.has(frame)) {
    if (!track.boxes.has(frame)) return changed;
    changed.boxes.delete(frame);
    changed.ends.add(frame);
    // The gap is this frame alone: what follows starts with a keyframe.
    if (!changed.ends.delete(frame + 1) && track.boxes.has(frame + 1)) changed.keys.add(frame + 1);
    return changed;
  }
  const before = previousKey(track, frame);
  const after = nextKey(track, frame);
  const isFirst = before === undefined || endIn(track, before, frame) !== undefined;
  changed.keys.delete(frame);
  if (isFirst || (after === undefined && endIn(track, frame, Infinity) === undefined)) {
    // The part of the track between this keyframe and the neighbor that remains.
    const from = isFirst ? frame : before + 1;
    const to = isFirst ? (after ?? Infinity) : frame + 1;
    for (const key of track.boxes.keys()) if (key >= from && key < to) changed.boxes.delete(key);
    const end = isFirst ? endIn(track, frame, after ?? Infinity) : undefined;
    if (end !== undefined) changed.ends.delete(end);
  } else {
    fillAfter(changed, before, times);
  }
  return changed;
}

/** Whether an object was marked not visible from this frame on. */
export const isEnd = (track, frame) => track.ends.has(frame);

/** Whether an object is in a gap or behind its end: not visible since an earlier frame. */
export function isHidden(track, frame) {
  const before = previousKey(track, frame + 1);
  return before === undefined || endIn(track, before, frame) !== undefined;
}

/** Mark an object not visible from a frame until its next keyframe. Before, its box is held. */
export function endAt(track, frame) {
  const changed = copied(track);
  const before = previousKey(track, frame);
  const after = nextKey(track, frame);
  changed.keys.delete(frame);
  for (const key of track.boxes.keys()) {
    if (key >= frame && key < (after ?? Infinity)) changed.boxes.delete(key);
  }
  for (const end of track.ends) {
    if (end > frame && end <= (after ?? Infinity)) changed.ends.delete(end);
  }
  if (before !== undefined && endIn(track, before, frame) === undefined) {
    for (let held = before + 1; held < frame; held++) {
      if (!changed.boxes.has(held)) changed.boxes.set(held, track.boxes.get(before));
    }
    changed.ends.add(frame);
  }
  return changed;
}

/** Remove the mark that an object is not visible from a frame on: it is interpolated again. */
export function continueAt(track, frame, times) {
  if (!track.ends.has(frame)) return track;
  const changed = copied(track);
  changed.ends.delete(frame);
  const before = previousKey(track, frame);
  const after = nextKey(track, frame);
  if (before === undefined) return changed;
  if (after !== undefined) {
    fillAfter(changed, before, times);
  } else {
    for (const key of track.boxes.keys()) if (key > before) changed.boxes.delete(key);
  }
  return changed;
}

/** The ends that boxes imply: where they pause, and behind a last one that is no keyframe. */
export function impliedEnds(boxes, keys, count) {
  const lasts = runs(boxes.keys()).map(([, last]) => last);
  if (keys.has(lasts.at(-1))) lasts.pop();
  return new Set(lasts.map((last) => last + 1).filter((end) => end < count));
}

/** The runs of consecutive frames: [first, last] each, in order. */
export function runs(frames) {
  const found = [];
  for (const frame of [...frames].sort((a, b) => a - b)) {
    const last = found.at(-1);
    if (last && last[1] === frame - 1) last[1] = frame;
    else found.push([frame, frame]);
  }
  return found;
}
