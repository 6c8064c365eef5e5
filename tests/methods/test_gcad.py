"""GCAD: what its bottleneck, its losses and the statistics of its maps promise."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from imiad_jax.heads import context
from imiad_jax.methods import gcad
from tests.methods.common import (
  assert_refused,
  assert_same_bits,
  batch,
  first_state,
  jitted,
  kw,
  method,
  spec,
)

TINY = {"width": 8, "code": 4, "epochs": 20, "lr": 1e-2}
AT = jnp.int32  # of an epoch


def measured(state=None):
  """The State after the first epoch, of two batches."""
  state, update = first_state("gcad") if state is None else state, jitted("gcad")[0]
  for first in (0, 4):
    state, _ = update(state, batch("gcad", range(first, first + 4)))
  return state


def test_the_same_code_is_the_same_description():
  net = context.Bottleneck((8, 8), 5, 8, 4)
  x = jax.random.normal(jax.random.key(0), (3, 4, 4, 6))
  params: Any = net.init(jax.random.key(1), x)["params"]
  own: Any = net.apply({"params": params}, x)
  assert float(jnp.abs(own[0] - own[1]).max()) > 1e-3
  params["encode"]["kernel"] = jnp.zeros_like(params["encode"]["kernel"])
  same: Any = net.apply({"params": params}, x)
  np.testing.assert_array_equal(same[0], same[1])
  assert same.shape == (3, 8, 8, 5) and float(same[0].std()) > 0


@pytest.mark.long
def test_the_first_epoch_measures_channels_and_learns_nothing():
  start, state = first_state("gcad"), measured()
  assert_same_bits((start.params, start.optimiser), (state.params, state.optimiser))
  for stage in ("layer2", "layer3", "layer4"):
    x = np.asarray(batch("gcad", range(8)).features[stage], np.float64)
    np.testing.assert_allclose(state.mean[stage], x.mean((0, 1, 2)), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(state.deviation[stage], x.std((0, 1, 2)), rtol=1e-3)


@pytest.mark.long
def test_no_network_learns_from_who_imitates_it():
  state, update = measured(), jitted("gcad")[0]
  told = batch("gcad", range(4))._replace(epoch=AT(1))
  one, _ = update(state, told)
  other = jax.tree.map(lambda x: x, state.params)
  other["layer3"]["reader"] = jax.tree.map(lambda x: 3 * x, state.params["layer3"]["reader"])
  two, _ = update(state._replace(params=other), told)
  for name in ("local", "global"):
    assert_same_bits(one.params["layer3"][name], two.params["layer3"][name])
  moved = jax.tree.map(lambda a, b: bool((a != b).any()), state.params, one.params)
  assert all(jax.tree.leaves(moved))


@pytest.mark.long
def test_the_last_epoch_measures_maps_that_the_end_normalises():
  m, (update, finish, score) = method("gcad"), jitted("gcad")
  state = measured()._replace(loss=jnp.float32(7))
  last = AT(m.epochs - 1)
  for first in (0, 4):
    state, _ = update(state, batch("gcad", range(first, first + 4))._replace(epoch=last))
  assert float(state.maps.count) == 8 and float(state.loss) == 7
  state = finish(state)
  assert float(state.maps.count) == 0 and float(state.cells.count) == 0
  # At 32 pixels the described grid is 2 x 2: the mean of all cells is that of the maps' pixels.
  pixel = score(state, batch("gcad", range(8))).pixel
  assert abs(float(pixel.mean())) < 1e-3


def maps(n: int) -> np.ndarray:
  rng = np.random.default_rng(0)
  scale = rng.uniform(0.5, 3, (2, 3, 5))
  return rng.gamma(2.0, size=(n, 2, 3, 5)) * scale + 4 * scale


def shrunk(x: np.ndarray, prior: float) -> tuple[jax.Array, jax.Array]:
  mean, variance = (jnp.asarray(a, jnp.float32) for a in (x.mean(0), x.var(0)))
  return gcad.shrunk(mean, variance, jnp.float32(len(x)), prior)


def test_each_cell_is_normalised_by_its_own_maps_or_by_all():
  x = maps(9)
  centre, spread = shrunk(x, 0.0)
  z = (x - centre) / spread
  np.testing.assert_allclose(z.mean(0), 0, atol=1e-4)
  np.testing.assert_allclose(z.std(0), 1, rtol=1e-4)
  centre, spread = shrunk(x, 1e7)
  np.testing.assert_allclose(
    centre, np.broadcast_to(x.mean((0, 2, 3))[:, None, None], (2, 3, 5)), 1e-4
  )
  z = (x - centre) / spread
  np.testing.assert_allclose(z.std((0, 2, 3)), 1, rtol=1e-3)


def test_a_prior_is_so_many_maps_more():
  x, prior = maps(6), 4.0
  centre, spread = shrunk(x, prior)
  for branch in range(2):
    mean, variance = x[:, branch].mean(), x[:, branch].var()
    square = (np.square(x[:, branch] - mean).sum(0) + prior * variance) / 10
    own = (x[:, branch].sum(0) + prior * mean) / 10
    np.testing.assert_allclose(centre[branch], own, rtol=1e-5)
    np.testing.assert_allclose(spread[branch], np.sqrt(square - (own - mean) ** 2), rtol=1e-4)


def test_a_constant_added_to_a_map_changes_no_score():
  x = maps(6)
  far = x + np.array([100.0, -2.0])[:, None, None]
  (a, b), (c, d) = shrunk(x, 10.0), shrunk(far, 10.0)
  np.testing.assert_allclose((x - a) / b, (far - c) / d, rtol=1e-3, atol=1e-3)


@pytest.mark.long
@pytest.mark.parametrize("branch", ["attention", "flow", "none"])
def test_other_branches_learn_too(branch):
  m = gcad.Model(**kw("gcad", branch=branch))
  state = jax.jit(m.init, static_argnums=1)(jax.random.key(0), spec("gcad"), {})
  update, told = jax.jit(m.update), batch("gcad", range(4))
  state, _ = update(state, told)
  losses = []
  for _ in range(30):
    state, logs = update(state, told._replace(epoch=AT(1)))
    losses.append(float(logs["loss"]))
  assert losses[-1] < losses[0] - 0.1 * abs(losses[0])
  scores = jax.jit(m.score)(m.finish(state), told)
  assert scores.pixel.shape == (4, 32, 32) and np.isfinite(scores.image).all()


@pytest.mark.parametrize(
  "wrong",
  [
    {"branch": "local"},
    {"stages": ("layer2", "layer3")},
    {"width": 6},
    {"code": 0},
    {"noise": -1.0},
    {"epochs": 2},
  ],
)
def test_nonsense_is_refused_by_name(wrong):
  if "stages" in wrong:
    with pytest.raises(ValueError, match="stages"):
      gcad.Model(**wrong)
  else:
    assert_refused("gcad", wrong)


def test_the_ablation_compares_every_branch():
  from configs import ablation_global_features as ablation

  parts: Any = ablation.get_config("branches").parts
  assert [p.method_kw.branch for p in parts] == list(gcad.BRANCHES)
  whole: Any = ablation.get_config()
  assert len(whole.parts) == len(gcad.BRANCHES) + len(ablation.LOCAL)
  assert whole.dataset == "variants" and whole.categories == ("all",)
  assert ablation.get_config("dataset=synthetic").categories == ("circuit", "tray")
