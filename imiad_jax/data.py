"""Opens a prepared data set: its index without pixels, and its pixels decoded once at one size.

Image and mask go through the same geometry: both are squashed to size x size, the image with
antialiasing, the mask by nearest neighbour. Connected regions (8-connected) are labelled here.
"""

import concurrent.futures
import io
import os
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import scipy.ndimage
from jaxtyping import Int, UInt8
from PIL import Image

from imiad_jax.types import Index


class Pixels(NamedTuple):
  """Decoded rows of a data set."""

  image: UInt8[np.ndarray, "n h w 3"]
  region: Int[np.ndarray, "n h w"]  # 0 normal, k = k-th connected defect of the image


class Source(NamedTuple):
  """Where pixels come from: a TFDS builder that is ready to read."""

  builder: Any  # tfds.core.DatasetBuilder
  fingerprint: str  # of the files it was built from
  version: str


def open(dataset: str, data_dir: str | None, prepared_dir: str) -> tuple[Index, Source]:
  """Opens a data set, preparing it first where that has not been done.

  Args:
    dataset: a name in datasets/.
    data_dir: the folder of the official layout; None for a data set that is generated.
    prepared_dir: where prepared data sets are kept.

  Raises:
    UserError: unknown name, or a folder that does not hold this data set.
  """
  from imiad_jax.datasets import common  # TFDS takes a second to import

  builder = common.prepare(dataset, data_dir, prepared_dir)
  metadata = builder.info.metadata
  columns = {k: np.asarray(v) for k, v in metadata["index"].items()}
  source = Source(builder, metadata["fingerprint"], str(builder.version))
  return Index(**columns), source


def load(index: Index, source: Source, rows: Int[np.ndarray, " n"], size: int) -> Pixels:
  """Decodes rows and resizes them to [n,size,size,...], in the order given."""
  read = _reader(index, source)

  def one(row: int) -> tuple[np.ndarray, np.ndarray]:
    example = read(row)
    return _decode(example["image"], size), _regions(example["mask"], size)

  with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
    images, regions = zip(*pool.map(one, rows.tolist()), strict=True)
  return Pixels(np.stack(images), np.stack(regions))


def defects(
  index: Index, source: Source, rows: Int[np.ndarray, " n"]
) -> tuple[list[list[tuple[np.ndarray, int]]], tuple[int, int]] | None:
  """Returns each row's defects at original resolution, and that resolution (height, width).

  A defect is a mask [height,width] bool, which may overlap others, and the number of its pixels
  that have to be found. None where the data set does not keep them, or its images differ in size.
  """
  if "channels" not in source.builder.info.features:
    return None
  read, out, sizes = _reader(index, source), [], set()
  for row in rows.tolist():
    example = read(row)
    sizes.add(Image.open(io.BytesIO(example["image"])).size)
    masks = [np.asarray(m)[..., 0] > 0 for m in example["channels"]]
    out.append(list(zip(masks, map(int, example["saturation"]), strict=True)))
  if len(sizes) > 1:
    return None
  width, height = sizes.pop()
  return out, (height, width)


def _reader(index: Index, source: Source) -> Callable[[int], dict[str, Any]]:
  """Returns a function from a row number to its stored example, image and mask as PNG bytes."""
  import tensorflow_datasets as tfds

  raw = {"image": tfds.decode.SkipDecoding(), "mask": tfds.decode.SkipDecoding()}
  splits = {s: source.builder.as_data_source(s, decoders=raw) for s in np.unique(index.split)}
  first = {s: int(np.flatnonzero(index.split == s)[0]) for s in splits}
  return lambda row: splits[index.split[row]][row - first[index.split[row]]]


def _decode(png: bytes, size: int) -> np.ndarray:
  """[size,size,3] uint8; Pillow's bilinear filter widens with the scale: antialiased."""
  image = Image.open(io.BytesIO(png)).convert("RGB")
  return np.asarray(image.resize((size, size), Image.Resampling.BILINEAR))


def _regions(png: bytes, size: int) -> np.ndarray:
  """[size,size] int16 labels of the 8-connected regions of a mask."""
  mask = Image.open(io.BytesIO(png)).resize((size, size), Image.Resampling.NEAREST)
  labels = np.empty((size, size), np.int16)
  scipy.ndimage.label(np.asarray(mask) > 0, np.ones((3, 3)), output=labels)
  return labels
