#!/usr/bin/env bash
# Build, test and measure everything that needs a GPU:
#   scripts/with_ros benchmarks/gpu.sh [RESULTS_DIR]     (default benchmarks/results)
# Needs nvcc for the kernels, TensorRT's headers for the plugin, torch with CUDA for the packer, and
# TensorRT or TensorRT for RTX with cuda-bindings for engines. Steps whose requirements are missing
# are reported and skipped. The exit status is the number of failed steps.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
results="$(mkdir -p "${1:-benchmarks/results}" && cd "${1:-benchmarks/results}" && pwd)"
build=build/engine-gpu
failed=0

step() { # step NAME COMMAND...: run a command with a time limit and report its exit status
  local name="$1" start=$SECONDS status
  shift
  echo "== $name: $*"
  timeout 180 "$@"
  status=$?
  echo "== $name: exit $status, $((SECONDS - start)) s"
  if [[ $status != 0 ]]; then failed=$((failed + 1)); fi
  return $status
}

if ! gpu="$(nvidia-smi --query-gpu=name,compute_cap --format=csv,noheader | head -n 1)"; then
  echo "nvidia-smi finds no GPU" >&2
  exit 1
fi
architecture="$(tr -dc 0-9 <<<"${gpu##*,}")"
name="$(tr -cs 'A-Za-z0-9\n' _ <<<"${gpu%%,*}")"
echo "$gpu, sm_$architecture"

headers="$(python -c 'import kernel_lens, pathlib; print(pathlib.Path(kernel_lens.__file__).parent / "include/tensorrt")' 2>/dev/null)"
if step configure cmake -S engine/native -B "$build" -DCMAKE_BUILD_TYPE=Release \
  -DLLAVA_ST_ENGINE_TESTS=ON -DCMAKE_CUDA_ARCHITECTURES="$architecture-real" \
  ${headers:+-DTENSORRT_INCLUDE_DIR="$headers"} &&
  step build cmake --build "$build" --parallel; then
  for test in test_gather_add_gelu_gpu test_region_attention_gpu test_plugin; do
    if [[ ! -e "$build/tests/$test" ]]; then
      echo "== $test skipped: TensorRT's headers are missing"
      continue
    fi
    step "$test" "$build/tests/$test"
    if command -v compute-sanitizer >/dev/null; then
      for tool in memcheck racecheck; do
        step "$tool $test" compute-sanitizer --tool "$tool" --error-exitcode 1 "$build/tests/$test"
      done
    else
      echo "== memcheck and racecheck skipped: compute-sanitizer is missing"
    fi
  done
  export LLAVA_ST_KERNELS="$PWD/$build/libllava_st_kernels.so"
  if [[ -e "$build/libllava_st_plugins.so" ]]; then
    export LLAVA_ST_PLUGINS="$PWD/$build/libllava_st_plugins.so"
  fi
fi

step "tests on the GPU" python -m pytest -q -m gpu tests
step parity python -m llava_st_ros.cli parity tests/golden/released-a --backend tensorrt
step packer python -m benchmarks.packer --device cuda --dtypes float16 bfloat16 \
  --out "$results/packer_$name.json"
exit "$failed"
