# Sourced by the other scripts: sets the paths and selects the ROS 2 installation.

ROOT="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"

# A native ROS 2 has been sourced if both variables are set. Its folders are separate from those of
# the wheels, so that one checkout works in shells with and without it.
if [[ -n "${ROS_DISTRO:-}" && -n "${AMENT_PREFIX_PATH:-}" ]]; then
  ROS="native-$ROS_DISTRO"
  VENV="$ROOT/.venv-$ROS"
  INTERFACES="$ROOT/build/interfaces-$ROS"
else
  ROS="wheels"
  VENV="$ROOT/.venv"
  INTERFACES="$ROOT/build/interfaces"
fi
PREFIX="$INTERFACES/install"

say() { printf '[%s] %s\n' "$(basename "$0")" "$*"; }
die() {
  printf '[%s] error: %s\n' "$(basename "$0")" "$*" >&2
  exit 1
}

# prepend VARIABLE FOLDER: put FOLDER first in a colon-separated variable, once.
prepend() {
  local value=":${!1:-}:"
  value="${value//":$2:"/:}"
  value="${value#:}"
  value="${value%:}"
  export "$1=$2${value:+:$value}"
}

# Activate the virtual environment and the ROS wheels; a native ROS 2 is active already.
use_ros() {
  prepend PATH "$VENV/bin"
  export VIRTUAL_ENV="$VENV"
  [[ "$ROS" == wheels ]] || return 0
  prepend AMENT_PREFIX_PATH "$VENV"
  prepend CMAKE_PREFIX_PATH "$VENV"
  local folder
  for folder in "$VENV"/lib/python3*/site-packages/ros_*.libs "$VENV/lib"; do
    if [[ -d "$folder" ]]; then prepend LD_LIBRARY_PATH "$folder"; fi
  done
  # The wheels would re-execute Python once to set LD_LIBRARY_PATH, which is set here.
  export _ROS_WHEELS_BOOTSTRAP_COMPLETE=1
}

# fingerprint WORD... -- FILE...: a hash of the words and of the names and contents of the files.
fingerprint() {
  local words=()
  while [[ "$1" != -- ]]; do
    words+=("$1")
    shift
  done
  shift
  { printf '%s\n' "$ROOT" "${words[@]}" && cd "$ROOT" && sha256sum -- "$@"; } |
    sha256sum | cut -d' ' -f1
}
