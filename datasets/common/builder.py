"""The TFDS builder that all data sets share: subclasses say what their folder holds."""

import functools
import inspect
import io
import itertools
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import tensorflow_datasets as tfds
from etils import epath
from imiad_jax.datasets.common import layout, pictures  # pyright: ignore[reportMissingImports]
from imiad_jax.datasets.common.archives import Archive  # pyright: ignore[reportMissingImports]
from imiad_jax.datasets.common.examples import (  # pyright: ignore[reportMissingImports]
  COLUMNS,
  SPLITS,
  Example,
  fingerprint,
)

from imiad_jax.errors import UserError

_LOG = logging.getLogger("imiad_jax.datasets.common")
# TFDS recommends another library than Pillow wherever it decodes a picture itself.
logging.getLogger("absl").addFilter(lambda r: "OpenCV is not installed" not in r.getMessage())


class Builder(tfds.core.GeneratorBasedBuilder, skip_registration=True):
  """A data set: subclasses give VERSION, RELEASE_NOTES, CATEGORIES and `examples`."""

  CATEGORIES: ClassVar[tuple[str, ...]] = ()
  COUNTS: ClassVar[dict[str, dict[str, int]]] = {}  # category -> part -> images: see counts.py
  MARK: ClassVar[str] = "train"  # a folder that every category's folder has
  MASK_ABOVE: ClassVar[int] = 0  # mask values higher than this are defect
  STRICT: ClassVar[bool] = True  # there are test images, and a mask for every defective one
  ARCHIVE: ClassVar[Archive | None] = None  # the official archive, where anyone may fetch it
  listing: list[Example] | None = None  # set by `prepare`, which has walked the folder already

  def __init_subclass__(cls, **kwargs: Any):
    # Not registered: our short names may be other people's too. Where the code and its README.md
    # are is said here: TFDS guesses it from the module's name, which an editable install defeats.
    super().__init_subclass__(**{**kwargs, "skip_registration": True})
    cls.code_path = epath.Path(inspect.getfile(cls))
    cls.pkg_dir_path = cls.code_path.parent

  def __init__(self, *, file_format: str = "array_record", **kwargs: Any):
    """Takes what every TFDS builder takes; array_record alone works without TensorFlow."""
    super().__init__(file_format=file_format, **kwargs)

  @classmethod
  def examples(cls, root: Path | None) -> list[Example]:
    """Lists all images in any order; raises UserError when the folder has another layout."""
    raise NotImplementedError

  @classmethod
  def fits(cls, folder: Path) -> bool:
    """Whether a folder holds at least one category of this data set, laid out as it should be."""
    return any(
      layout.child(p, cls.MARK) for p in layout.categories(folder, cls.CATEGORIES).values()
    )

  @classmethod
  def home(cls, root: Path) -> Path:
    """Returns `root`, or the one folder in it, that holds the categories; raises UserError."""
    if cls.fits(root):
      return root
    inner = [folder for folder in layout.folders(root) if cls.fits(folder)]
    if len(inner) > 1:
      names = ", ".join(f'"{p.name}"' for p in inner)
      raise UserError(
        f'Data set "{cls.name}" is in several folders of "{root}": {names}. Give one.'
      )
    if not inner:
      raise cls.wrong_layout(root)
    return inner[0]

  @classmethod
  def wrong_layout(cls, root: Path) -> UserError:
    """Returns the error that says what was expected in `root` and what is there instead."""
    found = sorted(p.name for p in itertools.islice(root.iterdir(), 1000))
    shown = ", ".join(found[:8]) + (", ..." if len(found) > 8 else "") if found else "nothing"
    return UserError(
      f'The folder "{root}" is not laid out as data set "{cls.name}" expects; it holds: {shown}. '
      f"{cls.MANUAL_DOWNLOAD_INSTRUCTIONS}"
    )

  def features(self) -> dict[str, Any]:
    """Returns what is stored of an example, by TFDS; a subclass may add to it."""
    return {
      "image": png_feature(3),
      "mask": png_feature(1),
      "name": tfds.features.Text(),
      "category": tfds.features.Text(),
      "kind": tfds.features.Text(),
      "label": tfds.features.Scalar(dtype=np.int64),
    }

  def record(self, e: Example) -> dict[str, Any]:
    """Returns the values of `features` of one example, its pictures decoded and normalised."""
    image, mask, defective = pictures.encode(e.name, e.image, e.mask, self.MASK_ABOVE)
    if e.mask is not None and not defective:
      _LOG.info("%s: the mask is empty", e.name)
    return {
      "image": io.BytesIO(image),
      "mask": io.BytesIO(mask),
      "name": e.name,
      "category": e.category,
      "kind": e.kind,
      "label": e.label,
    }

  def _info(self) -> tfds.core.DatasetInfo:
    return self.dataset_info_from_configs(
      features=tfds.features.FeaturesDict(self.features()),
      metadata=tfds.core.MetadataDict(),
      disable_shuffling=True,
    )

  def _split_generators(self, dl_manager: Any) -> dict[str, Iterator]:
    examples = self.listing
    if examples is None:
      from imiad_jax.datasets.common import checks  # pyright: ignore[reportMissingImports]

      manual = self.MANUAL_DOWNLOAD_INSTRUCTIONS
      root = self.home(Path(dl_manager.manual_dir)) if manual else None
      examples = checks.checked(type(self), self.examples(root), root)
    metadata: Any = self.info.metadata
    metadata["index"] = {c: [getattr(e, c) for e in examples] for c in COLUMNS}
    metadata["fingerprint"] = fingerprint(examples, str(self.VERSION))
    splits = {s: [e for e in examples if e.split == s] for s in SPLITS}
    return {s: self._generate_examples(rows) for s, rows in splits.items() if rows}

  def _generate_examples(self, examples: list[Example]) -> Iterator[tuple[str, dict]]:
    for e in examples:
      yield e.name, self.record(e)


def png_feature(channels: int) -> tfds.features.Image:
  """Returns the feature of a picture of any size with so many channels, kept without loss."""
  make = functools.partial(tfds.features.Image, dtype=np.uint8, encoding_format="png")
  return make(shape=(None, None, channels))
