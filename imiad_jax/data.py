"""Opens a prepared data set: its index without pixels, and its pixels decoded once at one size.

Image and mask go through the same geometry: both are squashed to size x size, the image with
antialiasing, the mask by nearest neighbour. Connected regions (8-connected) are labelled here.
"""

import bisect
import concurrent.futures
import io
import os
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import scipy.ndimage
from jaxtyping import Int, UInt8
from PIL import Image

from imiad_jax.errors import UserError
from imiad_jax.types import Index


class Pixels(NamedTuple):
  """Decoded rows of a data set."""

  image: UInt8[np.ndarray, "n h w 3"]
  region: Int[np.ndarray, "n h w"]  # 0 normal, k = k-th connected defect of the image


class Source(NamedTuple):
  """Where pixels come from: TFDS builders that are ready to read."""

  builders: tuple[Any, ...]  # tfds.core.DatasetBuilder, one for each data set
  starts: tuple[int, ...]  # the first row of the index that each one has
  fingerprint: str  # of the files they were built from
  version: str


def open(dataset: str, data_dir: str | None, prepared_dir: str) -> tuple[Index, Source]:
  """Opens a data set, or several, preparing it first where that has not been done.

  Args:
    dataset: a name in datasets/, or several joined by "+", whose categories then come one data set
      after the other.
    data_dir: the folder of the official layout; None for a data set that is generated. Of several
      data sets each is looked for in <data_dir>/<name> first.
    prepared_dir: where prepared data sets are kept.

  Raises:
    UserError: unknown name, a folder that does not hold this data set, or a category that two
      data sets have.
  """
  # TFDS takes a second to import.
  from imiad_jax.datasets import common  # pyright: ignore[reportMissingImports]

  builders, columns, starts = [], [], [0]
  for name in dataset.split("+"):
    own = os.path.join(data_dir, name) if data_dir and "+" in dataset else None
    folder = own if own and os.path.isdir(own) else data_dir
    builders.append(common.prepare(name, folder, prepared_dir))
    columns.append(builders[-1].info.metadata["index"])
    starts.append(starts[-1] + len(columns[-1]["name"]))
  _refuse_shared(dataset, [set(c["category"]) for c in columns])
  merged = {k: np.concatenate([np.asarray(c[k]) for c in columns]) for k in columns[0]}
  source = Source(
    builders=tuple(builders),
    starts=tuple(starts[:-1]),
    fingerprint="+".join(b.info.metadata["fingerprint"] for b in builders),
    version="+".join(str(b.version) for b in builders),
  )
  return Index(**merged), source


def _refuse_shared(dataset: str, categories: list[set[str]]) -> None:
  for i, ours in enumerate(categories):
    for other in categories[:i]:
      if ours & other:
        both = ", ".join(sorted(ours & other))
        raise UserError(f'Data sets "{dataset}" share the categories {both}; rename or leave out.')


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
  part = np.searchsorted(source.starts, rows[:1], side="right") - 1
  if not len(rows) or "channels" not in source.builders[int(part[0])].info.features:
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
  stored = []  # for each data set and split: its first row, and its examples
  stops = (*source.starts[1:], len(index.name))
  for builder, first, stop in zip(source.builders, source.starts, stops, strict=True):
    split = index.split[first:stop]
    for name in dict.fromkeys(split.tolist()):
      at = first + int(np.flatnonzero(split == name)[0])
      stored.append((at, builder.as_data_source(name, decoders=raw)))
  stored.sort(key=lambda entry: entry[0])
  firsts = [at for at, _ in stored]

  def read(row: int) -> dict[str, Any]:
    at, examples = stored[bisect.bisect_right(firsts, row) - 1]
    return examples[row - at]

  return read


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
