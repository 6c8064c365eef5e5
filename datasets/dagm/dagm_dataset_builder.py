"""DAGM 2007, the textures of the competition of Wieler and Hahn, made a one-class problem."""

import logging
from pathlib import Path

import tensorflow_datasets as tfds
from imiad_jax.datasets import common  # pyright: ignore[reportMissingImports]
from imiad_jax.datasets.common import (  # pyright: ignore[reportMissingImports]
  Example,
  counts,
  layout,
)

from imiad_jax.errors import UserError

_LOG = logging.getLogger("imiad_jax.datasets.dagm")

_TRAIN = (79, 66, 66, 82, 70, 83, 150, 150, 150, 150)  # defective images of Class1 to Class10
_TEST = (71, 84, 84, 68, 80, 67, 150, 150, 150, 150)
_HALF = (575,) * 6 + (1150,) * 4  # all images, of Train and of Test


class Builder(common.Builder):
  """16100 drawn textures of ten classes; the 1046 defective ones in Train are left out."""

  VERSION = tfds.core.Version("1.0.0")
  RELEASE_NOTES = {"1.0.0": "First release, without the defective images of Train."}
  CATEGORIES = tuple(f"Class{i}" for i in range(1, 11))
  COUNTS = {
    f"Class{i + 1}": counts.usual(n - _TRAIN[i], n - _TEST[i], _TEST[i])
    for i, n in enumerate(_HALF)
  }
  MANUAL_DOWNLOAD_INSTRUCTIONS = (
    "Expected: Class1 to Class10, each with Train/*.PNG, Test/*.PNG and, for defective images, "
    "Train/Label/NAME_label.PNG and Test/Label/NAME_label.PNG. Get them from https://"
    "hci.iwr.uni-heidelberg.de/content/weakly-supervised-learning-industrial-optical-inspection "
    "(or Kaggle's mhskjelvareid/dagm-2007-competition-dataset-optical-inspection) and give the "
    "archive, or the folder that holds the classes."
  )

  @classmethod
  def examples(cls, root: Path | None) -> list[Example]:
    """Lists the images of the classes that are there; of Train only the good ones."""
    assert root is not None, "MANUAL_DOWNLOAD_INSTRUCTIONS makes the caller ask for a folder"
    found, dropped = [], 0
    for category, place in layout.categories(root, cls.CATEGORIES).items():
      for split in ("train", "test"):
        half = layout.child(place, split)
        masks = labels(half)
        for path in common.images(half):
          mask = masks.get(path.stem.casefold())
          kind = "defect" if mask else "good"
          if mask and split == "train":
            dropped += 1
            continue
          found.append(Example(common.name_of(path, root), category, split, kind, path, mask))
    _LOG.info("dagm: %d defective images of Train are not learnt", dropped)
    return found


def labels(half: Path | None) -> dict[str, Path]:
  """Returns the masks of Train or Test by the stem of their image.

  Raises UserError where Labels.txt names one that is not there: its image would pass for good.
  """
  folder = layout.child(half, "Label")
  masks = {p.stem.casefold(): p for p in common.images(folder)}
  listing = (
    [] if folder is None else [p for p in folder.iterdir() if p.name.lower() == "labels.txt"]
  )
  for file in listing:
    for word in file.read_text("utf-8", "replace").split():
      stem, _, suffix = word.casefold().rpartition(".")
      listed = suffix == "png" and stem.endswith("_label")
      if listed and not any(m.endswith(stem) for m in masks):  # names may have spaces
        raise UserError(
          f'"{file}" lists the mask "{word}", which has no file. Expected: one mask per defective '
          "image. Add the mask, or remove its image and its line."
        )
  return {stem.removesuffix("_label"): p for stem, p in masks.items()}
