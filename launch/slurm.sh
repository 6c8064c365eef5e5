#!/usr/bin/env bash
# Does the runs of a config as a SLURM array: each of its jobs does a part, on the GPUs it is given.
#
#   sbatch --array=0-7 --gres=gpu:1 --cpus-per-task=8 --time=8:00:00 launch/slurm.sh \
#     --config=configs/table_unsupervised.py:dataset=mvtec_ad --config.data_dir=<folder>
#
# The folder of results must be one that all jobs see. A job that is stopped, for its time or for
# another's sake, is put back in the queue and goes on where it was.
#SBATCH --job-name=imiad
#SBATCH --array=0-7
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=imiad-%A-%a.log
set -euo pipefail
first=${SLURM_ARRAY_TASK_MIN:-0}
part=$((${SLURM_ARRAY_TASK_ID:-0} - first))
exec python launch/local.py "$@" "--part=$part/${SLURM_ARRAY_TASK_COUNT:-1}"
