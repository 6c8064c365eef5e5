"""Costs are those of what the engine runs: counted by hand where they can be counted."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from imiad_jax import efficiency, features, training
from imiad_jax.types import Method, Scores, Spec
from tests import pictures

NET = "efficientnet_lite0"


def tiny(stages=(), work=1):
  """Returns a method whose score costs 2 * 64 * 64 * work operations an image, and little else."""

  def score(state, batch):
    rows = jnp.mean(batch.image, 3).reshape(len(batch.image), 64, -1)[:, :, :64]
    value = jnp.mean(rows @ state["bank"], (1, 2))
    for stage in stages:
      value += jnp.mean(batch.features[stage], (1, 2, 3))
    return Scores(value, None)

  def unused(*_):
    raise AssertionError("only scoring is measured")

  method = Method(unused, unused, unused, score, NET, stages, 64, batch=5, epochs=1)
  state = {"bank": jnp.zeros((64, work)), "key": jax.random.key(0), "rows": jnp.int32(4)}
  return training.Built(method, 1, unused, unused, unused, unused, unused), state


def images(n=3):
  rng = np.random.default_rng(0)
  image = rng.integers(0, 256, (n, 64, 64, 3)).astype(np.uint8)
  return {"image": image, "features": {}}


def test_what_can_be_counted_is_right():
  built, state = tiny()
  cost = efficiency.measure(built, state, images(), repeats=2)
  sizes = [x.size for x in jax.tree.leaves(features.backbone(NET).params)]
  assert cost["batch"] == 5
  assert cost["parameters"] == sum(sizes)
  assert 4e6 < cost["parameters"] < 5e6  # EfficientNet-Lite0: 4.7 million (its authors)
  assert cost["state_bytes"] == 64 * 4 + jax.random.key_data(state["key"]).nbytes + 4
  assert cost["scoring_bytes"] == 64 * 4  # neither key nor rows
  assert cost["host_peak_bytes"] > 50e6  # JAX alone takes more
  assert 0 < cost["seconds_one"] < 60
  assert 0 < cost["seconds_batch"] < 60
  has = jax.local_devices()[0].memory_stats() is not None
  assert ("device_peak_bytes" in cost) == has


def test_operations_are_counted_with_the_backbone():
  plain, more, net = (
    efficiency.measure(*tiny(**kw), images(), repeats=1)["flops"]
    for kw in ({}, {"work": 1001}, {"stages": ("layer1",)})
  )
  assert more - plain == pytest.approx(2 * 64 * 64 * 1000, rel=0.02)  # and the mean's additions
  assert net > plain + 1e6


def test_the_bigger_work_takes_longer():
  quick = efficiency.measure(*tiny(), images())["seconds_one"]
  slow = efficiency.measure(*tiny(work=30000), images())["seconds_one"]
  assert slow > 3 * quick


def test_scores_are_those_of_the_engine():
  store = pictures.Store(train=4, good=2, bad=1)
  built = training.build("padim", {"backbone": NET, "stages": ["layer1", "layer2"], "size": 64})
  rows = np.arange(4)
  image = store.pixels(rows, 64).image
  data = {"image": image, "features": store.features(rows, NET, built.method.stages, 64)}
  net = features.backbone(NET)
  shapes = features.shapes(net, built.method.stages, 64)
  state = built.method.init(jax.random.key(0), Spec((64, 64, 3), shapes, 4, 1), net.params)
  batch = training.untold(jax.device_put(data))
  batch = batch._replace(label=jnp.zeros(4, jnp.int32), row=jnp.arange(4, dtype=jnp.int32))
  state = built.method.finish(built.method.update(state, batch)[0])
  score, _ = efficiency.scorer(built.method, net.params, state, jnp.asarray(data["image"]))
  ours, theirs = score(), built.score(state, data)
  np.testing.assert_allclose(ours.image, theirs.image, rtol=1e-4)
  np.testing.assert_allclose(ours.pixel, theirs.pixel, rtol=1e-3, atol=1e-4)
  cost = efficiency.measure(built, state, data, repeats=1)
  assert (
    cost["state_bytes"] > 4 * 16 * 16 * 64**2
  )  # a covariance of 24 + 40 channels at each position


def test_nothing_to_measure_is_refused():
  built, state = tiny()
  with pytest.raises(ValueError, match="0 and 10"):
    efficiency.measure(built, state, images(0))
  with pytest.raises(ValueError, match="3 and 0"):
    efficiency.measure(built, state, images(), repeats=0)


@pytest.mark.parametrize(("enough", "timed"), [(0.0, 3), (60.0, 10)])
def test_slow_calls_are_timed_three_times(monkeypatch, enough, timed):
  monkeypatch.setattr(efficiency, "ENOUGH", enough)
  calls = []
  assert efficiency._seconds(lambda: calls.append(0) or jnp.zeros(()), 10) > 0
  assert len(calls) == efficiency.WARM + timed
