"""Every official layout, whole and broken: what is read is what was written, the rest is named."""

import io
import json
import logging
import os
import shutil
import tarfile
import zipfile
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from imiad_jax.datasets import common
from imiad_jax.datasets.common import archives, counts
from PIL import Image

from imiad_jax import data, plugins
from imiad_jax.errors import UserError
from tests import layouts

USUAL = {("train", "good"): 3, ("test", "good"): 2}
# name -> categories, images of each by (split, kind), a defective image and its mask
SETS = {
  "mvtec_ad": (
    ("bottle", "screw"),
    USUAL | {("test", "broken"): 2, ("test", "scratch"): 2},
    "bottle/test/broken/001.png",
    "bottle/ground_truth/broken/001_mask.png",
  ),
  "mpdd": (
    ("connector", "tubes"),
    USUAL | {("test", "parts_mismatch"): 2},
    "tubes/test/parts_mismatch/000.png",
    "tubes/ground_truth/parts_mismatch/000_mask.png",
  ),
  "btad": (
    ("01", "02", "03"),
    USUAL | {("test", "ko"): 2},
    "03/test/ko/001.bmp",
    "03/ground_truth/ko/001.bmp",
  ),
  "mvtec_loco": (
    ("pushpins",),
    {
      **{("train", "good"): 2, ("validation", "good"): 2, ("test", "good"): 2},
      **{("test", "logical_anomalies"): 2, ("test", "structural_anomalies"): 2},
    },
    "pushpins/test/logical_anomalies/000.png",
    "pushpins/ground_truth/logical_anomalies/000/000.png",
  ),
  "visa": (
    ("candle", "pcb1"),
    USUAL | {("test", "anomaly"): 2},
    "candle/Data/Images/Anomaly/001.JPG",
    "candle/Data/Masks/Anomaly/001.png",
  ),
  "dagm": (
    ("Class1", "Class10"),
    {("train", "good"): 3, ("test", "good"): 3, ("test", "defect"): 1},
    "Class1/Test/000.PNG",
    "Class1/Test/Label/000_label.PNG",
  ),
  "folder": (
    ("gear", "größe 2"),
    USUAL | {("test", "dent"): 2, ("test", "rost 锈"): 2},
    "gear/test/dent/000.png",
    "gear/ground_truth/dent/000.png",
  ),
}
every = pytest.mark.parametrize("name", SETS)


def write(name: str, tmp_path: Path) -> Path:
  return getattr(layouts, name)(tmp_path / "data")


def prepare(name: str, root, tmp_path: Path) -> common.Builder:
  return common.prepare(name, root and str(root), str(tmp_path / "prepared"))


def refuse(name: str, root, tmp_path: Path) -> str:
  """Expects prepare to refuse a source and to leave nothing but locks; returns what it says."""
  with pytest.raises(UserError) as error:
    prepare(name, root, tmp_path)
  left = list((tmp_path / "prepared").glob("*"))
  assert [p for p in left if not p.name.endswith(".lock")] == []
  return str(error.value)


def good_folder(name: str, root: Path) -> Path:
  """Returns where the good training images of a category are."""
  inner = {"visa": "Data/Images/Normal", "dagm": "Train", "btad": "train/ok"}
  return root / SETS[name][0][0] / inner.get(name, "train/good")


# ---- whole ----


@every
def test_what_is_read_is_what_was_written(name, tmp_path):
  root = write(name, tmp_path)
  builder = prepare(name, root, tmp_path)
  categories, kinds, _, _ = SETS[name]
  assert Counter(common.rows_of(builder)) == {
    (c, split, kind): n for c in categories for (split, kind), n in kinds.items()
  }
  for split in {s for s, _ in kinds}:
    for row in builder.as_data_source(split):
      path = root / row["name"].decode()
      assert np.array_equal(row["image"], np.asarray(Image.open(path).convert("RGB")))
      assert row["label"] == (row["kind"].decode() != "good")
      assert set(np.unique(row["mask"])) == ({0, 255} if row["label"] else {0})
      assert row["mask"].shape == (24, 32, 1)
  assert builder.info.citation or name == "folder"
  assert builder.info.description and builder.pkg_dir_path.joinpath("TAGS.txt").exists()


@every
def test_masks_are_those_of_their_images(name, tmp_path):
  root = write(name, tmp_path)
  _, _, image, mask = SETS[name]
  builder = prepare(name, root, tmp_path)
  rows = {row["name"].decode(): row for row in builder.as_data_source("test")}
  expected = np.asarray(Image.open(root / mask)) > 0
  assert expected.any() and np.array_equal(rows[image]["mask"][..., 0] > 0, expected)


