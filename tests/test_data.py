"""A prepared data set as the engine sees it: its index, and pixels in one geometry."""

import io
from pathlib import Path

import numpy as np
import pytest
from imiad_jax.datasets import common
from PIL import Image

from imiad_jax import data, engine
from imiad_jax.errors import UserError
from tests import layouts

SIZE = 32


@pytest.fixture(scope="module")
def opened(synthetic_dir):
  return data.open("synthetic", None, synthetic_dir)


def mtd(tmp_path: Path, image: np.ndarray, mask: np.ndarray) -> data.Pixels:
  """Returns the pixels of an image and mask that stand for the crack of a folder of tiles."""
  root = layouts.mtd(tmp_path / "mtd", train=1, test=1)
  file = next((root / "MT_Crack" / "Imgs").glob("*.jpg"))
  Image.fromarray(image).save(file, quality=95, subsampling=0)
  Image.fromarray(mask).save(file.with_suffix(".png"))
  index, source = data.open("mtd", str(root), str(tmp_path / "prepared"))
  return data.load(index, source, np.flatnonzero(index.kind == "crack"), SIZE)


# ---- the index ----


def test_index_has_a_value_a_row_and_is_sorted(opened):
  index, source = opened
  assert {len(column) for column in index} == {660}
  for split, rows in (("train", slice(0, 360)), ("test", slice(360, 660))):
    assert set(index.split[rows]) == {split}
    assert index.name[rows].tolist() == sorted(set(index.name[rows]))
  np.testing.assert_array_equal(index.label, index.kind != "good")
  assert index.label.dtype.kind == "i"
  assert source.version == "1.0.0" and len(source.fingerprint) == 12


def test_rows_are_those_of_a_category_and_split(opened):
  index, _ = opened
  parts = [index.rows(c, s) for c in np.unique(index.category) for s in ("train", "test")]
  assert sorted(np.concatenate(parts)) == list(range(660))
  rows = index.rows("bottle", "test")
  assert set(index.category[rows]) == {"bottle"} and set(index.split[rows]) == {"test"}
  assert (np.diff(rows) > 0).all()
  assert len(index.rows("no such category", "test")) == 0


def test_what_does_not_exist_is_the_users_mistake(tmp_path):
  with pytest.raises(UserError, match=r'no dataset "synthetik"\. Did you mean "synthetic"'):
    data.open("synthetik", None, str(tmp_path))


# ---- the pixels ----


def test_rows_come_in_the_order_asked(opened, synthetic_dir):
  index, source = opened
  rows = np.array([659, 3, 400, 359, 360, 0, 400])
  pixels = data.load(index, source, rows, 256)  # the size they are drawn at: nothing is resized
  builder = common.prepare("synthetic", None, synthetic_dir)
  stored = {e["name"].decode(): e for s in ("train", "test") for e in builder.as_data_source(s)}
  for k, row in enumerate(rows):
    example = stored[index.name[row]]
    np.testing.assert_array_equal(pixels.image[k], example["image"])
    np.testing.assert_array_equal(pixels.region[k] > 0, example["mask"][..., 0] > 0)


def test_types_shapes_and_the_same_bytes_twice(opened):
  index, source = opened
  rows = index.rows("circuit", "test")[:40:3]
  first, second = (data.load(index, source, rows, SIZE) for _ in range(2))
  assert first.image.shape == (14, SIZE, SIZE, 3) and first.image.dtype == np.uint8
  assert first.region.shape == (14, SIZE, SIZE) and first.region.dtype == np.int16
  assert [x.tobytes() for x in first] == [x.tobytes() for x in second]
  for region, label in zip(first.region, index.label[rows], strict=True):
    assert set(np.unique(region)) == set(range(region.max() + 1))
    assert label or not region.any()


