"""Official archives: fetched where anyone may fetch them, checked, and unpacked with suspicion."""

import contextlib
import hashlib
import logging
import lzma
import shutil
import stat
import tarfile
import urllib.request
import zipfile
import zlib
from pathlib import Path, PureWindowsPath
from typing import NamedTuple

from imiad_jax.errors import UserError

_LOG = logging.getLogger("imiad_jax.datasets.common")

SUFFIXES = (".tar", ".tar.xz", ".tar.gz", ".tgz", ".tar.bz2", ".zip")
_DAMAGED = (
  *(tarfile.TarError, zipfile.BadZipFile, zlib.error, lzma.LZMAError),
  *(EOFError, OSError, RuntimeError, NotImplementedError, ValueError),
)


class Archive(NamedTuple):
  """An archive that the publisher lets anyone fetch."""

  url: str
  md5: str = ""  # "": not known

  @property
  def name(self) -> str:
    """The archive's file name."""
    return self.url.rpartition("/")[2]


def inside(source: Path) -> list[Path]:
  """Returns the archives that a source is: itself, or a folder's files when all are archives."""
  if source.is_file():
    return [source] if _is_archive(source) else []
  if not source.is_dir():
    return []
  visible = [p for p in sorted(source.iterdir()) if not p.name.startswith(".")]
  return visible if all(p.is_file() and _is_archive(p) for p in visible) else []


def stem(path: Path) -> str:
  """Returns the name of a file without the suffix of an archive."""
  suffix = next((s for s in sorted(SUFFIXES, key=len)[::-1] if path.name.lower().endswith(s)), "")
  return path.name[: len(path.name) - len(suffix)]


def fetch(archive: Archive, folder: Path) -> Path:
  """Returns the archive's file in `folder`, fetched unless it is there; raises UserError."""
  file = folder / archive.name
  if file.is_file():
    return file
  part = file.with_name(f"{file.name}.part")
  try:
    _LOG.info("Fetching %s into %s", archive.url, folder)
    with urllib.request.urlopen(archive.url, timeout=30) as answer, part.open("wb") as out:
      shutil.copyfileobj(answer, out, 1 << 20)
      if out.tell() < int(answer.headers.get("Content-Length") or 0):
        raise OSError("the connection ended early")
    part.replace(file)
  except (OSError, ValueError) as error:  # no network, no such file, no space, no permission
    raise UserError(
      f"{archive.url} could not be fetched into {folder}: {error}. Fetch it by other means and "
      "give the file, or the folder where you unpacked it, as data_dir."
    ) from error
  finally:
    with contextlib.suppress(OSError):
      part.unlink(missing_ok=True)
  return file


def check(file: Path, official: Archive | None) -> None:
  """Raises UserError when a file has the official archive's name but not its content."""
  if official is None or not official.md5 or file.name != official.name:
    return
  with file.open("rb") as data:
    md5 = hashlib.file_digest(data, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
  if md5 != official.md5:
    raise UserError(
      f'"{file}" is damaged or not the official archive: its md5 is {md5}, expected '
      f"{official.md5}. Fetch {official.url} again; if the file is your own, rename it."
    )


def unpack(file: Path, folder: Path) -> None:
  """Unpacks an archive into a folder.

  Raises UserError, naming the entry, for one with ".." or an absolute path in its name, a link that
  leads out of the folder, and anything but files, folders and links; also for a damaged archive.
  """
  folder.mkdir(parents=True, exist_ok=True)
  try:
    if file.name.lower().endswith(".zip"):
      _unzip(file, folder)
    else:
      _untar(file, folder)
  except _DAMAGED as error:
    raise UserError(
      f'"{file}" cannot be unpacked: {error}. Free some space if that is short, else fetch it '
      "again, or unpack it yourself and give the folder."
    ) from error


def _untar(file: Path, folder: Path) -> None:
  if not hasattr(tarfile, "data_filter"):
    raise UserError(
      f'"{file}" cannot be unpacked safely by this Python. Expected: 3.11.4 or newer. Upgrade it, '
      "or unpack the archive yourself and give the folder."
    )
  with tarfile.open(file) as archive:
    for member in archive:
      _check_name(member.name, file)
      try:
        archive.extract(member, folder, filter="data")
      except tarfile.FilterError as error:
        raise _unsafe(member.name, file, str(error)) from error
    assert archive.fileobj is not None
    if archive.fileobj.tell() == archive.offset:  # there should have been an empty block
      raise tarfile.ReadError("it ends early")


def _unzip(file: Path, folder: Path) -> None:
  with zipfile.ZipFile(file) as archive:
    for member in archive.infolist():
      _check_name(member.orig_filename, file)
      if stat.S_IFMT(member.external_attr >> 16) not in (0, stat.S_IFREG, stat.S_IFDIR):
        raise _unsafe(member.filename, file, "it is a link or a device")
      archive.extract(member, folder)


def _check_name(name: str, file: Path) -> None:
  path = PureWindowsPath(name)  # knows both slashes and drives
  if ".." in path.parts:
    raise _unsafe(name, file, 'it climbs out with ".."')
  if path.anchor:
    raise _unsafe(name, file, "its path is absolute")


def _unsafe(name: str, file: Path, why: str) -> UserError:
  return UserError(
    f'The entry "{name}" of "{file}" is not safe to unpack: {why}. Nothing of the archive was '
    "kept. Fetch it from its official source."
  )


def _is_archive(path: Path) -> bool:
  return path.name.lower().endswith(SUFFIXES)
