"""MVTec AD of Bergmann, Fauser, Sattlegger and Steger (2019), read as its archive unpacks."""

from pathlib import Path

import tensorflow_datasets as tfds
from imiad_jax.datasets import common  # pyright: ignore[reportMissingImports]
from imiad_jax.datasets.common import (  # pyright: ignore[reportMissingImports]
  Example,
  counts,
  layout,
)

_COUNTS = {  # train, good and defective test images
  "bottle": (209, 20, 63), "cable": (224, 58, 92), "capsule": (219, 23, 109),
  "carpet": (280, 28, 89), "grid": (264, 21, 57), "hazelnut": (391, 40, 70),
  "leather": (245, 32, 92), "metal_nut": (220, 22, 93), "pill": (267, 26, 141),
  "screw": (320, 41, 119), "tile": (230, 33, 84), "toothbrush": (60, 12, 30),
  "transistor": (213, 60, 40), "wood": (247, 19, 60), "zipper": (240, 32, 119),
}  # fmt: skip


class Builder(common.Builder):
  """5354 pictures of fifteen objects and textures, with 73 kinds of defects."""

  VERSION = tfds.core.Version("1.0.0")
  RELEASE_NOTES = {"1.0.0": "First release."}
  CATEGORIES = tuple(_COUNTS)
  COUNTS = {category: counts.usual(*n) for category, n in _COUNTS.items()}
  MANUAL_DOWNLOAD_INSTRUCTIONS = (
    "Expected: bottle, cable and the other categories, each with train/good/*.png, "
    "test/KIND/*.png and ground_truth/KIND/NAME_mask.png. Get the archive from "
    "https://www.mvtec.com/company/research/datasets/mvtec-ad (it asks for a form) and give it, or "
    "the folder that holds the categories."
  )

  @classmethod
  def examples(cls, root: Path | None) -> list[Example]:
    """Lists the images of the categories that are there."""
    assert root is not None, "MANUAL_DOWNLOAD_INSTRUCTIONS makes the caller ask for a folder"
    found = layout.categories(root, cls.CATEGORIES)
    return [e for name, place in found.items() for e in layout.category(name, place, root)]