@every
def test_pixels_are_found_by_split(name, tmp_path):
  root = write(name, tmp_path)
  index, source = data.open(name, str(root), str(tmp_path / "prepared"))
  rows = np.arange(len(index.name))[::-1].copy()
  pixels = data.load(index, source, rows, 24)
  for i, row in enumerate(rows.tolist()):
    picture = Image.open(root / index.name[row]).convert("RGB")
    expected = np.asarray(picture.resize((24, 24), Image.Resampling.BILINEAR))
    assert np.array_equal(pixels.image[i], expected)
    assert pixels.region[i].any() == index.label[row]


@every
def test_the_folder_above_will_do(name, tmp_path):
  root = write(name, tmp_path)
  inside = prepare(name, root, tmp_path)
  assert prepare(name, root.parent, tmp_path).data_dir == inside.data_dir
  shutil.copytree(root, tmp_path / "again")
  assert "in several folders" in error_of(name, root.parent, tmp_path)


def error_of(name: str, root, tmp_path: Path) -> str:
  with pytest.raises(UserError) as error:
    prepare(name, root, tmp_path)
  return str(error.value)


@every
def test_counts_are_compared_in_full(name, tmp_path, caplog):
  builder = prepare(name, write(name, tmp_path), tmp_path)
  if name == "folder":
    assert not caplog.records
    return
  assert "not the official images" in caplog.text
  assert ("absent: " in caplog.text) == (name != "btad")
  category = SETS[name][0][0]
  part = next(iter(builder.COUNTS[category]))
  expected = builder.COUNTS[category][part]
  assert [category, part, str(expected), "3" if name != "mvtec_loco" else "2"] in [
    line.split() for line in caplog.text.splitlines()
  ]


@pytest.mark.parametrize(
  ("name", "totals"),
  [
    ("mvtec_ad", (3629, 467, 1258)),
    ("mvtec_loco", (1772, 575, 993)),
    ("mpdd", (888, 176, 282)),
    ("btad", (1799, 451, 290)),
    ("mtd", (762, 190, 392)),
    ("visa", (8659, 962, 1200)),
    ("dagm", (7004, 6996, 1054)),
  ],
)
def test_official_counts_add_up(name, totals):
  cls = plugins.load("datasets", name).Builder
  assert set(cls.COUNTS) == set(cls.CATEGORIES)
  sums = Counter()
  for parts in cls.COUNTS.values():
    for part, n in parts.items():
      sums[part if part.endswith("/good") else "defective"] += n
  assert (sums["train/good"], sums["test/good"], sums["defective"]) == totals


def test_nothing_is_said_of_the_right_counts():
  rows = [("a", "train", "good")] * 2 + [("a", "test", "hole")]
  assert counts.described({"a": counts.usual(2, 0, 1)}, rows) == ""
  assert counts.described({"a": counts.usual(2, 1, 1), "b": {"test": 1}}, rows).splitlines() == [
    "category  part       expected  found",
    "a         test/good  1         0",
    "absent: b",
  ]


# ---- broken ----


@every
def test_missing_mask(name, tmp_path):
  root = write(name, tmp_path)
  _, _, image, mask = SETS[name]
  (root / mask).unlink()
  said = refuse(name, root, tmp_path)
  assert ("Labels.txt" if name == "dagm" else str(root / image)) in said
  assert "mask" in said and ("no mask" in said or "have no mask" in said or "no file" in said)


@every
def test_extra_files(name, tmp_path, caplog):
  root = write(name, tmp_path)
  before = prepare(name, root, tmp_path).info.metadata["fingerprint"]
  place = (root / SETS[name][2]).parent
  for stray in ("Thumbs.db", ".DS_Store", "._000.png", "notes.txt"):
    (place / stray).write_bytes(b"x")
  assert prepare(name, root, tmp_path).info.metadata["fingerprint"] == before
  good = good_folder(name, root)
  shutil.copy(next(p for p in good.iterdir() if p.is_file()), good / "extra.png")
  caplog.clear()
  index = prepare(name, root, tmp_path).info.metadata["index"]["name"]
  if name == "visa":  # its split is a list
    assert "1 images are not in split_csv/1cls.csv" in caplog.text
  else:
    assert sum(n.endswith("extra.png") for n in index) == 1


