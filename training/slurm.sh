#!/usr/bin/env bash
# Trains a recipe on several machines of a SLURM cluster, one task a machine, a process for each of its GPUs.
#
#   sbatch --nodes 2 --gpus-per-node 4 training/slurm.sh dinov3_hplus data.root=DIR [key=value ...]
#
# Run from the repository's root, on a file system that all machines share, after `make train-env` has made .venv there.
# Queued again after its time ran out, it goes on after the last whole epoch.
#SBATCH --job-name atypical-mitosis
#SBATCH --ntasks-per-node 1
#SBATCH --cpus-per-task 16
#SBATCH --time 24:00:00
#SBATCH --requeue
set -euo pipefail

export MACHINES=$SLURM_NNODES
export PROCESSES=${SLURM_GPUS_ON_NODE:-1}
export RUN_ID=$SLURM_JOB_ID
export SRUN_CPUS_PER_TASK=$SLURM_CPUS_PER_TASK  # steps do not inherit it since SLURM 22.05, and would get one processor
export MAIN_MACHINE
MAIN_MACHINE=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1):29500

# SLURM_SUBMIT_DIR, because SLURM runs a copy of this file from elsewhere.
srun --kill-on-bad-exit=1 "$SLURM_SUBMIT_DIR/training/train.sh" "$@"
