"""What all data sets share: reading, checking, normalising and building with TFDS, no TensorFlow.

A data set is a folder here whose `Builder` lists its images as `Example`s. `prepare` turns them
into array_record files of RGB images and 0/255 masks, whatever the source holds.
"""

import contextlib
import fcntl
import hashlib
import io
import logging
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import tensorflow_datasets as tfds
from imiad_jax.datasets.common import archives  # pyright: ignore[reportMissingImports]
from imiad_jax.datasets.common.archives import Archive  # pyright: ignore[reportMissingImports]
from imiad_jax.datasets.common.builder import Builder  # pyright: ignore[reportMissingImports]
from imiad_jax.datasets.common.checks import (  # pyright: ignore[reportMissingImports]
  checked,
  report,
)
from imiad_jax.datasets.common.examples import (  # pyright: ignore[reportMissingImports]
  Example,
  fingerprint,
  images,
  name_of,
  size,
)

from imiad_jax import plugins
from imiad_jax.errors import UserError

__all__ = [
  "Archive", "Builder", "Example", "built", "checked", "fingerprint", "images", "name_of",
  "prepare", "read", "rows_of", "size", "source_of",
]  # fmt: skip

_LOG = logging.getLogger(__name__)


def prepare(name: str, data_dir: str | None, prepared_dir: str) -> Builder:
  """Returns the ready builder of a data set; builds it in `prepared_dir` unless it is there.

  Every state of the source has its own place, prepared_dir/<fingerprint>/<name>/<version>, which
  appears at once when all is written. Raises UserError for a name, a source or a `prepared_dir`
  that cannot be used; then nothing half-built is left. Warns of counts that are not the official.
  """
  cls = plugins.load("datasets", name).Builder
  home = Path(prepared_dir).expanduser()
  source = source_of(cls, data_dir, home)
  packed = archives.inside(source) if source else []
  if packed:
    builder = _from_archives(cls, packed, home)
  else:
    builder = _from_folder(cls, source, home)
  report(cls, rows_of(builder))
  return builder


def built(name: str, prepared_dir: str) -> list[Builder]:
  """Returns the builders of a data set that are ready in `prepared_dir`; builds nothing."""
  cls = plugins.load("datasets", name).Builder
  homes = sorted(Path(prepared_dir).expanduser().glob(f"*/{cls.name}/{cls.VERSION}"))
  return [b for b in (cls(data_dir=home.parents[1]) for home in homes) if _is_ready(b)]


def source_of(builder: type[Builder], data_dir: str | None, home: Path) -> Path | None:
  """Returns the folder or archive to read, fetched below `home` where that may be.

  None for a data set that needs none. Raises UserError.
  """
  expected = builder.MANUAL_DOWNLOAD_INSTRUCTIONS
  if not expected:
    return None
  if not data_dir and builder.ARCHIVE:
    folder = home / "downloads"
    _check_writable(folder, 0)
    with _locked(folder / builder.ARCHIVE.name):
      return archives.fetch(builder.ARCHIVE, folder)
  if not data_dir:
    raise UserError(f'Data set "{builder.name}" needs a folder and none was given. {expected}')
  root = Path(data_dir).expanduser()
  if root.is_dir() or archives.inside(root):
    return root
  what = f"is a file, none of {' '.join(archives.SUFFIXES)}" if root.is_file() else "does not exist"
  raise UserError(f'The folder "{root}" of data set "{builder.name}" {what}. {expected}')


def read(cls: type[Builder], source: Path | None) -> tuple[Path | None, list[Example]]:
  """Returns the folder that holds the categories and its examples, checked; None where none is.

  Raises UserError when the folder is another data set's, is damaged or may not be read.
  """
  try:
    root = source and cls.home(source)
    return root, checked(cls, cls.examples(root), root)
  except OSError as error:
    raise UserError(
      f'"{error.filename or source}" of data set "{cls.name}" cannot be read: {error.strerror}. '
      "Make it readable, or give a copy."
    ) from error


def rows_of(builder: Builder) -> list[tuple[str, str, str]]:
  """Returns (category, split, kind) of every image of a ready builder."""
  index = builder.info.metadata["index"]
  return list(zip(index["category"], index["split"], index["kind"], strict=True))


def _from_folder(cls: type[Builder], source: Path | None, prepared: Path) -> Builder:
  """Returns the ready builder of an unpacked folder; None for a data set that needs none."""
  root, examples = read(cls, source)
  home = prepared / fingerprint(examples, str(cls.VERSION))
  builder = cls(data_dir=home)
  if _is_ready(builder):
    return builder
  _check_writable(home.parent, sum(max(size(s), 0) for e in examples for s in e.sources))
  with _locked(home):
    builder = cls(data_dir=home)  # again: another process may have built it meanwhile
    if not _is_ready(builder):
      shutil.rmtree(home, ignore_errors=True)  # what a killed process left
      builder = cls(data_dir=home)
      _build(builder, examples, root)
  return builder


def _from_archives(cls: type[Builder], packed: list[Path], prepared: Path) -> Builder:
  """Returns the ready builder of archives, unpacked for the time of building.

  A note in `prepared` says which build came of which archives: they are unpacked only once.
  """
  stats = [(str(p.resolve()), p.stat().st_size, p.stat().st_mtime_ns) for p in packed]
  key = hashlib.sha256(repr((cls.name, str(cls.VERSION), stats)).encode()).hexdigest()[:12]
  note = prepared / f".{key}.built"
  if builder := _noted(cls, note):
    return builder
  _check_writable(prepared, sum(p.stat().st_size for p in packed))
  given = packed[0] if len(packed) == 1 else packed[0].parent
  aside = prepared / f".{key}.unpacked"
  folder = aside / archives.stem(given)
  with _locked(prepared / key):
    if builder := _noted(cls, note):  # another process has built it meanwhile
      return builder
    shutil.rmtree(aside, ignore_errors=True)  # what a killed process left
    try:
      for file in packed:
        archives.check(file, cls.ARCHIVE)
        archives.unpack(file, folder)
      builder = _from_folder(cls, folder, prepared)
    except UserError as error:
      raise UserError(str(error).replace(str(folder), str(given))) from error
    finally:
      shutil.rmtree(aside, ignore_errors=True)
    note.write_text(Path(builder.data_dir_root).name)
  return builder


def _noted(cls: type[Builder], note: Path) -> Builder | None:
  """Returns the ready builder that a note names, if both are there."""
  if not note.is_file():
    return None
  builder = cls(data_dir=note.with_name(note.read_text()))
  return builder if _is_ready(builder) else None


@contextlib.contextmanager
def _locked(home: Path) -> Iterator[None]:
  """Keeps other processes from what is to appear in `home`."""
  with open(home.with_name(f".{home.name}.lock"), "w") as lock:
    with contextlib.suppress(OSError):  # some network disks have no locks: then be alone
      fcntl.flock(lock, fcntl.LOCK_EX)  # a process that is killed gives it back
    yield


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
