"""How the commands start, and how a user's mistake ends: one sentence and exit code 2."""

import logging
import sys
from collections.abc import Callable

from absl import app, flags

from imiad_jax.errors import UserError


def run(program: Callable[[list[str]], None]) -> None:
  """Parses the flags and runs a command's main function."""
  _log()
  try:
    app.run(program, flags_parser=_parse)
  except UserError as e:
    print(f"error: {e}", file=sys.stderr)
    sys.exit(2)


def _log() -> None:
  """Shows the package's own progress on stderr; the libraries' only where they warn."""
  handler = logging.StreamHandler()
  handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S"))
  ours = logging.getLogger("imiad_jax")
  ours.addHandler(handler)
  ours.setLevel(logging.INFO)
  ours.propagate = False


def _parse(argv: list[str]) -> list[str]:
  """Parses the flags; what is wrong with one is the user's mistake, not a crash."""
  try:
    rest = flags.FLAGS(argv)
  except (flags.Error, AttributeError, KeyError, TypeError, ValueError, OSError) as e:
    raise UserError(f"{str(e).strip(chr(34) + chr(39))} See --help.") from e
  if len(rest) > 1:
    raise UserError(f'Unexpected argument "{rest[1]}". Options begin with two dashes; see --help.')
  return rest