def test_image_and_mask_stay_aligned(tmp_path):
  # A bright rectangle on a tile of 96 x 64, squashed by 3 and 2: its edges fall between pixels.
  image, mask = np.full((96, 64), 40, np.uint8), np.zeros((96, 64), np.uint8)
  image[24:72, 16:40], mask[24:72, 16:40] = 220, 255
  pixels = mtd(tmp_path, image, mask)
  expected = np.zeros((SIZE, SIZE), int)
  expected[24 // 3 : 72 // 3, 16 // 2 : 40 // 2] = 1
  np.testing.assert_array_equal(pixels.region[0], expected)
  bright = pixels.image[0] > (40 + 220) / 2
  np.testing.assert_array_equal(bright, np.broadcast_to(expected[..., None] > 0, bright.shape))


def test_resizing_is_antialiased(tmp_path):
  # Stripes of one pixel, too fine for the size: what is left is their mean, not every other one.
  image = np.zeros((128, 128), np.uint8)
  image[:, ::2] = 200
  pixels = mtd(tmp_path, image, np.zeros_like(image))
  assert np.abs(pixels.image[0][:, 2:-2].astype(int) - 100).max() <= 8  # JPEG


def test_regions_touch_by_corners(tmp_path):
  mask = np.zeros((SIZE, SIZE), np.uint8)
  mask[2:5, 2:5] = mask[5:8, 5:8] = 255  # these two share a corner
  mask[20:22, 3:9] = 255
  region = mtd(tmp_path, np.zeros_like(mask), mask).region[0]
  assert region.max() == 2
  assert region[3, 3] == region[6, 6] != region[20, 3]
  np.testing.assert_array_equal(region > 0, mask > 0)


def test_nothing_is_read_from_the_source_once_it_is_prepared(tmp_path):
  root = layouts.mtd(tmp_path / "mtd", train=1, test=1)
  index, source = data.open("mtd", str(root), str(tmp_path / "prepared"))
  for file in root.rglob("*.*"):
    file.write_bytes(b"gone")
  assert data.load(index, source, np.arange(len(index.name)), 8).image.shape == (7, 8, 8, 3)


def test_grey_is_read_as_colour():
  file = io.BytesIO()
  Image.fromarray(np.arange(16, dtype=np.uint8).reshape(4, 4)).save(file, format="PNG")
  image = data._decode(file.getvalue(), 4)
  assert image.shape == (4, 4, 3) and (np.ptp(image, axis=-1) == 0).all()


def test_several_data_sets_are_one_after_the_other(tmp_path, synthetic_dir):
  root = layouts.mtd(tmp_path / "all" / "mtd", train=3, test=2)
  prepared = str(tmp_path / "prepared")
  tiles, one = data.open("mtd", str(root), prepared)
  drawn, two = data.open("synthetic", None, synthetic_dir)
  index, source = data.open("mtd+synthetic", str(root.parent), synthetic_dir)
  assert index.name.tolist() == [*tiles.name, *drawn.name]
  assert source.fingerprint == f"{one.fingerprint}+{two.fingerprint}"
  assert engine.categories(index) == ("mtd", *engine.categories(drawn))
  n = len(tiles.name)
  rows = np.array([n + 400, 0, n, n - 1, len(index.name) - 1])
  got = data.load(index, source, rows, 24)
  parts = [data.load(tiles, one, rows[[1, 3]], 24), data.load(drawn, two, rows[[0, 2, 4]] - n, 24)]
  np.testing.assert_array_equal(
    got.image[[1, 3, 0, 2, 4]], np.concatenate([p.image for p in parts])
  )
  np.testing.assert_array_equal(
    got.region[[1, 3, 0, 2, 4]], np.concatenate([p.region for p in parts])
  )


def test_data_sets_with_one_category_in_common_are_refused(tmp_path):
  root = layouts.mtd(tmp_path / "mtd", train=3, test=2)
  with pytest.raises(UserError, match="share the categories mtd"):
    data.open("mtd+mtd", str(root), str(tmp_path / "prepared"))
