#!/usr/bin/env bash
# One task of a sweep, as a task of a Slurm array: the array's numbers are the sweep's, from 0.
#
#   sbatch --array=0-$(($(ptq4vit-gpu sweep --plan plan.toml --count) - 1)) slurm-sweep.sh --plan plan.toml
#
# The arguments are sweep's. A task that is finished is not done again, so the whole array can be submitted twice.
#
#SBATCH --job-name=ptq4vit-sweep
#SBATCH --output=%x-%A-%a.log
#SBATCH --gpus=1
#SBATCH --cpus-per-task=8
#SBATCH --mem=32G
#SBATCH --time=04:00:00
set -euo pipefail

exec ptq4vit-gpu sweep "$@" --task "$SLURM_ARRAY_TASK_ID"
