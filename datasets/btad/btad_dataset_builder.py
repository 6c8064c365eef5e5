"""BTAD, the three products of Mishra, Verk, Fornasier, Piciarelli and Foresti (2021)."""

from pathlib import Path

import tensorflow_datasets as tfds
from imiad_jax.datasets import common  # pyright: ignore[reportMissingImports]
from imiad_jax.datasets.common import (  # pyright: ignore[reportMissingImports]
  Archive,
  Example,
  counts,
  layout,
)

_COUNTS = {"01": (400, 21, 49), "02": (399, 30, 200), "03": (1000, 400, 41)}


class Builder(common.Builder):
  """2540 pictures of three industrial products, named `ok` and `ko`, some .png and some .bmp."""

  VERSION = tfds.core.Version("1.0.0")
  RELEASE_NOTES = {"1.0.0": "First release."}
  CATEGORIES = tuple(_COUNTS)
  COUNTS = {category: counts.usual(*n) for category, n in _COUNTS.items()}
  ARCHIVE = Archive(
    "https://avires.dimi.uniud.it/papers/btad/btad.zip", md5="c1fa4d56ac50dd50908ce04e81037a8e"
  )
  MANUAL_DOWNLOAD_INSTRUCTIONS = (
    "Expected: 01, 02 and 03, each with train/ok, test/ok, test/ko and ground_truth/ko. Get "
    "https://avires.dimi.uniud.it/papers/btad/btad.zip (1.2 GB) and give it, or the folder "
    "BTech_Dataset_transformed that it unpacks to."
  )

  @classmethod
  def examples(cls, root: Path | None) -> list[Example]:
    """Lists the images of the categories that are there."""
    assert root is not None, "MANUAL_DOWNLOAD_INSTRUCTIONS makes the caller ask for a folder"
    found = layout.categories(root, cls.CATEGORIES)
    return [e for name, place in found.items() for e in layout.category(name, place, root)]
