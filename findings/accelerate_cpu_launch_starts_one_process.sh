#!/usr/bin/env bash
# `accelerate launch --cpu --num_processes 2` starts one process, without a warning.
#
# Versions: accelerate 1.15.0, torch 2.13.0, Python 3.10 to 3.12.
#
# Behavior: without MPI the launcher ignores --num_processes when --cpu is given. The script runs
# once, with a world of one process; the exit code is 0 and no warning is printed. The same command
# with --multi_gpu and ACCELERATE_USE_CPU=true does start two processes, on CPUs.
#
# One would have guessed: two processes, or an error that the launcher needs MPI for that.
#
# Where it matters: a test of distributed training on a machine without GPUs passes although nothing
# is distributed, and a run on two sockets uses one. Assert the world size in the script.
#
# Output seen:
#   accelerate 1.15.0
#   --cpu --num_processes 2: 1 process, world sizes [1]
#   --multi_gpu --num_processes 2 with ACCELERATE_USE_CPU=true: 2 processes, world sizes [2, 2]
set -euo pipefail

work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -qq "torch==2.13.0" 2>/dev/null
"$work/venv/bin/pip" install -qq "accelerate==1.15.0" "numpy<3" 2>/dev/null

cat >"$work/member.py" <<'PYTHON'
import os
import sys
from pathlib import Path

from accelerate import Accelerator

accelerator = Accelerator(cpu=True)
Path(sys.argv[1], str(os.getpid())).write_text(str(accelerator.num_processes))
PYTHON

cat >"$work/probe.py" <<'PYTHON'
import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

work, launcher = Path(sys.argv[1]), Path(sys.executable).with_name("accelerate")


def worlds(name, *options, **variables):
    folder = work / name
    folder.mkdir()
    command = [launcher, "launch", "--num_machines", "1", "--num_processes", "2", *options]
    result = subprocess.run(
        [*command, work / "member.py", folder],
        env={**os.environ, "HF_HOME": str(work), **variables},
        capture_output=True,
        text=True,
        timeout=150,
    )
    assert result.returncode == 0, result.stderr
    return [int(path.read_text()) for path in folder.iterdir()], result.stdout + result.stderr


print("accelerate", version("accelerate"))
one, said = worlds("cpu", "--cpu")
print(f"--cpu --num_processes 2: {len(one)} process, world sizes {one}")
two, _ = worlds("multi", "--multi_gpu", ACCELERATE_USE_CPU="true")
print(f"--multi_gpu --num_processes 2 with ACCELERATE_USE_CPU=true: {len(two)} processes, world sizes {two}")
assert one == [1] and "num_processes" not in said, "the launcher starts two processes or explains why not"
assert two == [2, 2], "the other command no longer starts two processes"
PYTHON

"$work/venv/bin/python" "$work/probe.py" "$work"
