"""The synthetic data set: six drawn objects, 60 good training pictures each, no download."""

import functools
from pathlib import Path

import tensorflow_datasets as tfds
from imiad_jax.datasets import common  # pyright: ignore[reportMissingImports]
from imiad_jax.datasets.common import Example, counts  # pyright: ignore[reportMissingImports]
from imiad_jax.datasets.common.pictures import png  # pyright: ignore[reportMissingImports]
from imiad_jax.datasets.synthetic import defects  # pyright: ignore[reportMissingImports]

TRAIN, TEST, DEFECTS = 60, 20, 5  # good pictures to learn and to test, pictures a kind of defect


class Builder(common.Builder):
  """Draws its pictures while it builds; nothing is read."""

  VERSION = tfds.core.Version("1.0.0")
  RELEASE_NOTES = {"1.0.0": "First release."}
  CATEGORIES = tuple(sorted(defects.OBJECTS))
  COUNTS = {
    category: counts.usual(TRAIN, TEST, DEFECTS * len(defects.defects(category)))
    for category in defects.OBJECTS
  }

  @classmethod
  def examples(cls, root: Path | None) -> list[Example]:
    """Lists the pictures, each with what draws it."""
    del root
    return [
      example(category, split, kind, number)
      for category in cls.CATEGORIES
      for split, kind, count in (
        ("train", "good", TRAIN),
        ("test", "good", TEST),
        *(("test", kind, DEFECTS) for kind in defects.defects(category)),
      )
      for number in range(count)
    ]


def example(category: str, split: str, kind: str, number: int) -> Example:
  """Returns one example, not yet drawn."""
  at = (category, split, kind, number)
  mask = None if kind == "good" else functools.partial(_mask, *at)
  name = f"{category}/{split}/{kind}/{number:03d}.png"
  return Example(name, category, split, kind, functools.partial(_image, *at), mask)


def _image(*at) -> bytes:
  return png(defects.picture(*at)[0])


def _mask(*at) -> bytes:
  return png(defects.picture(*at)[1])
