"""What a data set says of each of its images, and how all of them together are identified."""

import hashlib
import unicodedata
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from imiad_jax.datasets.common.pictures import Source  # pyright: ignore[reportMissingImports]

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff")
COLUMNS = ("name", "category", "split", "kind", "label")
SPLITS = ("train", "validation", "test")  # in stored order; a data set may lack any but the first


class Example(NamedTuple):
  """One image and what is known of it."""

  name: str  # posix path below the root, unique; made by `name_of`
  category: str
  split: str  # one of SPLITS
  kind: str  # "good" or the kind of defect
  image: Source
  mask: Source | tuple[Source, ...] | None  # several: their union; None: no region is known
  extra: tuple[Any, ...] = ()  # the data set's own plain values, on which depends what is built

  @property
  def label(self) -> int:
    """0 for a good image, 1 for a defective one."""
    return int(self.kind != "good")

  @property
  def sources(self) -> tuple[Source, ...]:
    """All that is read for this example."""
    masks = self.mask if isinstance(self.mask, tuple) else (self.mask,)
    return (self.image, *(m for m in masks if m is not None))


def name_of(path: Path, root: Path) -> str:
  """Returns the name of a file: its path below the root, the same on every system."""
  return unicodedata.normalize("NFC", path.relative_to(root).as_posix())


def images(folder: Path | None, suffixes: Sequence[str] = SUFFIXES) -> list[Path]:
  """Lists the image files directly in a folder, sorted; [] when there is no such folder."""
  if folder is None or not folder.is_dir():
    return []
  found = (p for p in folder.iterdir() if p.suffix.lower() in suffixes)
  return sorted(p for p in found if not p.name.startswith(".") and not p.is_dir())


def size(source: Source | tuple[Source, ...] | None) -> int:
  """Returns the bytes of a source, -1 when it is drawn on demand, 0 for None; of several, all."""
  if isinstance(source, tuple):
    return sum(size(s) for s in source)
  if isinstance(source, Path):
    return source.stat().st_size
  return -1 if callable(source) else len(source or b"")


def fingerprint(examples: Sequence[Example], version: str) -> str:
  """Returns 12 hex digits of what is built: names, splits, kinds, byte sizes and the version.

  The same on every machine and for every order of the examples. Pictures that are drawn on demand
  count by their name: the version stands for how they are drawn.
  """
  rows = sorted((e.name, e.split, e.kind, size(e.image), size(e.mask), *e.extra) for e in examples)
  return hashlib.sha256(repr((version, rows)).encode()).hexdigest()[:12]
