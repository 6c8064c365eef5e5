"""The command that does the runs of a config.

python -m imiad_jax.main --config=configs/default.py:method=patchcore,dataset=synthetic
"""

from ml_collections import config_flags

from imiad_jax import cli
from imiad_jax.errors import UserError

_CONFIG = config_flags.DEFINE_config_file(
  "config", None, "A file of configs/, with its arguments after a colon."
)


def main(argv: list[str]) -> None:
  """Does the runs of the config that are not done, and prints the table of all of them."""
  del argv
  if _CONFIG.value is None:
    raise UserError(
      "No config was given. Try: python -m imiad_jax.main --config=configs/continual_dne.py"
    )
  from imiad_jax import jobs  # JAX takes a second to import: not for --help

  jobs.do(_CONFIG.value)


if __name__ == "__main__":
  cli.run(main)
