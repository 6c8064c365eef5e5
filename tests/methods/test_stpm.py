"""STPM: its distances, what a step moves, and the numbers of a version in PyTorch."""

from functools import reduce
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from imiad_jax.backbones import common, efficientnet, resnet
from imiad_jax.heads import distil
from imiad_jax.methods import stpm
from imiad_jax.types import Batch, Spec
from tests.methods.common import assert_refused, batch, first_state, jitted, learnt
from tests.parity import seeded

TINY = {"stages": ("layer1", "layer2"), "epochs": 12}

STORED = Path(__file__).parent.parent / "parity" / "stpm.npz"


def test_the_distance_is_half_the_square_of_the_unit_vectors_difference():
  rng = np.random.default_rng(0)
  a, b = (jnp.asarray(rng.normal(size=(2, 3, 4, 5)), jnp.float32) for _ in range(2))
  got = distil.cosine(a, b)
  unit = [x / np.linalg.norm(x, axis=-1, keepdims=True) for x in (a, b)]
  np.testing.assert_allclose(got, ((unit[0] - unit[1]) ** 2).sum(-1) / 2, atol=1e-6)
  np.testing.assert_allclose(distil.cosine(3 * a, 0.1 * b), got, atol=1e-6)
  np.testing.assert_allclose(distil.cosine(a, -2 * a), 2, atol=1e-6)
  np.testing.assert_allclose(distil.cosine(a, 0 * a), 1)
  assert np.isfinite(jax.grad(lambda x: distil.cosine(a, x).sum())(0 * a)).all()


def test_a_student_that_is_its_teacher_finds_nothing():
  state, rows = learnt("stpm"), batch("stpm", [0, 1])
  net = efficientnet.Model("efficientnet_lite0", norm=True, until=TINY["stages"])
  own = jax.jit(net.apply)({"params": state.params, "batch_stats": state.statistics}, rows.image)
  score = jitted("stpm")[2]
  same = score(state, rows._replace(features={s: 7 * own[s] for s in TINY["stages"]}))
  assert float(jnp.abs(same.pixel).max()) < 1e-10  # a product of two distances below 1e-6 each
  other = score(state, rows)
  assert 1e-3 < float(other.pixel.max()) and float(other.pixel.max()) <= 4
  np.testing.assert_array_equal(other.image, other.pixel.max((1, 2)))


def test_the_loss_is_a_sum_over_images():
  update = jitted("stpm")[0]
  _, four = update(first_state("stpm"), batch("stpm", [5, 5, 5, 5]))
  _, one = update(first_state("stpm"), batch("stpm", [5, 1, 2, 3], [True, False, False, False]))
  np.testing.assert_allclose(four["loss"], 4 * one["loss"], rtol=1e-4)


def test_everything_that_is_kept_is_trained_and_comes_nearer_to_the_teacher():
  update = jitted("stpm")[0]
  first, rows = first_state("stpm"), batch("stpm", range(4))
  assert set(first.params) == {"stem", "layer1", "layer2"}
  state, before = update(first, rows)
  moved = jax.tree.map(lambda a, b: bool((a != b).any()), first.params, state.params)
  assert all(jax.tree.leaves(moved))
  for _ in range(10):
    state, after = update(state, rows)
  assert float(after["loss"]) < 0.7 * float(before["loss"])


def seeded_state(who: str) -> dict[str, np.ndarray]:
  """A state dict of a random ResNet-18 under PyTorch's names, made as parity/stpm.py makes it."""
  state = {}
  for layer in resnet._layers("resnet18"):
    h, w, i, o = layer.kernel
    shapes = {f"{layer.conv}.weight": (o, i, h, w)}
    shapes |= {
      f"{layer.norm}.{name}": (o,) for name in ("weight", "bias", "running_mean", "running_var")
    }
    state |= {name: seeded.tensor(who + name, shape) for name, shape in shapes.items()}
  return state


def entries(variables, layer: common.Layer):
  """Yields (name in PyTorch, dict, key) for what variables hold of a layer."""
  params, stats = (
    reduce(lambda node, name: node[name], layer.path.split("/"), variables[kind])
    for kind in ("params", "batch_stats")
  )
  yield f"{layer.conv}.weight", params, "kernel"
  norm, seen = params["Norm_0"], stats["Norm_0"]
  yield f"{layer.norm}.weight", norm, "scale"
  yield f"{layer.norm}.bias", norm, "bias"
  yield f"{layer.norm}.running_mean", seen, "mean"
  yield f"{layer.norm}.running_var", seen, "var"


def test_distances_loss_and_two_steps_are_those_of_a_version_in_pytorch():
  images = jnp.asarray(np.concatenate(seeded.images(((64, 64),) * 3)))
  layers = [x for x in resnet._layers("resnet18") if not x.path.startswith("layer4")]
  stages = ("layer1", "layer2", "layer3")
  head = common.Head("fc", 512)
  teacher = common.fold(
    seeded_state("teacher."), resnet._layers("resnet18"), 1e-5, head, Path("seeded")
  )
  found = jax.jit(resnet.Model("resnet18", until=stages).apply)({"params": teacher}, images)
  found = {stage: found[stage] for stage in stages}
  told = (jnp.zeros(3, jnp.int32), jnp.zeros((3, 64, 64), jnp.int32), jnp.arange(3), jnp.int32(0))
  rows = Batch(images, *told, jnp.ones(3, bool), found)

  m = stpm.Model(size=64, batch=3)
  shapes = tuple((stage, found[stage].shape[1:]) for stage in stages)
  state = jax.jit(m.init, static_argnums=1)(jax.random.key(0), Spec((64, 64, 3), shapes, 8, 1), {})
  variables = {"params": state.params, "batch_stats": state.statistics}
  student = seeded_state("student.")
  for layer in layers:
    for name, node, key in entries(variables, layer):
      value = student[name]
      node[key] = jnp.asarray(value.transpose(2, 3, 1, 0) if value.ndim == 4 else value)
  update, score = jax.jit(m.update), jax.jit(m.score)
  with np.load(STORED) as stored:
    pixel, wanted = score(state, rows).pixel[0], stored["map"]
    np.testing.assert_allclose(pixel, wanted, atol=1e-5 * wanted.max())
    for step in range(2):
      state, logs = update(state, rows)
      np.testing.assert_allclose(logs["loss"], stored[f"loss{step}"], rtol=1e-5)
    variables = {"params": state.params, "batch_stats": state.statistics}
    for layer in layers:
      for name, node, key in entries(variables, layer):
        value = node[key]
        if key == "var":  # PyTorch remembers the unbiased variance of n numbers a channel
          n = 3 * (64 // {"stem": 2, "layer1": 4, "layer2": 8, "layer3": 16}[layer.path[:6]]) ** 2
          first = 0.81 * student[name]
          value = first + (value - first) * n / (n - 1)
        wanted = stored[name]  # of which a step moves several per cent
        atol = 3e-4 * np.abs(wanted).max()
        np.testing.assert_allclose(seeded.sample(value), wanted, atol=atol, err_msg=name)


@pytest.mark.parametrize(
  "wrong",
  [
    {"stages": ()},
    {"stages": ("embedding",)},
    {"stages": ("layer5",)},
    {"lr": -1.0},
    {"momentum": 1.0},
    {"weight_decay": -1.0},
    {"backbone": "vit_base_patch16_224"},
  ],
)
def test_nonsense_is_refused_by_name(wrong):
  assert_refused("stpm", wrong)
