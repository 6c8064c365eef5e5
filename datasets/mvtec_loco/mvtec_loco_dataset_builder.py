"""MVTec LOCO AD of Bergmann, Batzner, Fauser, Sattlegger and Steger (2022), every channel kept."""

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from imiad_jax.datasets import common  # pyright: ignore[reportMissingImports]
from imiad_jax.datasets.common import (  # pyright: ignore[reportMissingImports]
  Example,
  layout,
  pictures,
)
from imiad_jax.datasets.common.builder import png_feature  # pyright: ignore[reportMissingImports]

from imiad_jax.errors import UserError

CONFIG = "defects_config.json"
_PARTS = (
  *("train/good", "validation/good", "test/good"),
  *("test/structural_anomalies", "test/logical_anomalies"),
)
_COUNTS = {  # of _PARTS
  "breakfast_box": (351, 62, 102, 90, 83),
  "juice_bottle": (335, 54, 94, 94, 142),
  "pushpins": (372, 69, 138, 81, 91),
  "screw_bag": (360, 60, 122, 82, 137),
  "splicing_connectors": (354, 59, 119, 85, 108),
}
Rule = tuple[int, float, bool]  # pixel value of a channel, its saturation threshold, relative?


class Builder(common.Builder):
  """3644 pictures of five objects with structural and logical anomalies.

  Adds to what every data set stores: "channels", the masks of an image's defects, which may
  overlap; "saturation", the pixels of each that have to be found for it to count as found.
  """

  VERSION = tfds.core.Version("1.0.0")
  RELEASE_NOTES = {"1.0.0": "First release."}
  CATEGORIES = tuple(_COUNTS)
  COUNTS = {name: dict(zip(_PARTS, n, strict=True)) for name, n in _COUNTS.items()}
  MANUAL_DOWNLOAD_INSTRUCTIONS = (
    "Expected: breakfast_box, juice_bottle, pushpins, screw_bag and splicing_connectors, each with "
    "train/good, validation/good, test/{good,logical_anomalies,structural_anomalies}, "
    "ground_truth/KIND/NAME/000.png and defects_config.json. Get the archive from "
    "https://www.mvtec.com/company/research/datasets/mvtec-loco (it asks for a form) and give it, "
    "or the folder that holds the categories."
  )

  @classmethod
  def examples(cls, root: Path | None) -> list[Example]:
    """Lists the images of the categories that are there, the rules of saturation as `extra`."""
    assert root is not None, "MANUAL_DOWNLOAD_INSTRUCTIONS makes the caller ask for a folder"
    found = []
    for name, place in layout.categories(root, cls.CATEGORIES).items():
      known = rules(place / CONFIG)
      listed = layout.category(name, place, root, _channels_of)
      found += [e._replace(extra=known) if e.mask else e for e in listed]
    return found

  def features(self) -> dict[str, Any]:
    """Returns what is stored of an example, the channels and their saturation included."""
    return super().features() | {
      "channels": tfds.features.Sequence(png_feature(1)),
      "saturation": tfds.features.Sequence(tfds.features.Scalar(dtype=np.int64)),
    }

  def record(self, e: Example) -> dict[str, Any]:
    """Returns the values of `features` of one example."""
    parts = [channel(file, e.extra) for file in e.sources[1:]]
    return super().record(e) | {
      "channels": [io.BytesIO(png) for png, _ in parts],
      "saturation": [area for _, area in parts],
    }


def rules(file: Path) -> tuple[Rule, ...]:
  """Returns what a category's defects_config.json says; raises UserError when it says nothing."""
  try:
    return tuple(
      (
        int(entry["pixel_value"]),
        float(entry["saturation_threshold"]),
        bool(entry["relative_saturation"]),
      )
      for entry in json.loads(file.read_text("utf-8"))
    )
  except (OSError, ValueError, KeyError, TypeError) as error:
    raise UserError(
      f'"{file}" cannot be read: {error!r}. Expected: the list of defects of the official archive, '
      "each with pixel_value, saturation_threshold and relative_saturation. Unpack it again."
    ) from error


def channel(file: Path, known: tuple[Rule, ...]) -> tuple[bytes, int]:
  """Returns one channel's mask, as the bytes of a PNG of 0/255, and its saturation area in pixels.

  Raises UserError unless the file has exactly one value but 0, for which there is a rule.
  """
  with pictures.decoded(file, file.name) as (_, picture):
    values, region = np.asarray(picture), pictures.to_mask(picture)
  there = np.unique(values[values > 0]).tolist()
  found = [rule for rule in known if [rule[0]] == there]
  if not found:
    raise UserError(
      f'The mask "{file}" has the values {there}. Expected: one value, of those in {CONFIG}: '
      f"{', '.join(str(rule[0]) for rule in known)}. Unpack the official archive again."
    )
  _, threshold, relative = found[0]
  area = int(np.count_nonzero(region))
  saturation = int(threshold * area) if relative else min(int(threshold), area)
  return pictures.png(region), saturation


def _channels_of(paths: list[Path], files: list[Path], truth: Path | None) -> layout.Masks:
  """Returns the masks of images: all those in the folder named after the image."""
  del files
  places = {place.name: common.images(place) for place in layout.folders(truth)}
  return {p: tuple(places[p.stem]) for p in paths if places.get(p.stem)}
