"""Every official layout, whole and broken: what is read is what was written, the rest is named."""

import json
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import tensorflow_datasets as tfds
from imiad_jax.datasets import common
from PIL import Image

from imiad_jax import data
from tests import layouts
from tests.layouts import SETS, error_of, prepare, refuse, write

every = pytest.mark.parametrize("name", SETS)


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


def test_tfds_alone_builds_it_too(tmp_path):
  root = write("btad", tmp_path)
  ours = prepare("btad", root, tmp_path)
  alone = type(ours)(data_dir=tmp_path / "alone")
  config = tfds.download.DownloadConfig(manual_dir=root, try_download_gcs=False)
  alone.download_and_prepare(download_dir=tmp_path / "unused", download_config=config)
  assert alone.info.metadata == ours.info.metadata


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
