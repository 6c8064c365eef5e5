"""The synthetic data set: six drawn objects, 60 good training pictures each, no download."""

from pathlib import Path

import tensorflow_datasets as tfds
from imiad_jax.datasets import common  # pyright: ignore[reportMissingImports]
from imiad_jax.datasets.common import Example  # pyright: ignore[reportMissingImports]
from imiad_jax.datasets.synthetic import listing  # pyright: ignore[reportMissingImports]
from imiad_jax.datasets.synthetic.assemblies import ASSEMBLIES  # pyright: ignore[reportMissingImports]
from imiad_jax.datasets.synthetic.categories import CATEGORIES  # pyright: ignore[reportMissingImports]

OBJECTS = {**CATEGORIES, **ASSEMBLIES}
AMOUNTS = listing.Amounts(train=60, test=20, damage=5, mistake=5)


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
