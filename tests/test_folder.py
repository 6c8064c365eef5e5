"""The data set `folder`: a user's own images, in all the forms in which they come."""

import logging
import shutil
from pathlib import Path

import numpy as np
import pytest
from imiad_jax.datasets.common import layout
from PIL import Image

from imiad_jax import data
from tests import layouts
from tests.layouts import prepare, refuse


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


def test_a_folder_that_may_not_be_read(gear, tmp_path, monkeypatch):
  def refused(*args):
    raise PermissionError(13, "Permission denied", str(gear))

  monkeypatch.setattr(layout, "child", refused)
  said = refuse("folder", gear, tmp_path)
  assert f'"{gear}" of data set "folder" cannot be read: Permission denied' in said
