"""VisA of Zou, Jeong, Pemula, Zhang and Dabeer (2022), in its official one-class split."""

import csv
import logging
from pathlib import Path

import tensorflow_datasets as tfds
from imiad_jax.datasets import common  # pyright: ignore[reportMissingImports]
from imiad_jax.datasets.common import (  # pyright: ignore[reportMissingImports]
  Archive,
  Example,
  counts,
  layout,
)

from imiad_jax.errors import UserError

_LOG = logging.getLogger("imiad_jax.datasets.visa")

_COUNTS = {  # normal images to learn, normal and anomalous ones to test
  "candle": (900, 100, 100), "capsules": (542, 60, 100), "cashew": (450, 50, 100),
  "chewinggum": (453, 50, 100), "fryum": (450, 50, 100), "macaroni1": (900, 100, 100),
  "macaroni2": (900, 100, 100), "pcb1": (904, 100, 100), "pcb2": (901, 100, 100),
  "pcb3": (905, 101, 100), "pcb4": (904, 101, 100), "pipe_fryum": (450, 50, 100),
}  # fmt: skip
_KINDS = {"normal": "good", "anomaly": "anomaly"}
_FOLDERS = (("Images", "Normal"), ("Images", "Anomaly"), ("Masks", "Anomaly"))
SPLIT = "split_csv/1cls.csv"


class Builder(common.Builder):
  """10821 pictures of twelve objects: circuits, food, candles, capsules."""

  VERSION = tfds.core.Version("1.0.0")
  RELEASE_NOTES = {"1.0.0": "First release, the one-class split."}
  CATEGORIES = tuple(_COUNTS)
  COUNTS = {category: counts.usual(*n) for category, n in _COUNTS.items()}
  MARK = "Data"
  ARCHIVE = Archive(
    "https://amazon-visual-anomaly.s3.us-west-2.amazonaws.com/VisA_20220922.tar",
    md5="ef908989b6dc701fc218f643c127a4de",
  )
  MANUAL_DOWNLOAD_INSTRUCTIONS = (
    "Expected: candle, capsules and the other categories, each with Data/Images/Normal, "
    "Data/Images/Anomaly and Data/Masks/Anomaly, and beside them split_csv/1cls.csv. Get "
    "https://amazon-visual-anomaly.s3.us-west-2.amazonaws.com/VisA_20220922.tar and, where it has "
    "no split_csv, that folder from https://github.com/amazon-science/spot-diff; give the "
    "archive, or the folder that holds the categories."
  )

  @classmethod
  def examples(cls, root: Path | None) -> list[Example]:
    """Lists the images of the split file that are there, of the categories that are there."""
    assert root is not None, "MANUAL_DOWNLOAD_INSTRUCTIONS makes the caller ask for a folder"
    found = layout.categories(root, cls.CATEGORIES)
    files = {common.name_of(p, root).casefold(): p for place in found.values() for p in _all(place)}
    listed, used = [], set()
    for row in rows(root / SPLIT):
      path, mask = (files.get(row[column].casefold()) for column in ("image", "mask"))
      used |= {path, mask}
      if path and row["object"] in found:
        kind = _KINDS[row["label"]]
        name = common.name_of(path, root)
        listed.append(Example(name, row["object"], row["split"], kind, path, mask))
    if unknown := sorted(set(files.values()) - used):
      _LOG.warning(
        "visa: %d images are not in %s and are ignored, such as %s", len(unknown), SPLIT, unknown[0]
      )
    return listed


def rows(file: Path) -> list[dict[str, str]]:
  """Returns the rows of the split file; raises UserError when it is not there or another file."""
  try:
    with file.open(encoding="utf-8-sig", newline="") as text:
      found = list(csv.DictReader(text))
    for row in found:
      if row["split"] not in ("train", "test") or row["label"] not in _KINDS:
        raise ValueError(f"a row has split {row['split']} and label {row['label']}")
      row["mask"] = row["mask"] or ""
      if not row["object"] or not row["image"]:
        raise ValueError("a row has no object or no image")
    return found
  except (OSError, ValueError, KeyError) as error:
    raise UserError(
      f'"{file}" cannot be read: {error!r}. Expected: the official split, with the columns object, '
      "split, label, image and mask. Get split_csv/1cls.csv from "
      "https://github.com/amazon-science/spot-diff and put it there, beside the categories."
    ) from error


def _all(place: Path) -> list[Path]:
  """Returns every image and mask of a category."""
  data = layout.child(place, "Data")
  inner = (layout.child(layout.child(data, a), b) for a, b in _FOLDERS)
  return [path for folder in inner for path in common.images(folder)]
