#!/usr/bin/env bash
# Measures in 8 minutes, on one NVIDIA GPU with 80 GB, what docs/performance.md lists as not measured.
#
#     benchmarks/gpu.sh [FOLDER]              writes FOLDER/gpu.csv and FOLDER/gpu.log (default: output/gpu)
#     benchmarks/gpu.sh --smoke [FOLDER]      tiny sizes, to see on any machine that the script runs
#
# It needs an environment with `pip install -e '.[cuda12]'` (PYTHON names another interpreter).
set -euo pipefail
cd "$(dirname "$0")/.."
smoke=()
if [[ "${1:-}" == --smoke ]]; then
  smoke=(--smoke)
  shift
fi
folder=${1:-output/gpu}
mkdir -p "$folder"
# The training step needs more than the 75% of the memory that JAX takes by default.
export XLA_PYTHON_CLIENT_MEM_FRACTION=${XLA_PYTHON_CLIENT_MEM_FRACTION:-0.92}
# The frames and the errors run programs that the stages have compiled.
export JAX_COMPILATION_CACHE_DIR=${JAX_COMPILATION_CACHE_DIR:-$folder/compiled}
{
  date --utc
  git rev-parse HEAD 2>/dev/null || true
  nvidia-smi --query-gpu=name,driver_version,memory.total,clocks.max.sm,power.limit --format=csv \
    || echo "nvidia-smi finds no GPU"
  "${PYTHON:-python}" -m rf_jax.studies.gpu_rates --csv "$folder/gpu.csv" "${smoke[@]}"
} 2>&1 | tee "$folder/gpu.log"
