"""FastFlow: the original's numbers, its size, and what training leaves alone."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from imiad_jax.methods import fastflow
from imiad_jax.types import Batch, Spec
from tests.methods.common import (
  assert_refused,
  assert_same_bits,
  batch,
  first_state,
  jitted,
  kw,
  learnt,
)
from tests.parity import seeded

TINY = {"stages": ("layer2", "layer3"), "steps": 2, "epochs": 20, "lr": 5e-3}

PARITY = Path(__file__).parents[1] / "parity" / "fastflow.npz"
STAGES = ("layer1", "layer2", "layer3")


def theirs(path) -> str:
  """The original's name of one of our parameters."""
  stage, *rest = (key.key for key in path)
  i = STAGES.index(stage)
  if rest[0] == "norm":
    return f"norms.{i}.{'weight' if rest[1] == 'scale' else 'bias'}"
  names = {
    ("scale",): "global_scale",
    ("shift",): "global_offset",
    ("first", "kernel"): "subnet.0.weight",
    ("first", "bias"): "subnet.0.bias",
    ("second", "kernel"): "subnet.2.weight",
    ("second", "bias"): "subnet.2.bias",
  }
  return f"nf_flows.{i}.module_list.{rest[1].removeprefix('steps_')}.{names[tuple(rest[2:])]}"


def ours(name: str, value: np.ndarray):
  """One of the original's parameters in our layout."""
  if "global" in name:
    return jnp.asarray(value.reshape(-1))
  return jnp.asarray(value.transpose({4: (2, 3, 1, 0), 3: (1, 2, 0), 1: (0,)}[value.ndim]))


def assert_close(got, wanted, limit: float):
  """The largest difference is below `limit` times the largest value."""
  assert got.shape == wanted.shape
  assert float(np.abs(got - wanted).max()) < limit * float(np.abs(wanted).max())


def test_fastflow_is_the_original():
  stored = np.load(PARITY)
  shapes = tuple((s, stored[f"features/0/{i}"].shape[1:]) for i, s in enumerate(STAGES))
  m = fastflow.Model(stages=STAGES, size=32, steps=4, weight_decay=0.1)

  def made(prefix: str, state):
    def one(path, x):
      del x
      name = theirs(path)
      like = stored[f"{prefix or 'gradient'}/{name}"]
      value = like if prefix else seeded.tensor(name, like.shape) + 12 * ("global_scale" in name)
      return ours(name, value.astype(np.float32))

    return jax.tree.map_with_path(one, state.params)

  def given(step: int):
    """The original's batch, and a row of padding."""
    features = {s: stored[f"features/{step}/{i}"] for i, s in enumerate(STAGES)}
    features = {s: jnp.pad(x, ((0, 1), *[(0, 0)] * 3)) for s, x in features.items()}
    image, none = jnp.zeros((4, 32, 32, 3)), jnp.zeros(4, jnp.int32)
    region = jnp.zeros((4, 32, 32), jnp.int32)
    return Batch(image, none, region, jnp.arange(4), jnp.int32(0), jnp.arange(4) < 3, features)

  spec = Spec((32, 32, 3), shapes, 8, 1)
  state = jax.eval_shape(lambda key: m.init(key, spec, None), jax.random.key(0))
  state = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), state)
  orders = {s: jnp.asarray(stored[f"permutations/{i}"], jnp.int32) for i, s in enumerate(STAGES)}
  state = state._replace(params=made("", state), permutations=orders)
  start = state.params

  scale = fastflow.Scale(hidden_ratio=1.0, sizes=(3, 1, 3, 1), clamp=2.0)
  for i, stage in enumerate(STAGES):
    x = jnp.asarray(stored[f"features/0/{i}"])
    z, log_det = jax.jit(scale.apply)({"params": start[stage]}, x, orders[stage])
    assert_close(z, stored[f"z/{i}"], 1e-5)
    assert_close(log_det, stored[f"log_det/{i}"], 1e-5)
  assert_close(jax.jit(m.score)(state, given(0)).pixel[:3], stored["map"], 1e-5)
  update = jax.jit(m.update)
  for step in range(2):
    state, logs = update(state, given(step))
    np.testing.assert_allclose(logs["loss"], stored[f"loss/{step}"], rtol=1e-5)
    if step == 0:  # Adam's first mean is a tenth of the gradient, the penalty's with it
      mean = state.optimiser[1].mu
      gradient = jax.tree.map(lambda mean, p: 10 * mean - 0.1 * p, mean, start)
      jax.tree.map(lambda a, b: assert_close(a, b, 1e-5), gradient, made("gradient", state))
  moved = jax.tree.map(lambda a, b: a - b, state.params, start)
  wanted = jax.tree.map(lambda a, b: a - b, made("stepped", state), start)
  jax.tree.map(lambda a, b: assert_close(a, b, 1e-3), moved, wanted)


