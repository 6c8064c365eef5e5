"""SPADE: nearest images, then nearest cells of those, and the numbers of a version in PyTorch."""

from pathlib import Path

import jax
import numpy as np

from imiad_jax import plugins
from imiad_jax.methods import spade
from tests.methods.common import (
  SIZE,
  batch,
  close,
  jitted,
  kw,
  learnt,
  seeded_batch,
  seeded_spec,
)
from tests.parity import seeded

TINY = {}

STORED = Path(__file__).parents[1] / "parity" / "spade.npz"


def test_spade_knows_its_training_images():
  score = jitted("spade")[2]
  known, other = (
    score(learnt("spade"), batch("spade", [0, 7])),
    score(learnt("spade"), batch("spade", [20, 21])),
  )
  # The nearest neighbour of a training image is itself, so each position of its map has a distance
  # of 0, up to the rounding of squared distances.
  assert float(known.pixel.max()) < 0.02 * float(other.pixel.min())
  pooled = np.asarray(learnt("spade").pooled)
  distance = np.sort(np.sqrt(((pooled[[0, 7], None] - pooled) ** 2).sum(-1)))
  assert (distance[:, 0] == 0).all()
  np.testing.assert_allclose(known.image, distance[:, :5].mean(1), rtol=1e-3)


def test_spade_with_all_images_as_neighbours_searches_them_all():
  m = plugins.load("methods", "spade").Model(**kw("spade", k=8, sigma=1e-3))
  state, b = learnt("spade"), batch("spade", [20, 21])
  grids = []
  for stage in m.stages[:3]:
    x, gallery = np.asarray(b.features[stage]), np.asarray(state.gallery[stage])
    flat = gallery.reshape(-1, x.shape[-1])
    d = np.sqrt(((x[..., None, :] - flat) ** 2).sum(-1)).min(-1)
    grids.append(jax.image.resize(d, (2, SIZE, SIZE), "bilinear", antialias=False))
  np.testing.assert_allclose(m.score(state, b).pixel, sum(grids) / 3, rtol=1e-3, atol=1e-3)
  pooled = np.asarray(b.features["layer4"]).mean((1, 2))
  d = np.sqrt(((pooled[:, None] - np.asarray(state.pooled)) ** 2).sum(-1))
  np.testing.assert_allclose(m.score(state, b).image, d.mean(1), rtol=1e-4)


def test_more_neighbours_never_raise_a_pixel():
  few, many = (plugins.load("methods", "spade").Model(**kw("spade", k=k)) for k in (2, 6))
  b = batch("spade", [20, 21])
  assert (many.score(learnt("spade"), b).pixel <= few.score(learnt("spade"), b).pixel + 1e-4).all()


def test_spade_forgets_the_last_task_when_another_begins():
  update, finish, score = jitted("spade")
  state, _ = update(learnt("spade"), batch("spade", range(4), seed=1))
  second = finish(state)
  assert second.present.sum() == 4
  old, new = (score(second, batch("spade", [0], seed=s)).pixel.max() for s in (0, 1))
  assert new < 0.02 * old


def test_scores_and_map_are_those_of_the_version_in_pytorch():
  grids = {"layer1": (20, 3), "layer2": (10, 4), "layer3": (10, 5), "avgpool": (1, 6)}
  m = spade.Model("any", pooled="avgpool", size=224)
  state = m.init(jax.random.key(0), seeded_spec(grids, 224, 7), None)
  state = m.finish(m.update(state, seeded_batch(grids, 0, 7, 224))[0])
  scores = m.score(
    state, jax.tree.map(lambda x: x[:3] if x.ndim else x, seeded_batch(grids, 1, 7, 224))
  )
  with np.load(STORED) as stored:
    close(scores.image, stored["image"])
    close(seeded.sample(scores.pixel), stored["map"])
