"""Streaming moments: they equal those of everything at once, far from 0 too."""

import jax.numpy as jnp
import numpy as np

from imiad_jax.heads import moments


def test_moments_are_those_of_all_images_of_weight_one():
  rng = np.random.default_rng(0)
  x = rng.normal(1000, 0.5, (12, 3, 4)).astype(np.float32)
  state = moments.start({"a": jnp.zeros((3, 4))})
  mean, variance = moments.mean_and_variance(state)
  assert not mean["a"].any() and not variance["a"].any()
  weight = np.ones(12, np.float32)
  weight[[2, 7, 11]] = 0
  for at in (slice(0, 4), slice(4, 8), slice(8, 12)):
    state = moments.add(state, {"a": jnp.asarray(x[at])}, jnp.asarray(weight[at]))
  mean, variance = moments.mean_and_variance(state)
  kept = x[weight > 0].astype(np.float64)
  assert float(state.count) == 9
  np.testing.assert_allclose(mean["a"], kept.mean(0), rtol=1e-6)
  np.testing.assert_allclose(variance["a"], kept.var(0), rtol=1e-4)
