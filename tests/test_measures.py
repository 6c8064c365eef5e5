"""What is measured of a category: by image, by kind, by pixel, and at the original resolution."""

import jax
import numpy as np
import pytest

from imiad_jax import data, features, measures, metrics
from imiad_jax.types import Scores
from tests import layouts, pictures


def test_images_have_intervals_a_threshold_and_kinds():
  score = np.array([0.0, 1, 2, 3, 4, 2.5], np.float32)
  label = np.array([0, 0, 0, 1, 1, 1], np.int32)
  kind = np.array(["good"] * 3 + ["hole", "hole", "crack"])
  found = measures.images(score, label, kind)
  assert found["image_auroc"] == found["image_ap"] == found["image_f1max"] == 1
  assert found["image_threshold"] == 2.5  # the largest score that still finds all three
  assert found["image_auroc_low"] == found["image_auroc_high"] == 1
  assert found["kinds"] == {"crack": {"auroc": 1, "ap": 1}, "hole": {"auroc": 1, "ap": 1}}


def test_an_interval_holds_its_value():
  rng = np.random.default_rng(0)
  label = np.repeat([0, 1], 40).astype(np.int32)
  score = (rng.normal(size=80) + label).astype(np.float32)
  found = measures.images(score, label, np.where(label, "x", "good"))
  for name in ("image_auroc", "image_ap"):
    assert found[f"{name}_low"] < found[name] < found[f"{name}_high"]


def test_good_images_alone_have_no_metrics():
  found = measures.images(np.zeros(3, np.float32), np.zeros(3, np.int32), np.array(["good"] * 3))
  assert found == {}


def test_anomalous_images_without_a_region_count_as_images_only():
  score = np.zeros((3, 4, 4), np.float32)
  score[1, :2] = score[2] = 1  # image 2 is all hot, but where is not known
  region = np.zeros((3, 4, 4), np.int16)
  region[1, :2] = 1
  found = measures.pixels(score, np.array([0, 1, 1], np.int32), region)
  assert found["pixel_auroc"] == found["pixel_pro"] == found["pixel_f1max"] == 1


def test_no_masks_no_pixel_metrics():
  region = np.zeros((2, 4, 4), np.int16)
  assert measures.pixels(np.zeros((2, 4, 4), np.float32), np.array([0, 1]), region) == {}


def test_a_method_that_does_not_localise_has_no_pixel_metrics():
  store = pictures.Store()
  rows = store.index.rows("c0", "test")
  found = measures.measure(Scores(np.arange(len(rows), dtype=np.float32), None), rows, store, 16)
  assert "image_auroc" in found and not any(k.startswith(("pixel", "spro")) for k in found)


def test_saturated_pro_is_measured_at_the_original_resolution(tmp_path):
  root = layouts.write("mvtec_loco", tmp_path)
  index, source = data.open("mvtec_loco", str(root), str(tmp_path / "prepared"))
  store, category = features.Store(index, source), str(index.category[0])
  rows = index.rows(category, "test")
  defects, shape = data.defects(index, source, rows)
  assert [bool(d) for d in defects] == (index.label[rows] == 1).tolist()
  # Maps that are hot exactly on the defects, at 48 x 48 as a method would give them.
  hot = np.zeros((len(rows), *shape), np.float32)
  for image, known in zip(hot, defects, strict=True):
    for mask, _ in known:
      image[mask] = 1
  small = np.asarray(jax.image.resize(hot, (len(rows), 48, 48), "bilinear"))
  got = measures.measure(Scores(small.max(axis=(1, 2)), small), rows, store, 48)
  full = np.asarray(jax.image.resize(small, hot.shape, "bilinear"))
  expected = metrics.loco(full, defects, index.kind[rows], np.ones(len(rows), bool))
  assert {k: v for k, v in got.items() if k.startswith("spro")} == pytest.approx(expected, abs=1e-6)
  assert {"spro@0.05", "spro@0.05_logical", "spro@0.05_structural", "spro@1.0"} <= set(got)
  assert got["spro@1.0"] > 0.9
