#!/usr/bin/env bash
# mcap's iter_messages(reverse=True) yields the oldest message first of a file without chunk index.
#
# Versions: mcap 1.6.0 (Python).
#
# Behavior: if the summary has no chunk index, the reader of a seekable file reads it linearly and
# drops `reverse`. Messages arrive in ascending log time; nothing is raised or logged. The same
# bytes from a pipe are returned in descending log time.
#
# One would have guessed: descending log time, as iter_messages documents for every file, or an
# error. The linear read has all messages in memory and sorts them, so nothing prevents it.
#
# Where it matters: next(iter_messages(topic, ending_at=t, reverse=True)) is the usual way to find
# the latest image or transform at time t. Of a recording without chunks (`ros2 bag record -s mcap
# --storage-preset-profile fastwrite`) it returns the first one of the recording. If
# summary.chunk_indexes is empty, sort the messages yourself.
#
# Output seen:
#   mcap 1.6.0
#   chunks: 1 chunk indexes, 3 messages, reverse [3, 2, 1], latest at 2: 2
#   no chunks: 0 chunk indexes, 3 messages, reverse [1, 2, 3], latest at 2: 1
#   no chunks, from a pipe: reverse [3, 2, 1]
#   chunks without their index: 0 chunk indexes, 3 messages, reverse [1, 2, 3], latest at 2: 1
set -euo pipefail

work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -qq "mcap==1.6.0" 2>/dev/null

cat >"$work/probe.py" <<'PYTHON'
import os
import sys
from importlib.metadata import version
from pathlib import Path

from mcap.reader import make_reader
from mcap.writer import IndexType, Writer

print("mcap", version("mcap"))
path = Path(sys.argv[1]) / "recording.mcap"


def read_backwards(label, **options):
    """The log times in reverse, and the latest that is not after 2."""
    with path.open("wb") as stream:
        writer = Writer(stream, **options)
        writer.start()
        channel = writer.register_channel(topic="/pose", message_encoding="json", schema_id=0)
        for time in (1, 2, 3):
            writer.add_message(channel, log_time=time, data=b"{}", publish_time=time)
        writer.finish()
    with path.open("rb") as stream:
        reader = make_reader(stream)
        summary = reader.get_summary()
        times = [message.log_time for _, _, message in reader.iter_messages(reverse=True)]
        _, _, latest = next(reader.iter_messages("/pose", ending_at=2, reverse=True))
        print(
            f"{label}: {len(summary.chunk_indexes)} chunk indexes, "
            f"{summary.statistics.message_count} messages, reverse {times}, "
            f"latest at 2: {latest.log_time}"
        )
    return times, latest.log_time


def read_pipe_backwards(label):
    """The log times in reverse of the file that was written last, read from a pipe."""
    reading, writing = os.pipe()
    with os.fdopen(writing, "wb") as stream:
        stream.write(path.read_bytes())
    with os.fdopen(reading, "rb") as stream:
        messages = make_reader(stream).iter_messages(reverse=True)
        times = [message.log_time for _, _, message in messages]
    print(f"{label}, from a pipe: reverse {times}")
    return times


assert read_backwards("chunks") == ([3, 2, 1], 2)
without = read_backwards("no chunks", use_chunking=False)
assert read_pipe_backwards("no chunks") == [3, 2, 1]
unindexed = read_backwards("chunks without their index", index_types=IndexType.NONE)
assert without == unindexed == ([1, 2, 3], 1), "reverse is used without a chunk index now"
PYTHON

"$work/venv/bin/python" "$work/probe.py" "$work"
