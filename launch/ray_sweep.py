"""Does the runs of a config on a Ray cluster, or on this machine as a cluster of its own.

  python -m pip install ".[ray]"
  python launch/ray_sweep.py --config=configs/table_unsupervised.py
  python launch/ray_sweep.py --config=... --address=ray://<head>:10001 --gpus=1

The workers return lines and this program writes them, so that only its own machine needs the
folder of results; pictures and checkpoints are written by the workers, where they are. Each node
needs the package, and the data set at the same path. Runs that share features go to the same
worker. A worker or a node may be lost: another worker takes its place, and a run that lost three
has failed.
"""

import logging
from collections.abc import Mapping
from typing import Any

from absl import flags
from ml_collections import config_flags

from imiad_jax import cli
from imiad_jax.errors import UserError

_CONFIG = config_flags.DEFINE_config_file("config", None, "A file of configs/.")
_ADDRESS = flags.DEFINE_string("address", "", "Of a Ray cluster; a local one is started without.")
_WORKERS = flags.DEFINE_integer("workers", 0, "Workers; 0 is as many as the cluster has room for.")
_CPUS = flags.DEFINE_integer("cpus", 1, "Cores of each worker.")
_GPUS = flags.DEFINE_float("gpus", 0, "GPUs of each worker.")
_TRIES = flags.DEFINE_integer("tries", 3, "A run that loses so many workers has failed.")


class Worker:
  """An actor that does runs."""

  def __init__(self, config: Any):
    """Opens the data set of the config on the node where it is."""
    from imiad_jax import features, jobs, plans

    cli.log()
    plan = plans.make(config)
    self._worker = jobs.Worker(config, features.Store(plan.index, plan.source, plan.stages))

  def attempt(self, group: list[Any]) -> list[dict[str, Any]]:
    """Does runs that differ by their seeds at once, and returns the line of each."""
    return self._worker.attempt(group)


def main(argv: list[str]) -> None:
  """Hands out the runs of the config until each has its line, and prints the table."""
  del argv
  config = _CONFIG.value
  if config is None:
    raise UserError("No config was given: python launch/ray_sweep.py --config=configs/...")
  try:
    import ray
    from ray.exceptions import RayError
  except ImportError as e:
    raise UserError('Ray is not installed: python -m pip install ".[ray]".') from e
  import jax

  jax.config.update("jax_platforms", "cpu")  # accelerators are for the workers
  from imiad_jax import jobs, plans, sweeps

  plan = plans.make(config)
  sweep = sweeps.Sweep(config, plan, _TRIES.value)
  if plan.todo:
    _connect(ray)
    room = _room(ray.cluster_resources())
    if room < 1:
      raise UserError(f"No node has {_CPUS.value} cores and {_GPUS.value:g} GPUs for a worker.")
    Actor = ray.remote(num_cpus=_CPUS.value, num_gpus=_GPUS.value)(Worker)
    workers = {k: Actor.remote(config) for k in range(min(_WORKERS.value or room, len(plan.todo)))}
    busy: dict[Any, int] = {}  # the answer to come -> the worker's number
    idle = list(workers)
    while True:
      for k in list(idle):
        group = sweep.take(k)
        if group:
          idle.remove(k)
          busy[workers[k].attempt.remote(group)] = k
      if sweep.over:
        break
      (answer, *_), _ = ray.wait(list(busy))
      k = busy.pop(answer)
      try:
        sweep.took(k, ray.get(answer))
      except RayError as e:
        sweep.lost(k, str(e).strip().splitlines()[0])
        workers[k] = Actor.remote(config)
      idle.append(k)
    ray.shutdown()
  jobs.conclude(config, plan)


def _connect(ray: Any) -> None:
  """Joins the cluster, or starts one on this machine."""
  quiet = {"logging_level": logging.WARNING, "log_to_driver": False}
  try:
    ray.init(address=_ADDRESS.value or "local", include_dashboard=False, **quiet)
  except (ConnectionError, ValueError, RuntimeError) as e:
    raise UserError(f'There is no Ray cluster at "{_ADDRESS.value}": {e}') from e


def _room(resources: Mapping[str, float]) -> int:
  """Returns how many workers a cluster has room for."""
  room = resources.get("CPU", 0) / max(_CPUS.value, 1)
  if _GPUS.value:
    room = min(room, resources.get("GPU", 0) / _GPUS.value)
  return int(room)


if __name__ == "__main__":
  cli.run(main)
