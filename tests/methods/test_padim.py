"""PaDiM: its streamed Gaussians are NumPy's, its numbers those of a version in PyTorch."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from imiad_jax import features, plugins
from imiad_jax.methods import padim
from tests.methods.common import (
  assert_refused,
  batch,
  close,
  kw,
  seeded_batch,
  seeded_spec,
  spec,
)
from tests.parity import seeded

TINY = {}

STORED = Path(__file__).parents[1] / "parity" / "padim.npz"


def padim_statistics(n: int, offset: float = 0.0):
  """Streams n images through PaDiM in batches of 4; returns State and the embeddings [n,p,d]."""
  m = plugins.load("methods", "padim").Model(**kw("padim", dim=20))
  params = features.backbone("efficientnet_lite0").params
  state = m.init(jax.random.key(0), spec("padim"), params)
  kept = []
  for first in range(0, n, 4):
    valid = np.arange(4) < n - first
    b = batch("padim", range(first, first + 4), valid)
    b = b._replace(features={k: v + offset for k, v in b.features.items()})
    state, _ = m.update(state, b)
    up = [
      np.repeat(
        np.repeat(f, b.features["layer1"].shape[1] // f.shape[1], 1),
        b.features["layer1"].shape[1] // f.shape[1],
        2,
      )
      for f in map(np.asarray, b.features.values())
    ]
    x = np.concatenate(up, -1)[valid][..., np.asarray(state.channels)]
    kept.append(x.reshape(len(x), -1, x.shape[-1]))
  return m.finish(state), np.concatenate(kept).astype(np.float64)


@pytest.mark.parametrize("offset", [0.0, 300.0])
def test_padim_statistics_are_numpys_even_with_large_means(offset):
  state, x = padim_statistics(10, offset)
  for p in (0, 5, 63):
    np.testing.assert_allclose(state.mean[p], x[:, p].mean(0), rtol=1e-5, atol=1e-4)
    cov = np.cov(x[:, p], rowvar=False) + 0.01 * np.eye(x.shape[-1])
    factor = np.linalg.inv(state.white[p])
    np.testing.assert_allclose(factor @ factor.T, cov, atol=1e-3 * np.abs(cov).max())


def test_padim_with_one_image_uses_eps_alone_and_with_two_rank_one():
  state, _ = padim_statistics(1)
  eye = np.eye(state.white.shape[-1])
  np.testing.assert_allclose(state.white, 10 * np.broadcast_to(eye, state.white.shape), rtol=1e-5)
  state, _ = padim_statistics(2)
  factor = np.linalg.inv(state.white)
  values = np.linalg.eigvalsh(factor @ np.swapaxes(factor, 1, 2))
  np.testing.assert_allclose(values[:, :-1], 0.01, rtol=1e-2)


def test_gaussians_and_map_are_those_of_the_version_in_pytorch():
  grids = {"layer1": (8, 4), "layer2": (4, 6), "layer3": (2, 8)}
  m = padim.Model("any", size=32, dim=10)
  with np.load(STORED) as stored:
    state = m.init(jax.random.key(0), seeded_spec(grids, 32, 12), None)
    state = state._replace(channels=jnp.asarray(stored["channels"]))
    for number in (0, 1):
      state, _ = m.update(state, seeded_batch(grids, number, 6, 32))
    state = m.finish(state)
    factor = np.linalg.inv(np.asarray(state.white, np.float64))
    scores = m.score(state, seeded_batch(grids, 2, 6, 32))
    close(seeded.sample(state.mean), stored["mean"])
    close(seeded.sample(factor @ factor.transpose(0, 2, 1)), stored["covariance"])
    close(scores.image, stored["image"])
    close(seeded.sample(scores.pixel), stored["map"])


@pytest.mark.parametrize("wrong", [{"eps": -1.0}, {"stages": ()}])
def test_nonsense_is_refused_by_name(wrong):
  assert_refused("padim", wrong)
