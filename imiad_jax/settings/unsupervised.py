"""Unsupervised: learn the normal images of a category, test on its test split."""

from imiad_jax.settings import common
from imiad_jax.types import Index, Task

VERSION = "1"
runs = common.each


def tasks(index: Index, categories: tuple[str, ...], seed: int) -> list[Task]:
  """Returns one task: the official train split, told normal, and each category's test split."""
  del seed  # nothing is drawn
  return [common.merge([common.normal(index, c) for c in categories])]