@pytest.mark.parametrize(
  ("channels", "kernels", "with_norm", "flows"),
  [
    ((64, 128, 256), (3,), 5_574_912, 4_657_408),  # the layout for a ResNet-18
    ((64, 128, 256), (3, 1), 3_510_528, 2_593_024),  # the benchmark's
    ((256, 512, 1024), (3, 1), 45_007_872, 41_337_856),  # the paper says 41.3 M of a WideResNet-50
  ],
)
def test_parameters_are_as_many_as_the_originals(channels, kernels, with_norm, flows):
  shapes = tuple((s, (64 >> i, 64 >> i, channels[i])) for i, s in enumerate(STAGES))
  m = fastflow.Model(kernels=kernels)
  made = jax.eval_shape(
    lambda key: m.init(key, Spec((256, 256, 3), shapes, 8, 1), None), jax.random.key(0)
  )
  assert sum(x.size for x in jax.tree.leaves(made.params)) == with_norm
  assert sum(x.size for p in made.params.values() for x in jax.tree.leaves(p["flow"])) == flows


def test_a_likelihood_is_between_0_and_1_and_stages_count_alike():
  rows = batch("fastflow", range(10, 14))
  scores = jitted("fastflow")[2](learnt("fastflow"), rows)
  assert -1 <= float(scores.pixel.min()) < float(scores.pixel.max()) <= 0
  np.testing.assert_array_equal(scores.image, scores.pixel.max((1, 2)))
  turned = fastflow.Model(**kw("fastflow", stages=("layer3", "layer2")))
  np.testing.assert_allclose(
    turned.score(learnt("fastflow"), rows).pixel, scores.pixel, rtol=1e-5, atol=1e-7
  )


def test_everything_but_the_permutations_is_trained_and_the_next_task_goes_on():
  update, finish, _ = jitted("fastflow")
  start, state = first_state("fastflow"), learnt("fastflow")
  assert_same_bits(start.permutations, state.permutations)
  jax.tree.map(
    lambda a, b: np.testing.assert_array_less(0, np.abs(a - b).max()),
    *(s.params for s in (start, state)),
  )
  second, _ = update(state, batch("fastflow", range(4), seed=1))
  assert int(second.optimiser[1].count) == 3
  assert_same_bits(finish(second), second)


@pytest.mark.parametrize(
  "wrong",
  [
    {"stages": ()},
    {"steps": 0},
    {"kernels": ()},
    {"hidden_ratio": 0.0},
    {"clamp": 0.0},
    {"lr": -1.0},
    {"weight_decay": -1.0},
    {"stages": ("layer9",)},
  ],
)
def test_nonsense_is_refused_by_name(wrong):
  assert_refused("fastflow", wrong)


def test_an_even_kernel_is_refused():
  with pytest.raises(ValueError, match=r"kernels is \(3, 2\)"):
    fastflow.Model(kernels=(3, 2))
