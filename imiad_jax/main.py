"""The command that does the runs of a config.

python -m imiad_jax.main --config=configs/default.py:method=patchcore,dataset=synthetic
"""

import ml_collections
from absl import flags
from ml_collections import config_flags

from imiad_jax import cli
from imiad_jax.errors import UserError

_CONFIG = config_flags.DEFINE_config_file(
  "config", None, "A file of configs/, with its arguments after a colon."
)
_DRY_RUN = flags.DEFINE_bool(
  "dry_run", False, "Say which runs there are, which are done, and what the others may take."
)


def main(argv: list[str]) -> None:
  """Does the runs of the config that are not done, and prints the table of all of them."""
  del argv
  if _CONFIG.value is None:
    raise UserError(
      "No config was given. Try: python -m imiad_jax.main --config=configs/continual_dne.py"
    )
  if not isinstance(
    _CONFIG.value, ml_collections.ConfigDict
  ):  # the flag hides that it is not there
    file = config_flags.get_config_filename(flags.FLAGS["config"])
    raise UserError(
      f'"{file}" gives no config: no such file, or its get_config() returns no ConfigDict.'
    )
  from imiad_jax import jobs, plans  # JAX takes a second to import: not for --help

  config = _CONFIG.value
  plan = plans.make(config)
  if _DRY_RUN.value:
    print(plans.outline(plan, str(config.results)))
  else:
    jobs.do(config, plan)


if __name__ == "__main__":
  cli.run(main)
