"""Continual: category after category in the order given, every one so far tested after each.

One pass, one model; nothing tells the model which task a test image belongs to. Performance is
the mean over tasks after the last one, forgetting the best earlier result minus that (IM-IAD,
arXiv 2301.13359, Table IV).
"""

from imiad_jax.settings import unsupervised
from imiad_jax.types import Index, Task

VERSION = "1"


def runs(categories: tuple[str, ...]) -> list[tuple[str, ...]]:
  """Returns the categories of each run: one run meets them all, in order."""
  return [categories]


def tasks(index: Index, categories: tuple[str, ...], seed: int) -> list[Task]:
  """Returns the tasks in the order they are learnt."""
  return unsupervised.tasks(index, categories, seed)
