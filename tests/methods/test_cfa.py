"""CFA: its bank, its loss, and the authors' code."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from imiad_jax.methods import cfa
from imiad_jax.types import Batch, Spec
from tests.methods.common import (
  assert_refused,
  assert_same_bits,
  batch,
  first_state,
  jitted,
  method,
  spec,
)
from tests.parity import seeded

TINY = {}

STORED = Path(__file__).parents[1] / "parity" / "cfa.npz"
GRIDS = {"layer1": (8, 64), "layer2": (4, 128), "layer3": (2, 256)}  # side, channels: ResNet-18


def at(epoch: int, rows, valid=None) -> Batch:
  return batch("cfa", rows, valid)._replace(epoch=jnp.int32(epoch))


def embedded(state, rows):
  """What the descriptor gives for images, [b,p,d]."""
  found = batch("cfa", rows).features
  x = cfa.merge([x / x.shape[-1] for x in found.values()])
  y = cfa.Descriptor(state.bank.shape[-1]).apply(state.params["descriptor"], x)
  return np.asarray(y).reshape(len(x), -1, y.shape[-1])


def test_the_bank_is_the_mean_of_what_the_first_descriptor_gives():
  update = jitted("cfa")[0]
  state, _ = update(first_state("cfa"), at(0, [0, 1, 2, 3]))
  state, _ = update(state, at(0, [4, 5, 6, 7], [True, True, False, False]))
  np.testing.assert_allclose(state.bank, embedded(state, range(6)).mean(0), rtol=1e-5, atol=1e-6)
  assert_same_bits(state.params, first_state("cfa").params)
  later, _ = update(state, at(1, [0, 1, 2, 3]))
  assert_same_bits(later.bank, state.bank)
  assert not np.array_equal(embedded(later, [0]), embedded(state, [0]))


def test_padding_changes_nothing_where_it_trains():
  update = jitted("cfa")[0]
  state, _ = update(first_state("cfa"), at(0, [0, 1, 2, 3]))
  valid = [True, True, False, False]
  assert_same_bits(
    update(state, at(1, [0, 1, 2, 3], valid)), update(state, at(1, [0, 1, 5, 7], valid))
  )


def test_an_image_that_is_the_bank_scores_nothing():
  update, finish, score = jitted("cfa")
  state, _ = update(first_state("cfa"), at(0, [0, 0, 0, 0], [True, False, False, False]))
  state = finish(state)
  none, other = (float(score(state, batch("cfa", [row])).image[0]) for row in (0, 1))
  assert 0 <= none < 1e-2 * other


def test_a_task_begins_anew():
  update, finish, _ = jitted("cfa")
  state, _ = update(first_state("cfa"), at(0, [0, 1, 2, 3]))
  for _ in range(3):
    state, _ = update(state, at(1, [0, 1, 2, 3]))
  second, _ = update(finish(state), at(0, [4, 5, 6, 7]))
  fresh, _ = update(first_state("cfa")._replace(key=second.key), at(0, [4, 5, 6, 7]))
  assert_same_bits(second, fresh)
  kernels = [jax.tree.leaves(s.params["descriptor"])[1] for s in (second, first_state("cfa"))]
  assert float(jnp.abs(kernels[0] - kernels[1]).max()) > 0.01


def test_nearest_is_a_sorted_search():
  rng = np.random.default_rng(0)
  x = rng.normal(size=(2, 5, 4)).astype(np.float32)
  bank = rng.normal(size=(9, 4)).astype(np.float32)
  wanted = np.sort(((x[:, :, None] - bank) ** 2).sum(-1))[..., :6]
  got = cfa.nearest(jnp.asarray(x), jnp.asarray(bank), 6)
  np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-5)


def test_the_radius_is_drawn_to_what_is_outside_and_pushed_by_nothing_near_zero():
  squared = jnp.sort(jax.random.uniform(jax.random.key(0), (2, 50, 6), maxval=0.4), axis=-1)
  valid = jnp.array([True, False])
  radius = jnp.float32(0.3)
  value, slope = jax.value_and_grad(cfa.objective, argnums=1)(squared, radius, valid)
  outside = np.asarray(squared[0, :, :3]) > 0.3**2
  wanted = 1e3 * np.maximum(np.asarray(squared[0, :, :3]) - 0.3**2, 0).mean()
  np.testing.assert_allclose(value, wanted, rtol=1e-5)  # the repelling part is 0 for r^2 <= alpha
  np.testing.assert_allclose(slope, -2 * 0.3 * outside.mean() * 1e3, rtol=1e-5)
  value, slope = jax.value_and_grad(cfa.objective, argnums=1)(squared, jnp.float32(1.0), valid)
  np.testing.assert_allclose(value, 1e3 * (0.9 - squared[0, :, 3:].mean()), rtol=1e-5)
  np.testing.assert_allclose(slope, 2e3, rtol=1e-5)


def test_the_descriptor_sees_where_it_is():
  x = jnp.zeros((1, 3, 5, 2))
  kernel = jnp.eye(4)[None, None]  # two channels, then the two coordinates
  variables = {"params": {"Conv_0": {"kernel": kernel, "bias": jnp.zeros(4)}}}
  where = np.asarray(cfa.Descriptor(4).apply(variables, x))[0, ..., 2:]
  np.testing.assert_allclose(where[..., 0], np.tile([[-1], [0], [1]], 5))
  np.testing.assert_allclose(where[..., 1], np.tile([-1, -0.5, 0, 0.5, 1], (3, 1)))


def test_a_score_is_between_a_third_of_the_distance_and_all_of_it():
  update, finish, score = jitted("cfa")
  state, _ = update(first_state("cfa"), at(0, [0, 1, 2, 3]))
  state = finish(state)
  x = jnp.asarray(embedded(state, [9]))
  nearest = np.sqrt(np.asarray(cfa.nearest(x, state.bank, 1)))
  pixel = np.asarray(score(state, batch("cfa", [9])).pixel)
  assert nearest.min() / 3 < pixel.min() and pixel.max() < nearest.max()


def test_gamma_d_narrows_the_descriptor():
  total = sum(spec("cfa").shape(s)[-1] for s in method("cfa").stages)
  for gamma_d, width in ((1.0, total), (4.0, total // 4), (0.5, 2 * total)):
    m = cfa.Model("efficientnet_lite0", method("cfa").stages, 32, gamma_d=gamma_d)
    state = m.init(jax.random.key(0), spec("cfa"), None)
    assert state.bank.shape[-1] == width


def test_amsgrad_is_that_of_torch():
  optimiser = cfa.amsgrad(1e-2, 0.1)
  x = jnp.asarray(seeded.tensor("amsgrad", (8,)))
  state = optimiser.init(x)
  with np.load(STORED) as stored:
    for i, wanted in enumerate(stored["amsgrad"]):
      gradient = jnp.asarray(seeded.tensor(f"amsgrad{i}", (8,))) * 0.5**i
      step, state = optimiser.update(gradient, state, x)
      x = x + step
      np.testing.assert_allclose(x, wanted, rtol=1e-5, atol=1e-6)


def features(number: int) -> dict[str, jax.Array]:
  return {
    stage: jnp.asarray(seeded.tensor(f"{number}/{stage}", (2, s * s, c)).reshape(2, s, s, c))
    for stage, (s, c) in GRIDS.items()
  }


def test_four_steps_are_those_of_the_authors_code(monkeypatch):
  weight = seeded.tensor("descriptor.weight", (448, 450, 1, 1)).transpose(2, 3, 1, 0)
  bias = seeded.tensor("descriptor.bias", (448,))
  conv = {"kernel": jnp.asarray(weight), "bias": jnp.asarray(bias)}
  monkeypatch.setattr(cfa.Descriptor, "init", lambda *_: {"params": {"Conv_0": conv}})
  m = cfa.Model("resnet18", size=64)
  shapes = tuple((stage, (side, side, c)) for stage, (side, c) in GRIDS.items())
  state = m.init(jax.random.key(0), Spec((64, 64, 3), shapes, 8, 1), None)
  update, score = jax.jit(m.update), jax.jit(m.score)

  def told(number: int, epoch: int) -> Batch:
    none = jnp.zeros(2, jnp.int32)
    return Batch(
      *(jnp.zeros((2, 64, 64, 3)), none, jnp.zeros((2, 64, 64), jnp.int32), none),
      *(jnp.int32(epoch), jnp.ones(2, bool), features(number)),
    )

  def close(name: str, got) -> None:
    wanted = stored[name]
    got = seeded.sample(got) if np.size(got) > 448 else np.reshape(got, wanted.shape)
    error = np.abs(got - wanted).max() / np.abs(wanted).max()
    assert error < 5e-5, (name, error)  # 1e-5 in the first step; rounding grows with each

  with np.load(STORED) as stored:
    for number in (0, 1):
      state, _ = update(state, told(number, 0))
    close("bank", state.bank)
    described = cfa.Descriptor(448).apply(
      state.params["descriptor"], cfa.merge(list(features(0).values()))
    )
    close("described", described)
    state = state._replace(params=state.params | {"radius": jnp.float32(4.3)})
    for i in range(4):
      moment = state.optimiser[0].mu
      state, logs = update(state, told(i % 2, 1))
      close(f"{i}/loss", logs["loss"])
      gradient = jax.tree.map(
        lambda new, old: (new - 0.9 * old) / 0.1, state.optimiser[0].mu, moment
      )
      close(f"{i}/gradient", gradient["descriptor"]["params"]["Conv_0"]["kernel"][0, 0])
      close(f"{i}/gradient/radius", gradient["radius"])
      conv = state.params["descriptor"]["params"]["Conv_0"]
      close(f"{i}/kernel", conv["kernel"][0, 0])
      close(f"{i}/bias", conv["bias"])
      close(f"{i}/radius", state.params["radius"])
    scores = score(state, told(2, 0))
    close("map", scores.pixel)
    close("image", scores.image)


@pytest.mark.parametrize(
  "wrong",
  [
    {"stages": ()},
    {"stages": ("embedding",)},
    {"stages": ("layer4",)},  # one cell
    {"epochs": 0},
    {"gamma_d": 0.0},
    {"lr": -1.0},
    {"weight_decay": -1.0},
    {"sigma": 0.0},
  ],
)
def test_nonsense_is_refused_by_name(wrong):
  assert_refused("cfa", wrong)