@every
def test_other_cases_of_names(name, tmp_path):
  root = write(name, tmp_path)
  size = len(prepare(name, root, tmp_path).info.metadata["index"]["name"])
  for path in sorted(root.rglob("*"), key=lambda p: -len(p.parts)):
    if path.suffix.lower() in (".png", ".jpg", ".bmp"):
      path.rename(path.with_suffix(path.suffix.swapcase()))
    elif path.name in ("train", "test", "good", "ok", "ground_truth", "Data", "Images", "Label"):
      path.rename(path.with_name(path.name.swapcase()))
  assert len(prepare(name, root, tmp_path).info.metadata["index"]["name"]) == size


@every
@pytest.mark.parametrize("which", [2, 3])
def test_truncated_file(name, which, tmp_path):
  root = write(name, tmp_path)
  broken = root / SETS[name][which]
  broken.write_bytes(broken.read_bytes()[:-40])
  said = refuse(name, root, tmp_path)
  assert str(broken) in said and "not a readable image" in said
  broken.write_bytes(b"")
  assert "empty file" in refuse(name, root, tmp_path)


@every
def test_mask_of_another_size(name, tmp_path):
  root = write(name, tmp_path)
  mask = root / SETS[name][3]
  Image.fromarray(np.full((7, 9), 100, np.uint8)).save(mask)
  said = refuse(name, root, tmp_path)
  assert str(mask) in said and "9 x 7" in said and "32 x 24" in said


@every
def test_empty_class(name, tmp_path):
  root = write(name, tmp_path)
  good = good_folder(name, root)
  for path in good.iterdir():
    if path.is_file():
      path.unlink()
  said = refuse(name, root, tmp_path)
  assert "no good" in said and SETS[name][0][0] in said and "Expected" in said


@every
def test_unicode_and_space_in_names(name, tmp_path):
  root = write(name, tmp_path)
  moved = tmp_path / "größer 裂 data"
  root.rename(moved)
  image, mask = (moved / SETS[name][i] for i in (2, 3))
  new = f"ä 裂 {image.stem}"
  if name == "mvtec_loco":
    mask.parent.rename(mask.parent.with_name(new))
  else:
    mask.rename(mask.with_name(mask.name.replace(image.stem, new)))
  image.rename(image.with_stem(new))
  for listing in (*moved.rglob("Labels.txt"), *moved.rglob("1cls.csv")):
    text = listing.read_text().replace(f"Anomaly/{image.stem}", f"Anomaly/{new}")
    listing.write_text(text.replace(f"{image.stem}_label", f"{new}_label"), "utf-8")
    if listing.name == "Labels.txt" and listing.parent != mask.parent:
      listing.unlink()
  builder = prepare(name, moved, tmp_path)
  row = next(r for r in builder.as_data_source("test") if new in r["name"].decode())
  assert row["label"] == 1 and row["mask"].any()


@every
def test_links_that_lead_in_a_circle(name, tmp_path):
  root = write(name, tmp_path)
  before = prepare(name, root, tmp_path).info.metadata["fingerprint"]
  place = (root / SETS[name][2]).parent
  (root / "loop").symlink_to(root, target_is_directory=True)
  (root / "self").symlink_to(root / "self")
  (place.parent / "loop").symlink_to(place.parent, target_is_directory=True)
  if name == "folder":
    assert 'holds the folder "' in error_of(name, root, tmp_path)
    return
  (place / "loop").symlink_to(place, target_is_directory=True)
  assert prepare(name, root, tmp_path).info.metadata["fingerprint"] == before
  (place / "self.png").symlink_to(place / "self.png")
  if name != "visa":  # its split is a list
    assert "self.png' cannot be read" in error_of(name, root, tmp_path)


@every
def test_a_folder_of_something_else(name, tmp_path):
  (tmp_path / "photos").mkdir()
  (tmp_path / "photos/a.jpg").touch()
  said = refuse(name, tmp_path / "photos", tmp_path)
  assert "holds: a.jpg. Expected: " in said


# ---- archives ----


def pack(root: Path, file: Path) -> Path:
  with tarfile.open(file, f"w:{'' if file.suffix == '.tar' else file.suffix[1:]}") as archive:
    archive.add(root, root.name)
  return file


def zipped(root: Path, file: Path) -> Path:
  with zipfile.ZipFile(file, "w") as archive:
    for path in sorted(root.rglob("*")):
      archive.write(path, f"official/{path.relative_to(root).as_posix()}")
  return file


