"""Where the package keeps what it can make again: prepared data sets, compiled functions."""

import os


def folder(*parts: str) -> str:
  """Returns a path below $IMIAD_CACHE, or ~/.cache/imiad_jax where that is not set."""
  home = os.environ.get("IMIAD_CACHE") or os.path.join("~", ".cache", "imiad_jax")
  return os.path.join(os.path.expanduser(home), *parts)
