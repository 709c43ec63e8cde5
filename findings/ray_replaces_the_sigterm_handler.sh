#!/usr/bin/env bash
# ray.init() replaces the process's SIGTERM handler, and ray.shutdown() does not restore it.
#
# Versions: ray 2.60.0, Python 3.10 to 3.12.
#
# Behavior: a program that has installed a handler for SIGTERM and then calls ray.init() no longer
# has it: Ray's own handler exits the process. The handler stays Ray's after ray.shutdown().
#
# One would have guessed: a library leaves a program's signal handlers alone, or calls the earlier
# one, or puts it back at shutdown.
#
# Where it matters: an evaluation of robot recordings that runs as a service or a cluster job and
# keeps its finished recordings when it is stopped (systemd, Kubernetes and schedulers send SIGTERM)
# loses that. Install the handler again after ray.init().
#
# Output seen:
#   ray 2.60.0
#   own handler before ray.init: True
#   own handler after ray.init: False
#   own handler after ray.shutdown: False
set -euo pipefail

work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q "ray==2.60.0"

cat >"$work/probe.py" <<'PYTHON'
import signal
from importlib.metadata import version

import ray


def stop(*_):
    print("finishing what is begun")


print("ray", version("ray"))
signal.signal(signal.SIGTERM, stop)
states = [signal.getsignal(signal.SIGTERM) is stop]
print("own handler before ray.init:", states[-1])
ray.init(num_cpus=1, include_dashboard=False, logging_level="ERROR")
states.append(signal.getsignal(signal.SIGTERM) is stop)
print("own handler after ray.init:", states[-1])
ray.shutdown()
states.append(signal.getsignal(signal.SIGTERM) is stop)
print("own handler after ray.shutdown:", states[-1])
assert states == [True, False, False], "Ray leaves the handler alone now"
PYTHON

HOME="$work" "$work/venv/bin/python" "$work/probe.py"
