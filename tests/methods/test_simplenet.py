"""SimpleNet: its loss, its noise, and the authors' code."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from imiad_jax.heads import patches
from imiad_jax.methods import simplenet
from imiad_jax.types import Batch, Spec
from tests.methods.common import (
  assert_refused,
  assert_same_bits,
  batch,
  close,
  first_state,
  jitted,
  kw,
  seeded_batch,
  seeded_spec,
)
from tests.parity import seeded

# Rounding alone moves the adaptor's bias, by adaptor_lr a step.
TINY = {"dim": 48, "hidden": 32, "adaptor_lr": 1e-5, "discriminator_lr": 2e-3}

STORED = Path(__file__).parents[1] / "parity" / "simplenet.npz"
GRIDS = {"layer2": (8, 6), "layer3": (4, 10)}  # side, channels
DIM, HIDDEN, NOISE = 12, 7, 0.3


def count(params) -> int:
  return sum(x.size for x in jax.tree.leaves(params))


def test_the_networks_are_as_large_as_the_papers():
  grids = (("layer2", (2, 2, 512)), ("layer3", (1, 1, 1024)))
  init = simplenet.Model().init
  state = jax.eval_shape(
    lambda key: init(key, Spec((16, 16, 3), grids, 8, 1), None), jax.random.key(0)
  )
  assert count(state.params["adaptor"]) == 2_360_832
  assert count(state.params["discriminator"]) == 1_576_960
  assert set(state.params["discriminator"]["last"]) == {"kernel"}


def test_first_kernels_are_xaviers_normal():
  kernel = simplenet.xavier(jax.random.key(0), (1, 1, 300, 500), jnp.float32)
  np.testing.assert_allclose(jnp.std(kernel), (2 / 800) ** 0.5, rtol=0.01)
  assert float(jnp.abs(kernel).max()) > 4 * (2 / 800) ** 0.5  # not truncated


def test_the_hinge_rests_where_both_are_beyond_the_margin():
  true = jnp.full((2, 3, 3), 0.6).at[1].set(-9)
  valid = jnp.array([True, False])
  of = jax.value_and_grad(lambda true, noisy: simplenet.hinge(true, noisy, valid, 0.5), (0, 1))
  value, gradient = of(true, -true)
  assert value == 0 and not any(g.any() for g in gradient)
  value, gradient = of(true.at[0, 1, 1].set(0.2), -true)
  np.testing.assert_allclose(value, 0.3 / 9, rtol=1e-5)
  assert not gradient[0][1].any() and not gradient[1].any()


def test_without_noise_there_is_nothing_to_tell_apart():
  same = jax.random.uniform(jax.random.key(0), (2, 3, 3), minval=-0.5, maxval=0.5)
  value, gradient = jax.value_and_grad(lambda s: simplenet.hinge(s, s, jnp.ones(2, bool), 0.5))(
    same
  )
  np.testing.assert_allclose(value, 2 * 0.5, rtol=1e-6)
  np.testing.assert_allclose(gradient, 0, atol=1e-7)


def test_each_step_draws_its_own_noise():
  still = {"adaptor_lr": 0.0, "discriminator_lr": 0.0}
  update = jax.jit(simplenet.Model(**kw("simplenet", **still)).update)
  one, first = update(first_state("simplenet"), batch("simplenet", range(4)))
  two, second = update(one, batch("simplenet", range(4)))
  assert_same_bits(one.params, two.params)
  assert first["loss"] != second["loss"]


def test_a_task_goes_on_where_the_last_one_ended():
  update, finish, _ = jitted("simplenet")
  state, _ = update(first_state("simplenet"), batch("simplenet", range(4)))
  state, _ = update(finish(state), batch("simplenet", range(4, 8)))
  assert int(state.optimisers["adaptor"][0].count) == 2
  one, _ = update(first_state("simplenet"), batch("simplenet", range(4)))
  two, _ = update(one, batch("simplenet", range(4, 8)))
  assert_same_bits(state, two)


def weights():
  """The seeded weights, in our layout and names."""

  def linear(name: str, out: int, into: int):
    return jnp.asarray(seeded.tensor(f"{name}.weight", (out, into)).T[None, None])

  def vector(name: str, n: int):
    return jnp.asarray(seeded.tensor(name, (n,)))

  body = "discriminator.body.block1"
  adaptor = {
    "kernel": linear("adaptor.layers.0fc", DIM, DIM),
    "bias": vector("adaptor.layers.0fc.bias", DIM),
  }
  norm = {
    "scale": vector(f"{body}.1.weight", HIDDEN),
    "bias": vector(f"{body}.1.bias", HIDDEN),
  }
  discriminator = {
    "first": {
      "kernel": linear(f"{body}.0", HIDDEN, DIM),
      "bias": vector(f"{body}.0.bias", HIDDEN),
    },
    "norm": norm,
    "last": {"kernel": linear("discriminator.tail", 1, HIDDEN)},
  }
  stats = {"mean": f"{body}.1.running_mean", "var": f"{body}.1.running_var"}
  return (
    {"adaptor": adaptor, "discriminator": discriminator},
    {"norm": {k: vector(name, HIDDEN) for k, name in stats.items()}},
  )


def told(number: int) -> Batch:
  return seeded_batch(GRIDS, number, 2, 64)


def test_two_steps_are_those_of_the_authors_code(monkeypatch):
  m = simplenet.Model("any", size=64, dim=DIM, hidden=HIDDEN, noise=NOISE)
  state = m.init(jax.random.key(0), seeded_spec(GRIDS, 64, 8), None)
  params, stats = weights()
  assert jax.tree.map(jnp.shape, (params, stats)) == jax.tree.map(
    jnp.shape, (state.params, state.stats)
  )
  state = state._replace(params=params, stats=stats)
  rows = 2 * 2 * 8 * 8  # of true and noisy patches

  with np.load(STORED) as stored:
    found = patches.embed(list(told(0).features.values()), DIM)
    close(seeded.sample(found), stored["embedding"])
    for i in range(2):
      noise = jnp.asarray(seeded.tensor(f"noise{i + 1}", (1, 2 * 8 * 8, DIM))).reshape(2, 8, 8, DIM)
      monkeypatch.setattr(jax.random, "normal", lambda *_, noise=noise: noise)
      old = state.stats["norm"]["var"]
      state, logs = m.update(state, told(i))
      close(logs["loss"], stored[f"{i}/loss"])
      adaptor, discriminator = state.params["adaptor"], state.params["discriminator"]
      close(adaptor["kernel"][0, 0].T, stored[f"{i}/adaptor.layers.0fc.weight"])
      body = f"{i}/discriminator.body.block1"
      close(discriminator["first"]["kernel"][0, 0].T, stored[f"{body}.0.weight"])
      norm, moved = discriminator["norm"], state.stats["norm"]
      close(norm["scale"], stored[f"{body}.1.weight"])
      close(norm["bias"], stored[f"{body}.1.bias"])
      close(discriminator["last"]["kernel"][0, 0].T, stored[f"{i}/discriminator.tail.weight"])
      close(moved["mean"], stored[f"{body}.1.running_mean"])
      # PyTorch's running variance is the unbiased one, ours is not.
      unbiased = 0.9 * old + (moved["var"] - 0.9 * old) * rows / (rows - 1)
      close(unbiased, stored[f"{body}.1.running_var"])
      # Batch norm takes away the two biases before it: their gradients are rounding alone, which
      # Adam makes steps of up to lr.
      biases = stored[f"{i}/adaptor.layers.0fc.bias"], stored[f"{body}.0.bias"]
      np.testing.assert_allclose(adaptor["bias"], biases[0], rtol=0, atol=2.1 * 1e-4)
      np.testing.assert_allclose(discriminator["first"]["bias"], biases[1], rtol=0, atol=4.2e-4)
      first = discriminator["first"] | {"bias": jnp.asarray(biases[1])}
      state = state._replace(
        params={
          "adaptor": adaptor | {"bias": jnp.asarray(biases[0])},
          "discriminator": discriminator | {"first": first},
        },
        stats={"norm": moved | {"var": unbiased}},
      )
    scores = m.score(state, told(2))
    close(scores.image, stored["image"])
    close(seeded.sample(scores.pixel), stored["map"])


@pytest.mark.parametrize(
  "wrong",
  [
    {"stages": ()},
    {"stages": ("embedding",)},
    {"dim": 0},
    {"hidden": 0},
    {"noise": 0.0},
    {"margin": 0.0},
    {"adaptor_lr": -1.0},
    {"discriminator_lr": -1.0},
    {"sigma": 0.0},
  ],
)
def test_nonsense_is_refused_by_name(wrong):
  assert_refused("simplenet", wrong)
