"""Where the package keeps what it can make again: prepared data sets, compiled functions."""

import os


def folder(*parts: str) -> str:
  """Returns a path below $IMIAD_CACHE, or ~/.cache/imiad_jax where that is not set."""
  home = os.path.join(os.path.expanduser("~"), ".cache", "imiad_jax")
  return os.path.join(os.environ.get("IMIAD_CACHE", home), *parts)
