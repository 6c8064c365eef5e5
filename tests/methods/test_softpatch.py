"""SoftPatch: outlier factors, PatchCore without them, and the numbers of the authors' code."""

import functools
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import sklearn.neighbors

from imiad_jax import features
from imiad_jax.methods import softpatch
from tests.methods.common import (
  SIZE,
  batch,
  close,
  first_state,
  frozen,
  jitted,
  kw,
  seeded_batch,
  seeded_spec,
  spec,
)
from tests.methods.test_patchcore import patchcore_state
from tests.parity import seeded

TINY = {}

STORED = Path(__file__).parents[1] / "parity" / "softpatch.npz"
GRIDS = {"layer2": (8, 6), "layer3": (4, 10)}  # side, channels


def test_outlier_factor_equals_scikit_learn():
  x = np.random.default_rng(0).normal(size=(20, 4)).astype(np.float32)
  x[3] += 6
  lof = sklearn.neighbors.LocalOutlierFactor(5).fit(x)
  padded = jnp.asarray(np.concatenate([x, np.zeros((4, 4), np.float32)]))
  got = softpatch.outlier_factor(padded, jnp.arange(24) < 20, 5)
  np.testing.assert_allclose(got[:20], -lof.negative_outlier_factor_, rtol=1e-4)
  assert int(jnp.argmax(got)) == 3


@pytest.mark.parametrize("n", [1, 2, 4])
def test_outlier_factors_of_few_and_of_equal_rows_are_finite(n):
  x = jnp.ones((8, 3))
  got = softpatch.outlier_factor(x, jnp.arange(8) < n, 5)
  np.testing.assert_allclose(got, 1, rtol=1e-3)


def test_a_planted_outlier_is_not_in_the_bank():
  update, finish, _ = jitted("softpatch")
  state = first_state("softpatch")
  # Eight pictures of one thing with a little grain, one of which has a foreign corner.
  rng = np.random.default_rng(0)
  base = rng.random((SIZE, SIZE, 3))
  image = base + rng.normal(0, 0.01, (8, SIZE, SIZE, 3))
  image[5, :12, :12] = rng.random((12, 12, 3))
  image = jnp.asarray(image, jnp.float32)
  found = frozen("softpatch", image)
  for first in (0, 4):
    b = batch("softpatch", range(first, first + 4))
    part = {s: v[first : first + 4] for s, v in found.items()}
    state, _ = update(state, b._replace(image=image[first : first + 4], features=part))
  foreign = np.asarray(state.buffer[5, 0])  # the patch of the corner
  bank = finish(state)
  assert np.abs(np.asarray(bank.bank)[np.asarray(bank.used)] - foreign).max(-1).min() > 0


def test_softpatch_without_doubt_is_patchcore():
  more = {"ratio": 0.25}
  m = softpatch.Model(**kw("softpatch", share=0.0, **more))
  params = features.backbone("efficientnet_lite0").params
  state = m.init(jax.random.key(0), spec("softpatch", tasks=1), params)
  for first in (0, 4):
    state, _ = m.update(state, batch("softpatch", range(first, first + 4)))
  state = m.finish(state)
  n, other = patchcore_state(ratio=0.25)
  np.testing.assert_allclose(state.bank, other.bank[0], rtol=1e-6)
  b = batch("softpatch", range(10, 14))
  trusting = m.score(state._replace(weight=jnp.ones_like(state.weight)), b)
  assert_close = functools.partial(np.testing.assert_allclose, rtol=1e-5)
  jax.tree.map(assert_close, trusting, n.score(other, b))
  doubled = m.score(state._replace(weight=2 * jnp.ones_like(state.weight)), b)
  np.testing.assert_allclose(doubled.image, 2 * trusting.image, rtol=1e-5)


def test_bank_weights_scores_and_map_are_those_of_the_authors_code():
  everything = 12 * 8 * 8  # patches: selection starts from all, so that none are drawn
  m = softpatch.Model("any", size=32, dim=12, ratio=0.25, start_points=everything)
  state = m.init(jax.random.key(0), seeded_spec(GRIDS, 32, 12), None)
  for number in range(3):
    state, _ = m.update(state, seeded_batch(GRIDS, number, 4, 32))
  by_position = jnp.swapaxes(state.buffer, 0, 1)
  factor = jax.vmap(softpatch.outlier_factor, (0, None, None))(by_position, state.present, 5)
  state = m.finish(state)
  scores = m.score(state, seeded_batch(GRIDS, 3, 4, 32))
  with np.load(STORED) as stored:
    close(factor.T.reshape(-1), stored["factor"])
    close(state.bank, stored["bank"])  # the same rows in the same order
    close(state.weight, stored["weight"])
    close(scores.image, stored["image"])
    close(seeded.sample(scores.pixel), stored["map"])
