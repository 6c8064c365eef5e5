"""Archives: the same as their folder, checked, fetched, and refused when they mean harm."""

import io
import shutil
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
from imiad_jax.datasets import common
from imiad_jax.datasets.common import archives

from imiad_jax import plugins
from tests import layouts
from tests.layouts import SETS, error_of, prepare, refuse, write


def pack(root: Path, file: Path) -> Path:
  with tarfile.open(file, f"w:{'' if file.suffix == '.tar' else file.suffix[1:]}") as archive:
    archive.add(root, root.name)
  return file


def zipped(root: Path, file: Path) -> Path:
  with zipfile.ZipFile(file, "w") as archive:
    for path in sorted(root.rglob("*")):
      archive.write(path, f"official/{path.relative_to(root).as_posix()}")
  return file


@pytest.mark.parametrize("name", SETS)
def test_an_archive_is_its_folder(name, tmp_path):
  root = write(name, tmp_path)
  home = root.rename(tmp_path / "official")
  from_folder = prepare(name, home, tmp_path)
  (tmp_path / "downloads").mkdir()
  file = zipped(home, tmp_path / "downloads/any.zip")
  for source in (file, file.parent):
    builder = common.prepare(name, str(source), str(tmp_path / "other"))
    assert builder.info.metadata == from_folder.info.metadata
    for split in builder.info.splits:
      pairs = zip(builder.as_data_source(split), from_folder.as_data_source(split), strict=True)
      assert all(
        np.array_equal(a["image"], b["image"]) and np.array_equal(a["mask"], b["mask"])
        for a, b in pairs
      )
  left = {p.name for p in (tmp_path / "other").iterdir() if not p.name.endswith(".lock")}
  assert {n for n in left if not n.endswith(".built")} == {builder.info.metadata["fingerprint"]}


@pytest.mark.parametrize("suffix", ["tar", "tar.gz", "tar.bz2", "tar.xz"])
def test_every_form_of_archive_is_unpacked_once(suffix, tmp_path, monkeypatch):
  root = layouts.mpdd(tmp_path / "MPDD")
  file = pack(root, tmp_path / f"MPDD.{suffix}")
  first = prepare("mpdd", file, tmp_path)
  assert len(first.as_data_source("train")) == 6
  monkeypatch.setattr(archives, "unpack", lambda *a: pytest.fail("unpacked again"))
  assert prepare("mpdd", file, tmp_path).data_dir == first.data_dir


def test_an_archive_for_each_category(tmp_path):
  root = layouts.mvtec_ad(tmp_path / "mvtec")
  (tmp_path / "downloads").mkdir()
  for category in ("bottle", "screw"):
    pack(root / category, tmp_path / f"downloads/{category}.tar.xz")
  builder = prepare("mvtec_ad", tmp_path / "downloads", tmp_path)
  assert builder.info.metadata == prepare("mvtec_ad", root, tmp_path).info.metadata


@pytest.mark.parametrize("name", SETS)
def test_an_entry_that_climbs_out(name, tmp_path):
  file = pack(write(name, tmp_path), tmp_path / "any.tar")
  with tarfile.open(file, "a") as archive:
    archive.addfile(entry("data/../../../evil.png", size=3), io.BytesIO(b"bad"))
  assert 'it climbs out with ".."' in refuse(name, file, tmp_path)
  assert not list(tmp_path.glob("**/evil*"))


def test_a_python_that_cannot_unpack_safely(tmp_path, monkeypatch):
  file = pack(layouts.mpdd(tmp_path / "mpdd"), tmp_path / "mpdd.tar")
  monkeypatch.delattr(tarfile, "data_filter")
  assert "3.11.4 or newer" in refuse("mpdd", file, tmp_path)


def entry(name: str, **kw) -> tarfile.TarInfo:
  member = tarfile.TarInfo(name)
  for key, value in kw.items():
    setattr(member, key, value)
  return member


@pytest.mark.parametrize(
  ("member", "why"),
  [
    (entry("bottle/../../evil.png", size=3), "climbs out"),
    (entry("/evil.png", size=3), "absolute"),
    (entry("..\\evil.png", size=3), "climbs out"),
    (entry("C:\\evil.png", size=3), "absolute"),
    (entry("evil", type=tarfile.SYMTYPE, linkname="/etc/passwd"), "absolute"),
    (entry("evil", type=tarfile.SYMTYPE, linkname="../../../evil"), "outside"),
    (entry("evil", type=tarfile.LNKTYPE, linkname="../../evil"), "outside"),
    (entry("evil", type=tarfile.CHRTYPE), "special file"),
    (entry("evil", type=tarfile.FIFOTYPE), "special file"),
  ],
)
def test_an_archive_that_means_harm(member, why, tmp_path):
  file = pack(layouts.mvtec_ad(tmp_path / "mvtec"), tmp_path / "mvtec.tar")
  with tarfile.open(file, "a") as archive:
    archive.addfile(member, io.BytesIO(b"bad"))
  said = refuse("mvtec_ad", file, tmp_path)
  assert f'The entry "{member.name}" of "{file}" is not safe' in said and why in said
  assert not list(tmp_path.glob("**/evil*"))


