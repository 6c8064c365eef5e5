"""The streaming metrics: within their own bounds of the exact ones, whatever the scores."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from imiad_jax import metrics
from imiad_jax.metrics import keys, streaming
from tests.test_metrics import (
  CLOSE,
  REGIONS,
  SCORES,
  SHAPE,
  draw_regions,
  draw_scores,
  quick,
  seeds,
)

KEYS = ("auroc", "ap", "f1max", "pro")


def check(streamed, exact):
  """Every value within its bound of the exact one; the bound no wider than it must be."""
  assert set(streamed) == ({*KEYS, "threshold"} | {f"{k}_error" for k in KEYS} if exact else set())
  for k in KEYS if exact else ():
    assert abs(streamed[k] - exact[k]) <= streamed[f"{k}_error"] + 1e-12
    assert 0 <= streamed[k] <= 1
    assert 0 <= streamed[f"{k}_error"] <= 1


@quick
@given(
  seeds,
  st.sampled_from(SCORES),
  st.sampled_from(REGIONS),
  st.sampled_from([1, 3, 8]),
  st.sampled_from(["known", "all", "wrong", "one"]),
  st.sampled_from([0.01, 0.3, 1.0]),
)
def test_the_exact_values_are_within_the_bounds(seed, scores, regions, bits, guess, limit):
  rng = np.random.default_rng(seed)
  score, region = draw_scores(rng, scores), draw_regions(rng, regions)
  valid = rng.random(len(score)) >= 0.2
  spans = {
    "known": streaming.span(score, valid),
    "all": (),
    "wrong": (0.5, 1e30),
    "one": (5.0, 5.0),
  }
  state = streaming.add(streaming.init(*spans[guess], bits=bits), score, region, valid)
  streamed = streaming.finish(state, limit)
  check(streamed, metrics.pixel(score, region, valid, limit, f1=True))
  if streamed:
    hit, bad = (score >= streamed["threshold"])[valid], region[valid] > 0
    if guess == "known":
      assert streamed["f1max"] == 2 * (hit & bad).sum() / (hit.sum() + bad.sum())


def test_one_score_a_bin_leaves_no_error():
  rng = np.random.default_rng(0)
  score = (1 + rng.permutation(np.prod(SHAPE)) * 2.0**-23).reshape(SHAPE).astype(np.float32)
  region, valid = draw_regions(rng, "few"), np.ones(len(score), bool)
  state = streaming.add(streaming.init(*streaming.span(score, valid), bits=9), score, region, valid)
  streamed, exact = streaming.finish(state), metrics.pixel(score, region, valid, f1=True)
  for k in KEYS:
    assert streamed[k] == pytest.approx(exact[k], **CLOSE)
  assert streamed["threshold"] == exact["threshold"]
  assert max(streamed[f"{k}_error"] for k in KEYS) < 1e-12


@pytest.mark.parametrize("better", [False, True])
def test_the_bounds_are_reached(better):
  region = np.zeros((1, 10, 10), np.int32)
  region[0, :2] = 1
  score = np.where(region > 0, 2.0 if better else 1.0, 1.5).astype(np.float32)
  valid = np.ones(1, bool)
  streamed = streaming.finish(streaming.add(streaming.init(5.0, 9.0), score, region, valid))
  exact = metrics.pixel(score, region, valid, f1=True)
  assert streamed["auroc"] == 0.5
  assert streamed["auroc_error"] == 0.5
  assert streamed["ap"] == 0.2
  assert streamed["pro"] == pytest.approx(0.15, **CLOSE)
  if better:
    for k in ("ap", "f1max", "pro"):
      assert streamed[k] + streamed[f"{k}_error"] == pytest.approx(exact[k], **CLOSE) == 1
  check(streamed, exact)


def test_parts_add_up():
  rng = np.random.default_rng(1)
  score, region = draw_scores(rng, "mixed"), draw_regions(rng, "many")
  valid = np.arange(len(score)) != 2
  state = streaming.init(-3.0, 3.0)
  for part in (slice(0, 1), slice(1, 4), slice(4, 6)):
    state = streaming.add(state, score[part], region[part], valid[part])
  whole = streaming.add(streaming.init(-3.0, 3.0), score, region, valid)
  assert streaming.finish(state) == pytest.approx(streaming.finish(whole), **CLOSE)
  assert sum(x.nbytes for x in jax.tree.leaves(whole)) < 24 * 2**18 + 100


def test_a_budget_decides(monkeypatch):
  monkeypatch.setattr(streaming, "PART", 128)  # two images
  rng = np.random.default_rng(2)
  score, region = draw_scores(rng, "distinct") + 20, draw_regions(rng, "many")
  valid = np.arange(len(score)) != 1
  exact = metrics.pixel(score, region, valid, budget=score.size, f1=True)
  streamed = metrics.pixel(score, region, valid, budget=score.size - 1, f1=True)
  assert set(exact) == {*KEYS, "threshold"}
  check(streamed, exact)
  assert max(streamed[f"{k}_error"] for k in KEYS) < 0.01


def test_bins_follow_the_scores():
  rng = np.random.default_rng(3)
  for centre, spread in ((20, 0.1), (1e4, 5), (1e-12, 1e-13), (-300, 1)):
    score = (centre + spread * rng.standard_normal((4, 64, 64))).astype(np.float32)
    region = np.zeros(score.shape, np.int32)
    region[:2, 10:20, 10:20] = 1
    score += (spread * region).astype(np.float32)
    valid = np.ones(4, bool)
    streamed = metrics.pixel(score, region, valid, budget=0, f1=True)
    check(streamed, metrics.pixel(score, region, valid, f1=True))
    assert max(streamed[f"{k}_error"] for k in ("auroc", "f1max", "pro")) < 1e-3


def test_what_is_refused():
  score, region, valid = np.zeros(SHAPE, np.float32), np.zeros(SHAPE, np.int32), np.ones(6, bool)
  score[3, 0, :2], valid[0] = (np.nan, np.inf), False
  score[0] = np.nan
  assert streaming.span(score, valid) == (-streaming.HIGHEST, streaming.HIGHEST)
  state = streaming.add(streaming.init(), score, region, valid)
  with pytest.raises(ValueError, match=r"^2 scores are not finite"):
    streaming.finish(state)
  for low, high in ((1.0, 0.0), (np.nan, 1.0), (0.0, np.inf)):
    with pytest.raises(ValueError, match="low"):
      streaming.init(low, high)
  with pytest.raises(ValueError, match="bits"):
    streaming.init(bits=25)
  with pytest.raises(ValueError, match="limits"):
    streaming.finish(streaming.init(), 0.0)
  assert streaming.finish(streaming.init()) == {}


@quick
@given(st.floats(width=32, allow_nan=False, allow_infinity=False))
def test_keys_are_scores_again(x):
  assert keys.score(keys.key(x)) == x
  assert int(keys.order(jnp.float32(x))) == keys.key(x)
