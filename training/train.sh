#!/usr/bin/env bash
# Trains a recipe of training/configs/ and writes its weights folder; run again, it goes on where it was interrupted.
#
#   training/train.sh compact data.root=DIR [key=value ...]
#   PROCESSES=4 training/train.sh dinov3_hplus data.root=DIR        # four GPUs, or four processes on the CPU
#
# DIR holds manifest.csv and the crops (training/prepare.py). Values are those of training/config.py. The batch size is
# that of all processes together. Several machines: training/slurm.sh.
set -euo pipefail
cd "$(dirname "$0")/.."

make --no-print-directory --silent train-env

# Keep freed memory instead of handing it back to the kernel and faulting it in again at every step: a step of the
# compact recipe on two cores takes about a quarter less time.
export MALLOC_ARENA_MAX=1 MALLOC_MMAP_MAX_=0 MALLOC_TRIM_THRESHOLD_=17179869184 MALLOC_TOP_PAD_=268435456

launcher=()
if ((${PROCESSES:-1} > 1 || ${MACHINES:-1} > 1)); then
    # With several processes each would take all cores; the launcher's own default, with a warning, is one.
    export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
    launcher=(-m training.launch --nproc-per-node "${PROCESSES:-1}" --nnodes "${MACHINES:-1}")
    if ((${MACHINES:-1} > 1)); then
        launcher+=(--rdzv-backend c10d --rdzv-endpoint "$MAIN_MACHINE" --rdzv-id "${RUN_ID:-atypical-mitosis}")
    else
        launcher+=(--standalone)
    fi
fi
exec .venv/bin/python "${launcher[@]}" -m training.train "$@"
