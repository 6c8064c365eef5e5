"""MPDD, the metal parts of Jezek, Jonak, Burget, Dvorak and Skotak (2021), read as it unpacks."""

from pathlib import Path

import tensorflow_datasets as tfds
from imiad_jax.datasets import common  # pyright: ignore[reportMissingImports]
from imiad_jax.datasets.common import (  # pyright: ignore[reportMissingImports]
  Example,
  counts,
  layout,
)

_COUNTS = {  # train, good and defective test images
  "bracket_black": (289, 32, 47),
  "bracket_brown": (185, 26, 51),
  "bracket_white": (110, 30, 30),
  "connector": (128, 30, 14),
  "metal_plate": (54, 26, 71),
  "tubes": (122, 32, 69),
}


class Builder(common.Builder):
  """1346 pictures of six metal parts in many poses."""

  VERSION = tfds.core.Version("1.0.0")
  RELEASE_NOTES = {"1.0.0": "First release."}
  CATEGORIES = tuple(_COUNTS)
  COUNTS = {category: counts.usual(*n) for category, n in _COUNTS.items()}
  MANUAL_DOWNLOAD_INSTRUCTIONS = (
    "Expected: bracket_black, bracket_brown, bracket_white, connector, metal_plate and tubes, each "
    "with train/good/*.png, test/KIND/*.png and ground_truth/KIND/NAME_mask.png. Get the archive "
    "by the link in the README of https://github.com/stepanje/MPDD and give it, or the folder that "
    "holds the categories."
  )

  @classmethod
  def examples(cls, root: Path | None) -> list[Example]:
    """Lists the images of the categories that are there."""
    assert root is not None, "MANUAL_DOWNLOAD_INSTRUCTIONS makes the caller ask for a folder"
    found = layout.categories(root, cls.CATEGORIES)
    return [e for name, place in found.items() for e in layout.category(name, place, root)]
