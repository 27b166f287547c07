#!/usr/bin/env bash
# A cohort on several machines of a SLURM cluster, with Ray: one predictor for each GPU.
#
#   sbatch --nodes 4 --gpus-per-node 4 cohort/examples/slurm_ray.sh SLIDES.parquet OUT [option ...]
#
# Run from the repository's root, on a file system that all machines share, with cohort/requirements.txt in .venv there.
# Queued again after its time ran out, or after a machine was lost, it goes on where it was.
#SBATCH --job-name cohort
#SBATCH --ntasks-per-node 1
#SBATCH --cpus-per-task 32
#SBATCH --exclusive
#SBATCH --time 24:00:00
#SBATCH --requeue
set -euo pipefail

cd "$SLURM_SUBMIT_DIR"
export RAY_USAGE_STATS_ENABLED=0
export SRUN_CPUS_PER_TASK=$SLURM_CPUS_PER_TASK  # steps do not inherit it since SLURM 22.05, and would get one processor
gpus=${SLURM_GPUS_ON_NODE:-0}
head=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
address=$head:6379
ray=$PWD/.venv/bin/ray

# Each in the foreground of its own step, so that SLURM ends it with the job.
srun --nodes 1 --ntasks 1 --nodelist "$head" "$ray" start --head --block --port 6379 --include-dashboard false \
    --num-cpus "$SLURM_CPUS_PER_TASK" --num-gpus "$gpus" &
if ((SLURM_NNODES > 1)); then
    srun --nodes $((SLURM_NNODES - 1)) --ntasks $((SLURM_NNODES - 1)) --exclude "$head" bash -c \
        'until "$1" start --block --address "$2" --num-cpus "$3" --num-gpus "$4"; do sleep 5; done' \
        - "$ray" "$address" "$SLURM_CPUS_PER_TASK" "$gpus" &
fi
all_there() {
    .venv/bin/python -c "
import sys, ray
ray.init(address=sys.argv[1], log_to_driver=False)
sys.exit(sum(node['Alive'] for node in ray.nodes()) < int(sys.argv[2]))" "$address" "$SLURM_NNODES"
}
for ((tries = ${TRIES:-120}; tries > 0; tries--)); do
    all_there 2> /dev/null && break
    sleep 5
done
if ((tries == 0)) && ! all_there; then
    echo "Ray does not run on all $SLURM_NNODES machines; what it said is above." >&2
    exit 1
fi
.venv/bin/python -m cohort.predict "$@" --address "$address" --gpus $((gpus * SLURM_NNODES))
