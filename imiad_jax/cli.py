"""How the commands start, and how a user's mistake ends: one sentence and exit code 2."""

import logging
import sys
from collections.abc import Callable

from absl import app, flags

from imiad_jax.errors import UserError

# What absl, ConfigDict and a config file raise for them.
_MISTAKES = (
  flags.Error,
  AttributeError,
  ImportError,
  LookupError,
  OSError,
  SyntaxError,
  TypeError,
  ValueError,
)


def run(program: Callable[[list[str]], None]) -> None:
  """Parses the flags and runs a command's main function."""
  log()
  try:
    app.run(program, flags_parser=_parse)
  except UserError as e:
    print(f"error: {e}", file=sys.stderr)
    sys.exit(2)
  except KeyboardInterrupt:
    print("stopped; the same command goes on from here", file=sys.stderr)
    sys.exit(130)


def log() -> None:
  """Shows the package's own progress on stderr; the libraries' only where they warn."""
  handler = logging.StreamHandler()
  handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S"))
  ours = logging.getLogger("imiad_jax")
  ours.addHandler(handler)
  ours.setLevel(logging.INFO)
  ours.propagate = False


def _parse(argv: list[str]) -> list[str]:
  """Parses the flags; what is wrong with one is the user's mistake, not a crash."""
  quiet = "--verbosity=-1"  # only warnings: absl's default shows whatever the libraries say
  try:
    rest = flags.FLAGS([argv[0], quiet, *argv[1:]])
  except SystemExit:  # --help, which absl ends with 1
    sys.exit(0)
  except _MISTAKES as e:
    raise UserError(f"{_line(e)} See --help.") from e
  if len(rest) > 1:
    raise UserError(f'Unexpected argument "{rest[1]}". Options begin with two dashes; see --help.')
  return rest


def _line(e: Exception) -> str:
  """Returns in one line what the flags' parsers, or a config file, complain about."""
  if e.args and isinstance(e.args[0], KeyError):  # ConfigDict's way to raise AttributeError
    e = e.args[0]
  said = f"The config has no {e.args[0]}" if isinstance(e, KeyError) else str(e) or repr(e)
  lines = [line.strip(" :.") for line in said.splitlines() if line.strip()]
  said = ": ".join(dict.fromkeys([lines[0], lines[-1]]))  # what lies between is a traceback
  return said if said.endswith("?") else f"{said}."
