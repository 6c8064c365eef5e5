"""What all data sets share: reading, checking, normalising and building with TFDS, no TensorFlow.

A data set is a folder here whose `Builder` lists its images as `Example`s. `prepare` turns them
into array_record files of RGB images and 0/255 masks, whatever the source folder holds.
"""

import contextlib
import fcntl
import functools
import hashlib
import inspect
import io
import itertools
import logging
import shutil
import sys
import tempfile
import time
import unicodedata
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
import tensorflow_datasets as tfds
from etils import epath
from imiad_jax.datasets.common import pictures
from imiad_jax.datasets.common.pictures import Source, where

from imiad_jax import plugins
from imiad_jax.errors import UserError

_LOG = logging.getLogger(__name__)

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff")
COLUMNS = ("name", "category", "split", "kind", "label")


class Example(NamedTuple):
  """One image and what is known of it."""

  name: str  # posix path below the root, unique; made by `name_of`
  category: str
  split: str  # "train" or "test"
  kind: str  # "good" or the kind of defect
  image: Source
  mask: Source | None  # None for good images: nothing is defective

  @property
  def label(self) -> int:
    """0 for a good image, 1 for a defective one."""
    return int(self.kind != "good")


class Builder(tfds.core.GeneratorBasedBuilder, skip_registration=True):
  """A data set: subclasses give VERSION, RELEASE_NOTES, CATEGORIES and `examples`."""

  CATEGORIES: ClassVar[tuple[str, ...]] = ()
  MASK_ABOVE: ClassVar[int] = 0  # mask values higher than this are defect
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
  def wrong_layout(cls, root: Path) -> UserError:
    """Returns the error that says what was expected in `root` and what is there instead."""
    found = sorted(p.name for p in itertools.islice(root.iterdir(), 1000))
    shown = ", ".join(found[:8]) + (", ..." if len(found) > 8 else "") if found else "nothing"
    return UserError(
      f'The folder "{root}" is not laid out as data set "{cls.name}" expects; it holds: {shown}. '
      f"{cls.MANUAL_DOWNLOAD_INSTRUCTIONS}"
    )

  def _info(self) -> tfds.core.DatasetInfo:
    image = functools.partial(tfds.features.Image, dtype=np.uint8, encoding_format="png")
    return self.dataset_info_from_configs(
      features=tfds.features.FeaturesDict(
        {
          "image": image(shape=(None, None, 3)),
          "mask": image(shape=(None, None, 1)),
          "name": tfds.features.Text(),
          "category": tfds.features.Text(),
          "kind": tfds.features.Text(),
          "label": tfds.features.Scalar(dtype=np.int64),
        }
      ),
      metadata=tfds.core.MetadataDict(),
      disable_shuffling=True,
    )

  def _split_generators(self, dl_manager: Any) -> dict[str, Iterator]:
    root = Path(dl_manager.manual_dir) if self.MANUAL_DOWNLOAD_INSTRUCTIONS else None
    examples = self.listing or checked(type(self), self.examples(root))
    metadata: Any = self.info.metadata
    metadata["index"] = {c: [getattr(e, c) for e in examples] for c in COLUMNS}
    metadata["fingerprint"] = fingerprint(examples, str(self.VERSION))
    splits = {s: [e for e in examples if e.split == s] for s in ("train", "test")}
    return {s: self._generate_examples(rows) for s, rows in splits.items()}

  def _generate_examples(self, examples: list[Example]) -> Iterator[tuple[str, dict]]:
    black = []
    for e in examples:
      image, mask, defective = pictures.encode(e.name, e.image, e.mask, self.MASK_ABOVE)
      if e.label and not defective:
        black.append(e.name)
      yield (
        e.name,
        {
          "image": io.BytesIO(image),
          "mask": io.BytesIO(mask),
          "name": e.name,
          "category": e.category,
          "kind": e.kind,
          "label": e.label,
        },
      )
    if black:
      _LOG.info("%d defective images have an empty mask: %s", len(black), ", ".join(black[:5]))


def name_of(path: Path, root: Path) -> str:
  """Returns the name of a file: its path below the root, the same on every system."""
  return unicodedata.normalize("NFC", path.relative_to(root).as_posix())


def images(folder: Path, suffixes: Sequence[str] = SUFFIXES) -> list[Path]:
  """Lists the image files directly in a folder, sorted; [] when there is no such folder."""
  if not folder.is_dir():
    return []
  found = (p for p in folder.iterdir() if p.suffix.lower() in suffixes)
  return sorted(p for p in found if not p.name.startswith(".") and not p.is_dir())


def size(source: Source | None) -> int:
  """Returns the bytes of a source, -1 when it is drawn on demand, 0 for None."""
  if isinstance(source, Path):
    return source.stat().st_size
  return -1 if callable(source) else len(source or b"")


def fingerprint(examples: Sequence[Example], version: str) -> str:
  """Returns 12 hex digits of what is built: names, splits, kinds, byte sizes and the version.

  The same on every machine and for every order of the examples. Pictures that are drawn on demand
  count by their name: the version stands for how they are drawn.
  """
  rows = sorted((e.name, e.split, e.kind, size(e.image), size(e.mask)) for e in examples)
  return hashlib.sha256(repr((version, rows)).encode()).hexdigest()[:12]


