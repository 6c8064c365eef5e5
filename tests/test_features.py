"""The store of pixels and frozen features: computed once, kept within its budget, in order."""

import logging

import jax
import numpy as np
import pytest

from imiad_jax import data, features
from imiad_jax.errors import UserError
from imiad_jax.types import Index

NET = "efficientnet_lite0"


@pytest.fixture
def index() -> Index:
  """Categories a, b and c, of 4 rows each, mingled."""
  category = np.array(list("abcabcabcabc"))
  name = np.array([f"{i:02}" for i in range(12)])
  split = np.array(["train"] * 6 + ["test"] * 6)
  return Index(name, category, split, np.full(12, "good"), np.zeros(12, int))


@pytest.fixture
def calls(monkeypatch) -> list:
  """Replaces decoding and the network; what they give tells row, size and stage. Lists calls."""
  calls = []

  def load(index, source, rows, size):
    calls.append(("load", index.category[rows[0]], size))
    image = np.zeros((len(rows), size, size, 3), np.uint8) + rows[:, None, None, None]
    return data.Pixels(image.astype(np.uint8), image[..., 0].astype(np.int16))

  def extractor(name, stages):
    def run(params, image):
      calls.append(("run", name, stages, image.shape[1]))
      return {s: image[:, 0, :2, 0] * 10.0 + int(s[-1]) for s in stages}

    return run

  monkeypatch.setattr(data, "load", load)
  monkeypatch.setattr(features, "_extractor", extractor)
  monkeypatch.setattr(features, "backbone", lambda name: features.Backbone(name, None, None, ""))
  return calls


def store(index, budget=1 << 20) -> features.Store:
  return features.Store(index, data.Source((), (), "", ""), budget=budget)


def test_pixels_and_features_come_in_the_order_asked(index, calls):
  rows = np.array([7, 0, 11, 3, 0, 4])
  kept = store(index)
  np.testing.assert_array_equal(kept.pixels(rows, 4).image[:, 1, 2, 0], rows)
  np.testing.assert_array_equal(kept.pixels(rows, 4).region[:, 3, 0], rows)
  got = kept.features(rows, "net", ("layer2", "layer1"), 4)
  assert list(got) == ["layer2", "layer1"]
  np.testing.assert_array_equal(got["layer2"], np.stack([rows * 10 + 2] * 2, axis=1))
  np.testing.assert_array_equal(got["layer1"], np.stack([rows * 10 + 1] * 2, axis=1))


def test_a_category_is_computed_once(index, calls, caplog):
  kept, a, b = store(index), np.array([0, 3]), np.array([1])
  caplog.set_level(logging.INFO, "imiad_jax")
  kept.features(a, "net", ("layer1",), 4)
  assert calls == [("load", "a", 4), ("run", "net", ("layer1",), 4)]
  assert "features: layer1 of 4 images of a" in caplog.text and "cached" not in caplog.text
  kept.features(np.array([6, 9]), "net", ("layer1",), 4)  # other rows of the same category
  assert len(calls) == 2
  assert "features: cached for a" in caplog.text
  kept.features(a, "net", ("layer1", "layer2"), 4)
  assert calls[2:] == [("run", "net", ("layer2",), 4)]  # that stage alone
  kept.features(a, "other", ("layer1",), 4)
  assert calls[3:] == [("run", "other", ("layer1",), 4)]
  kept.features(a, "net", ("layer1",), 8)
  assert calls[4:] == [("load", "a", 8), ("run", "net", ("layer1",), 8)]
  kept.features(b, "net", ("layer1",), 4)
  assert calls[6:] == [("load", "b", 4), ("run", "net", ("layer1",), 4)]


def test_no_stages_no_network(index, calls):
  assert store(index).features(np.array([0, 1]), "net", (), 4) == {}
  assert calls == []


def test_the_oldest_goes_first(index, calls):
  # One category's pixels at size 4: 4 images of 48 bytes and regions of 32 are 320.
  kept = store(index, budget=2 * 320)
  one = {c: np.array([i]) for i, c in enumerate("abc")}
  for category in "abac":  # c is one too many: b is the one not used since
    kept.pixels(one[category], 4)
  assert [c[1] for c in calls] == ["a", "b", "c"]
  kept.pixels(one["a"], 4)
  assert len(calls) == 3
  kept.pixels(one["b"], 4)
  assert calls[3:] == [("load", "b", 4)]


@pytest.mark.parametrize("budget", [0, 1, 320, 400, 1 << 20])
def test_what_is_in_use_is_never_dropped(index, calls, budget):
  kept, rows = store(index, budget), np.array([2, 1, 0])
  for stages in (("layer1",), ("layer1", "layer2"), ("layer2",), ("layer3",)):
    got = kept.features(rows, "net", stages, 4)
    for stage in stages:
      np.testing.assert_array_equal(got[stage][:, 0], rows * 10 + int(stage[-1]))
    np.testing.assert_array_equal(kept.pixels(rows, 4).image[:, 0, 0, 0], rows)


def test_features_are_the_networks(synthetic_dir):
  index, source = data.open("synthetic", None, synthetic_dir)
  rows = np.concatenate([index.rows("woven", "test")[:3], index.rows("bottle", "train")[:2]])
  kept, stages = features.Store(index, source), ("layer1", "layer3", "embedding")
  got = kept.features(rows, NET, stages, 32)
  net = features.backbone(NET)
  image = data.load(index, source, rows, 32).image.astype(np.float32) / 255
  expected = jax.jit(net.apply)(net.params, image)
  shapes = dict(features.shapes(net, stages, 32))
  for stage in stages:
    assert got[stage].shape == (5, *shapes[stage])
    assert got[stage].dtype == np.float32
    # The same float32 sums in an order that depends on the batch.
    np.testing.assert_allclose(got[stage], expected[stage], rtol=1e-4, atol=1e-4)


def test_unknown_backbone_and_stage_say_what_exists():
  with pytest.raises(UserError, match='Did you mean "efficientnet_lite0"'):
    features.backbone("efficientnet_lit0")
  net = features.backbone(NET)
  with pytest.raises(UserError, match=r'no stage of efficientnet_lite0 "layer9".*layer4'):
    features.shapes(net, ("layer1", "layer9"), 32)


def test_stages_that_will_be_asked_for_are_computed_in_one_pass(index, calls):
  both = {("net", 4): ("layer2", "layer1")}
  kept = features.Store(index, data.Source((), (), "", ""), both)
  rows = np.array([0])
  kept.features(rows, "net", ("layer2",), 4)
  kept.features(rows, "net", ("layer1", "layer2"), 4)
  assert [c for c in calls if c[0] == "run"] == [("run", "net", ("layer2", "layer1"), 4)]
