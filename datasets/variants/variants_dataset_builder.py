"""The data set of variants: two drawn objects whose parts must belong together, no download."""

from pathlib import Path

import tensorflow_datasets as tfds
from imiad_jax.datasets import common  # pyright: ignore[reportMissingImports]
from imiad_jax.datasets.common import Example  # pyright: ignore[reportMissingImports]
from imiad_jax.datasets.synthetic import listing  # pyright: ignore[reportMissingImports]
from imiad_jax.datasets.variants.objects import OBJECTS  # pyright: ignore[reportMissingImports]

AMOUNTS = listing.Amounts(train=60, test=40, damage=5, mistake=40)


class Builder(common.Builder):
  """Draws its pictures while it builds; nothing is read."""

  VERSION = tfds.core.Version("1.0.0")
  RELEASE_NOTES = {"1.0.0": "First release."}
  CATEGORIES = tuple(sorted(OBJECTS))
  COUNTS = listing.numbers(OBJECTS, AMOUNTS)

  @classmethod
  def examples(cls, root: Path | None) -> list[Example]:
    """Lists the pictures, each with what draws it."""
    del root
    return listing.examples(OBJECTS, AMOUNTS)