def checked(builder: type[Builder], examples: list[Example]) -> list[Example]:
  """Returns the examples in stored order: train, then test, each by name.

  Raises UserError for an unreadable or empty file, a missing mask, a name met twice or in no
  encoding, a category without good training images, and a data set without test images.
  """
  for e in examples:
    for source in (e.image, e.mask):
      try:
        empty = source is not None and size(source) == 0
        e.name.encode()
      except (OSError, UnicodeError) as error:
        raise UserError(f"{e.name!a} cannot be read: {error}. Repair or remove it.") from error
      if empty:
        raise UserError(f'"{where(source, e.name)}" is an empty file. Copy it again or remove it.')
    if e.label and e.mask is None:
      raise UserError(
        f'"{where(e.image, e.name)}" shows a defect ("{e.kind}") but has no mask. Expected: '
        "one mask per defective image. Add the mask or remove the image."
      )
  name, times = next(iter(Counter(e.name for e in examples).most_common(1)), ("", 0))
  if times > 1:
    raise UserError(f'Two images are named "{name}". Expected: unique names. Rename one of them.')
  for category in builder.CATEGORIES:
    if not any(e.category == category and e.split == "train" and not e.label for e in examples):
      raise UserError(
        f'Category "{category}" of data set "{builder.name}" has no good training images. '
        f"{builder.MANUAL_DOWNLOAD_INSTRUCTIONS or ''}".rstrip()
      )
  if all(e.split != "test" for e in examples):
    raise UserError(f'Data set "{builder.name}" has no test images: nothing could be measured.')
  return sorted(examples, key=lambda e: (e.split != "train", e.name))


def prepare(name: str, data_dir: str | None, prepared_dir: str) -> Builder:
  """Returns the ready builder of a data set; builds it in `prepared_dir` unless it is there.

  Every state of the source folder has its own place, prepared_dir/<fingerprint>/<name>/<version>,
  which appears at once when all is written. Raises UserError for a name, a source or a
  `prepared_dir` that cannot be used; then nothing half-built is left.
  """
  cls = plugins.load("datasets", name).Builder
  root = source_folder(cls, data_dir)
  examples = checked(cls, cls.examples(root))
  home = Path(prepared_dir).expanduser() / fingerprint(examples, str(cls.VERSION))
  builder = cls(data_dir=home)
  if _is_ready(builder):
    return builder
  _check_writable(home.parent, sum(max(size(s), 0) for e in examples for s in (e.image, e.mask)))
  with open(home.with_name(f".{home.name}.lock"), "w") as lock:
    with contextlib.suppress(OSError):  # some network disks have no locks: then be alone
      fcntl.flock(lock, fcntl.LOCK_EX)  # a process that is killed gives it back
    builder = cls(data_dir=home)  # again: another process may have built it meanwhile
    if not _is_ready(builder):
      shutil.rmtree(home, ignore_errors=True)  # what a killed process left
      builder = cls(data_dir=home)
      _build(builder, examples, root)
  return builder


def source_folder(builder: type[Builder], data_dir: str | None) -> Path | None:
  """Returns the folder to read, None for a data set that needs none; raises UserError."""
  expected = builder.MANUAL_DOWNLOAD_INSTRUCTIONS
  if not expected:
    return None
  if not data_dir:
    raise UserError(f'Data set "{builder.name}" needs a folder and none was given. {expected}')
  root = Path(data_dir).expanduser()
  if not root.is_dir():
    what = "is a file" if root.is_file() else "does not exist"
    raise UserError(f'The folder "{root}" of data set "{builder.name}" {what}. {expected}')
  return root


def _build(builder: Builder, examples: list[Example], root: Path | None) -> None:
  """Builds with TFDS, which writes aside and renames at the end; turns its errors into ours."""
  start = time.monotonic()
  builder.listing = examples
  tfds.display_progress_bar(sys.stderr.isatty())
  home = Path(builder.data_dir_root)
  try:
    home.mkdir(parents=True)
    with (
      contextlib.redirect_stdout(io.StringIO()),  # TFDS prints its own two lines
      tempfile.TemporaryDirectory(dir=home) as unused,
    ):
      config = tfds.download.DownloadConfig(manual_dir=root, try_download_gcs=False)
      builder.download_and_prepare(download_dir=unused, download_config=config)
  except BaseException as error:
    shutil.rmtree(home, ignore_errors=True)
    full = "No space left" in str(error) or "quota exceeded" in str(error)  # array_record's own
    if not full and not isinstance(error, OSError):
      raise
    raise UserError(
      f'"{home}" could not be written: {error}. Free some space or give another prepared_dir.'
    ) from error
  seconds = time.monotonic() - start
  _LOG.info("Built %s: %d images in %.1f s in %s", builder.name, len(examples), seconds, home)


def _is_ready(builder: Builder) -> bool:
  """Whether all that was built is still there."""
  files = [f for split in builder.info.splits.values() for f in split.filepaths]
  return bool(files) and all(Path(f).exists() for f in files)


def _check_writable(folder: Path, needed: int) -> None:
  """Raises UserError unless a file can be written in `folder` and `needed` bytes are free."""
  try:
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=folder) as probe:
      probe.write(b"0")
      probe.flush()
    free = shutil.disk_usage(folder).free
  except OSError as error:
    raise UserError(
      f'Nothing can be written in "{folder}": {error}. Give another prepared_dir.'
    ) from error
  if free < needed:
    raise UserError(
      f'"{folder}" has {free >> 20} MB left and about {needed >> 20} MB are needed. '
      "Free some or give another prepared_dir."
    )