@every
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
  assert list((tmp_path / "prepared/downloads").iterdir()) == []


@pytest.mark.parametrize("name", ["mvtec_ad", "mvtec_loco", "mpdd", "dagm"])
def test_others_say_where_to_get_them(name, tmp_path):
  said = refuse(name, None, tmp_path)
  assert "needs a folder and none was given" in said and "https://" in said


# ---- one data set's own ----


def test_loco_keeps_every_channel_and_its_saturation(tmp_path):
  builder = prepare("mvtec_loco", layouts.mvtec_loco(tmp_path / "loco"), tmp_path)
  rows = {row["name"].decode(): row for row in builder.as_data_source("test")}
  for i, kind in enumerate(("logical_anomalies", "structural_anomalies")):
    one, two = (rows[f"pushpins/test/{kind}/{n:03d}.png"] for n in (0, 1))
    assert len(one["channels"]) == 1 and len(two["channels"]) == 2
    assert list(one["saturation"]) == [25]  # int(0.4 * 64)
    assert list(two["saturation"]) == [25, (30, 36)[i]]  # min(30, 36), min(40, 36)
    overlap = np.all([c > 0 for c in two["channels"]], axis=0)
    assert overlap.sum() == 4
    assert np.array_equal(np.max(two["channels"], axis=0), two["mask"])
  good = rows["pushpins/test/good/000.png"]
  assert len(good["channels"]) == len(good["saturation"]) == 0


def test_loco_is_another_build_with_other_thresholds(tmp_path):
  root = layouts.mvtec_loco(tmp_path / "loco")
  config = root / "pushpins/defects_config.json"
  before = prepare("mvtec_loco", root, tmp_path)
  config.write_text(config.read_text().replace("0.4", "0.5"))
  after = prepare("mvtec_loco", root, tmp_path)
  assert after.info.metadata["fingerprint"] != before.info.metadata["fingerprint"]


@pytest.mark.parametrize("text", ["", "{}", '[{"pixel_value": 1}]', "[1]", None])
def test_loco_without_a_config(text, tmp_path):
  root = layouts.mvtec_loco(tmp_path / "loco")
  config = root / "pushpins/defects_config.json"
  config.unlink() if text is None else config.write_text(text)
  said = refuse("mvtec_loco", root, tmp_path)
  assert str(config) in said or "000.png" in said
  assert "Unpack" in said


def test_loco_with_a_channel_that_no_rule_knows(tmp_path):
  root = layouts.mvtec_loco(tmp_path / "loco")
  config = root / "pushpins/defects_config.json"
  config.write_text(json.dumps(json.loads(config.read_text())[1:]))
  said = refuse("mvtec_loco", root, tmp_path)
  assert "000.png" in said and "has the values [100]" in said


@pytest.mark.parametrize("text", [None, "a,b\n1,2\n", "object,split,label,image,mask\na,b,c,d,e\n"])
def test_visa_without_its_split(text, tmp_path):
  root = layouts.visa(tmp_path / "visa")
  file = root / "split_csv/1cls.csv"
  file.unlink() if text is None else file.write_text(text)
  said = refuse("visa", root, tmp_path)
  assert str(file) in said and "spot-diff" in said


def test_only_good_images_are_learnt(tmp_path):
  root = layouts.mvtec_ad(tmp_path / "mvtec")
  shutil.copytree(root / "bottle/test/broken", root / "bottle/train/broken")
  said = refuse("mvtec_ad", root, tmp_path)
  assert str(root / "bottle/train/broken") in said and 'not named "good"' in said


# ---- folder ----


@pytest.fixture
def gear(tmp_path) -> Path:
  return layouts.folder(tmp_path / "own") / "gear"


def test_one_category_is_named_after_its_folder(gear, tmp_path):
  builder = prepare("folder", gear, tmp_path)
  index = builder.info.metadata["index"]
  assert set(index["category"]) == {"gear"} and len(index["name"]) == 9
  renamed = prepare("folder", gear.rename(gear.with_name("wheel")), tmp_path)
  assert set(renamed.info.metadata["index"]["category"]) == {"wheel"}


def test_here_is_a_folder_too(gear, tmp_path, monkeypatch):
  monkeypatch.chdir(gear)
  assert set(prepare("folder", ".", tmp_path).info.metadata["index"]["category"]) == {"gear"}


