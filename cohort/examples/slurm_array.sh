#!/usr/bin/env bash
# A folder of crops, or a table of slides, as a job array of SLURM, without Ray: each job does its shard alone.
#
#   jobs=$(sbatch --parsable --array 1-64 --gpus 1 cohort/examples/slurm_array.sh slide SLIDES.csv OUT [option ...])
#   sbatch --dependency afterany:$jobs --wrap ".venv/bin/python process.py merge OUT OUT-shards/*"
#
# Run from the repository's root, on a file system that all machines share, after `make predict` has made .venv there.
# Queued again after its time ran out, a job goes on where it was. To do lost shards once more, say of how many they are:
# SHARDS=64 sbatch --array 3,7 ...
#SBATCH --job-name shards
#SBATCH --cpus-per-task 8
#SBATCH --time 12:00:00
#SBATCH --requeue
set -euo pipefail

mode=$1 input=$2 output=$3 shards=${SHARDS:-$SLURM_ARRAY_TASK_COUNT}
cd "$SLURM_SUBMIT_DIR"
.venv/bin/python process.py "$mode" "$input" "$output-shards/$SLURM_ARRAY_TASK_ID" "${@:4}" \
    --shard "$SLURM_ARRAY_TASK_ID/$shards" --resume
