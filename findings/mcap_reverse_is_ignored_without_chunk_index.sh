#!/usr/bin/env bash
# mcap's iter_messages(reverse=True) returns the oldest message first if the file has no chunk index.
#
# Versions: mcap 1.6.0 (Python).
#
# Behavior: without a chunk index in the summary the reader falls back to a linear reader that takes
# `reverse` and does not use it. Messages arrive in ascending log time; nothing is raised or logged.
# The file is seekable and complete, and has a summary with statistics.
#
# One would have guessed: descending log time, as the documentation of iter_messages says for every
# file, or an error. In the fallback all messages are in memory and sorted, so nothing prevents it.
#
# Where it matters: next(iter_messages(topic, ending_at=t, reverse=True)) is the usual way to find the
# latest image or transform at time t. Of a recording without chunks (`ros2 bag record -s mcap
# --storage-preset-profile fastwrite`) it is the first one of the recording. Compare log times, or
# call reversed(list(...)) if summary.chunk_indexes is empty.
#
# Output seen:
#   mcap 1.6.0
#   chunks: 1 chunk indexes, 3 messages, reverse [3, 2, 1], latest at 2: 2
#   no chunks: 0 chunk indexes, 3 messages, reverse [1, 2, 3], latest at 2: 1
#   chunks without their index: 0 chunk indexes, 3 messages, reverse [1, 2, 3], latest at 2: 1
set -euo pipefail

work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -qq "mcap==1.6.0" 2>/dev/null

cat >"$work/probe.py" <<'PYTHON'
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


assert read_backwards("chunks") == ([3, 2, 1], 2)
without = read_backwards("no chunks", use_chunking=False)
unindexed = read_backwards("chunks without their index", index_types=IndexType.NONE)
assert without == unindexed == ([1, 2, 3], 1), "reverse is used without a chunk index now"
PYTHON

"$work/venv/bin/python" "$work/probe.py" "$work"