@pytest.mark.parametrize(
  ("name", "mode", "why"),
  [
    ("../evil.png", 0, "climbs out"),
    ("/evil.png", 0, "absolute"),
    ("a\\..\\..\\evil.png", 0, "climbs out"),
    ("evil", 0o120777, "a link or a device"),
  ],
)
def test_a_zip_that_means_harm(name, mode, why, tmp_path):
  file = zipped(layouts.mpdd(tmp_path / "mpdd"), tmp_path / "mpdd.zip")
  info = zipfile.ZipInfo(name)
  info.external_attr = mode << 16
  with zipfile.ZipFile(file, "a") as archive:
    archive.writestr(info, "/etc/passwd")
  said = refuse("mpdd", file, tmp_path)
  assert f'"{name}" of "{file}" is not safe' in said and why in said
  assert not list(tmp_path.glob("**/evil*"))


@pytest.mark.parametrize("suffix", ["tar", "tar.gz", "tar.xz", "zip"])
def test_a_damaged_archive(suffix, tmp_path):
  root = layouts.mpdd(tmp_path / "mpdd")
  file = tmp_path / f"mpdd.{suffix}"
  (zipped if suffix == "zip" else pack)(root, file)
  file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
  said = refuse("mpdd", file, tmp_path)
  assert f'"{file}" cannot be unpacked' in said


def test_errors_name_the_archive_not_where_it_was_unpacked(tmp_path):
  root = layouts.mpdd(tmp_path / "mpdd")
  (root / "tubes/ground_truth/parts_mismatch/000_mask.png").unlink()
  file = pack(root, tmp_path / "mpdd.tar")
  said = refuse("mpdd", file, tmp_path)
  assert f'"{file}/mpdd/tubes/test/parts_mismatch/000.png" shows a defect' in said


def test_a_file_that_is_no_archive(tmp_path):
  (tmp_path / "data.rar").touch()
  assert "is a file, none of .tar" in refuse("mpdd", tmp_path / "data.rar", tmp_path)


@pytest.mark.parametrize("name", ["btad", "visa"])
def test_official_archives_are_checked_by_their_name(name, tmp_path):
  official = plugins.load("datasets", name).Builder.ARCHIVE
  root = write(name, tmp_path)
  file = (pack if official.name.endswith(".tar") else zipped)(root, tmp_path / official.name)
  said = refuse(name, file, tmp_path)
  assert official.md5 in said and official.url in said and "rename it" in said
  with pytest.MonkeyPatch.context() as m:
    m.setattr(archives.Archive, "md5", "")
    m.setattr(plugins.load("datasets", name).Builder, "ARCHIVE", None)
    assert prepare(name, file, tmp_path).info.metadata["index"]


@pytest.mark.parametrize("name", ["btad", "visa"])
def test_fetched_where_the_publisher_allows_it(name, tmp_path, monkeypatch):
  builder = plugins.load("datasets", name).Builder
  root = write(name, tmp_path)
  served = (tmp_path / "server").absolute()
  served.mkdir()
  file = (pack if name == "visa" else zipped)(root, served / builder.ARCHIVE.name)
  monkeypatch.setattr(builder, "ARCHIVE", archives.Archive(file.as_uri()))
  first = prepare(name, None, tmp_path)
  assert first.info.metadata == prepare(name, root, tmp_path).info.metadata
  file.unlink()
  assert prepare(name, None, tmp_path).data_dir == first.data_dir  # fetched once
  shutil.rmtree(tmp_path / "prepared")
  said = error_of(name, None, tmp_path)
  assert file.as_uri() in said and "Fetch it by other means" in said and "data_dir" in said
  left = list((tmp_path / "prepared/downloads").iterdir())
  assert [p.name for p in left] == [f".{builder.ARCHIVE.name}.lock"]


@pytest.mark.parametrize("name", ["mvtec_ad", "mvtec_loco", "mpdd", "dagm"])
def test_others_say_where_to_get_them(name, tmp_path):
  said = refuse(name, None, tmp_path)
  assert "needs a folder and none was given" in said and "https://" in said
