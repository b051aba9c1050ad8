#!/usr/bin/env bash
# One shard of an evaluation, as a task of a Slurm array: the array's numbers are the shards', from 0.
#
#   sbatch --array=0-15 slurm-eval.sh 16 parts --model M.safetensors --quantized Q.safetensors --images imagenet/val
#
# The first argument is the number of shards, the second the folder of the parts; the others are eval's.
#
#SBATCH --job-name=ptq4vit-eval
#SBATCH --output=%x-%A-%a.log
#SBATCH --gpus=1
#SBATCH --cpus-per-task=8
#SBATCH --mem=16G
#SBATCH --time=01:00:00
set -euo pipefail

# Told, not taken from SLURM_ARRAY_TASK_COUNT: where failed tasks alone are submitted again, that counts those.
shards=$1
parts=$2
shift 2
mkdir -p "$parts"
exec ptq4vit-gpu eval "$@" --shard "$SLURM_ARRAY_TASK_ID/$shards" --out "$parts/$SLURM_ARRAY_TASK_ID.json"
