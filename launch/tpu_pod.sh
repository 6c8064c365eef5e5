#!/usr/bin/env bash
# Does the runs of a config on a TPU pod slice, of which each host does a part.
#
#   launch/tpu_pod.sh <name> <zone> --config=configs/table_unsupervised.py:dataset=mvtec_ad \
#     --config.data_dir=<folder> --config.results=<folder>
#
# The slice has the package in ~/imiad_jax on every host (see launch/README.md). Each host writes to
# its own folder of results unless the one given is mounted on all of them.
set -euo pipefail
if [ $# -lt 3 ]; then
  echo "usage: launch/tpu_pod.sh <name> <zone> --config=... [more flags]" >&2
  exit 2
fi
name=$1 zone=$2
shift 2
command="cd ~/imiad_jax && python launch/multihost.py $(printf '%q ' "$@")"
exec gcloud compute tpus tpu-vm ssh "$name" "--zone=$zone" --worker=all "--command=$command"