def test_masks_are_optional(gear, tmp_path):
  shutil.rmtree(gear / "ground_truth")
  index, source = data.open("folder", str(gear), str(tmp_path / "prepared"))
  assert index.label.sum() == 4
  assert not data.load(index, source, np.flatnonzero(index.label), 16).region.any()


def test_good_images_alone_will_do(gear, tmp_path):
  shutil.rmtree(gear / "ground_truth")
  shutil.rmtree(gear / "test")
  index, source = data.open("folder", str(gear), str(tmp_path / "prepared"))
  assert index.split.tolist() == ["train"] * 3 and len(index.rows("gear", "test")) == 0
  assert data.load(index, source, index.rows("gear", "train"), 16).image.shape == (3, 16, 16, 3)


def test_masks_with_both_names_and_any_form(gear, tmp_path):
  masks = sorted((gear / "ground_truth/dent").iterdir())
  masks[0].rename(masks[0].with_name("000_mask.png"))
  Image.open(masks[1]).save(masks[1].with_suffix(".bmp"))
  masks[1].unlink()
  index, source = data.open("folder", str(gear), str(tmp_path / "prepared"))
  assert data.load(index, source, np.flatnonzero(index.kind == "dent"), 16).region.any((1, 2)).all()


def test_images_of_one_stem_need_masks_of_their_full_names(gear, tmp_path):
  image, mask = gear / "test/dent/000.png", gear / "ground_truth/dent/000.png"
  Image.open(image).save(image.with_suffix(".bmp"))
  said = refuse("folder", gear, tmp_path)
  assert "not certain which mask" in said and "2 images of that stem" in said
  Image.open(mask).save(mask.with_suffix(".bmp"))
  assert len(prepare("folder", gear, tmp_path).as_data_source("test")) == 7
  shutil.copy(mask, mask.with_name("001_mask.png"))
  shutil.rmtree(tmp_path / "prepared")
  assert "not certain which mask" in refuse("folder", gear, tmp_path)


def test_every_form_and_depth_of_image(gear, tmp_path):
  rng = np.random.default_rng(0)
  colour = rng.integers(0, 256, (20, 30, 3), dtype=np.uint8)
  place = gear / "train/good"
  shutil.rmtree(place)
  place.mkdir()
  Image.fromarray(colour[..., 0]).save(place / "grey.tiff")
  Image.fromarray(colour[..., 0].astype(np.uint16) * 257).save(place / "deep.png")
  Image.fromarray(np.dstack([colour, colour[..., :1]])).save(place / "alpha.webp", lossless=True)
  Image.fromarray(colour).quantize(200).save(place / "palette.gif")
  Image.fromarray(colour).save(place / "colour.PPM")
  Image.fromarray(colour).save(place / "photo.jpeg")
  builder = prepare("folder", gear, tmp_path)
  rows = {Path(r["name"].decode()).stem: r["image"] for r in builder.as_data_source("train")}
  grey = np.repeat(colour[..., :1], 3, axis=-1)
  assert set(rows) == {"grey", "deep", "alpha", "palette", "colour", "photo"}
  assert np.array_equal(rows["grey"], grey) and np.array_equal(rows["deep"], grey)
  assert np.array_equal(rows["colour"], colour)


def test_folders_within_kinds_are_refused(gear, tmp_path):
  (gear / "test/dent/monday").mkdir()
  said = refuse("folder", gear, tmp_path)
  assert str(gear / "test/dent") in said and '"monday"' in said


def test_images_beside_the_kinds_are_warned_of(gear, tmp_path, caplog):
  shutil.copy(gear / "test/dent/000.png", gear / "test/lost.png")
  shutil.copy(gear / "ground_truth/dent/000.png", gear / "ground_truth/dent/nobody.png")
  prepare("folder", gear, tmp_path)
  assert "1 images in no kind's folder" in caplog.text and "nobody.png" in caplog.text


def test_other_folders_are_warned_of(gear, tmp_path, caplog):
  caplog.set_level(logging.WARNING)
  (gear.parent / "notes").mkdir()
  prepare("folder", gear.parent, tmp_path)
  assert "ignored: notes" in caplog.text


@pytest.mark.skipif(os.name == "nt", reason="modes are not of that kind there")
def test_a_folder_that_may_not_be_read(gear, tmp_path):
  if os.geteuid() == 0:
    pytest.skip("the superuser may read everything")
  (gear / "train").chmod(0)
  assert error_of("folder", gear, tmp_path)
  (gear / "train").chmod(0o755)
