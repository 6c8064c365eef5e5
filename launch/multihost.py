"""Does the runs of a config on several hosts that JAX joins, such as those of a TPU pod slice.

  python launch/multihost.py --config=configs/table_unsupervised.py

is started on every host at once (launch/tpu_pod.sh does). JAX finds the others by itself on Cloud
TPU, SLURM and Open MPI; elsewhere give --coordinator=<host>:<port>, --processes and --process. Each
host does its part of the runs on its own devices and writes their lines, so that no step of a run
waits for another host. The folder of results may be one that all see, or each host's own: lines
of several folders go into one by `cat`.
"""

from absl import flags
from ml_collections import config_flags

from imiad_jax import cli
from imiad_jax.errors import UserError

_CONFIG = config_flags.DEFINE_config_file("config", None, "A file of configs/.")
_COORDINATOR = flags.DEFINE_string("coordinator", None, "host:port of process 0.")
_PROCESSES = flags.DEFINE_integer("processes", None, "How many there are.")
_PROCESS = flags.DEFINE_integer("process", None, "The number of this one, from 0 on.")
_DAYS = 7


def main(argv: list[str]) -> None:
  """Joins the other hosts, does this one's part of the runs, and waits for the others to end."""
  del argv
  config = _CONFIG.value
  if config is None:
    raise UserError("No config was given: python launch/multihost.py --config=configs/...")
  import jax

  try:
    jax.distributed.initialize(
      _COORDINATOR.value,
      _PROCESSES.value,
      _PROCESS.value,
      shutdown_timeout_seconds=_DAYS * 86400,  # the parts do not end together
    )
  except (RuntimeError, ValueError) as e:
    raise UserError(f"The hosts were not joined: {e} See launch/README.md.") from e
  from imiad_jax import jobs, plans

  jobs.do(config, plans.part(plans.make(config), jax.process_index(), jax.process_count()))


if __name__ == "__main__":
  cli.run(main)
