"""CS-Flow: its three resolutions, and one step as the authors take it."""

import math
import types
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from imiad_jax import features, plugins
from imiad_jax.backbones import efficientnet_b5
from imiad_jax.errors import UserError
from imiad_jax.heads import cross_flow
from imiad_jax.methods import csflow
from imiad_jax.types import Spec
from tests.methods.common import (
  assert_refused,
  assert_same_bits,
  batch,
  first_state,
  jitted,
  kw,
  spec,
)
from tests.parity import seeded

TINY = {"stage": "layer1", "hidden": 8, "kernels": (3,), "epochs": 12, "lr": 5e-3}
STORED = Path(__file__).parents[1] / "parity" / "csflow.npz"
_LAYERS = {
  **{f"in{i}": f"conv_scale{i}_0" for i in range(3)},
  **{f"out{i}": f"conv_scale{i}_1" for i in range(3)},
  **{"up0": "up_conv10", "up1": "up_conv21", "down0": "down_conv01", "down1": "down_conv12"},
}


def authors(path) -> list[str]:
  """Names in the authors' flow of one of our parameters, in the order in which it has them."""
  step, subnet, *layer = (key.key for key in path)
  of = f"module_list.{4 + 2 * int(step[-1])}.{'s1' if subnet == 'told_first' else 's2'}"
  if layer == ["gamma"]:
    return [f"{of}.gamma{i}" for i in range(3)]
  return [f"{of}.{_LAYERS[layer[0]]}.{'weight' if layer[1] == 'kernel' else 'bias'}"]


@pytest.fixture(scope="module")
def step():
  """Stored values, a State with seeded weights, the three maps, the State and logs one step on."""
  m = csflow.Model(**kw("csflow", kernels=(3, 3, 3, 5), hidden=8, lr=2e-4))
  pretrained = features.backbone("efficientnet_lite0").params
  made = jax.eval_shape(
    lambda key, p: m.init(key, spec("csflow"), p), jax.random.key(0), pretrained
  )
  state = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), made)
  given = batch("csflow", [5, 2])
  shapes = [(2, 24, 8 >> i, 8 >> i) for i in range(3)]
  maps = [100 * seeded.tensor(f"x{i}", shape) for i, shape in enumerate(shapes)]
  maps = tuple(jnp.asarray(x.transpose(0, 2, 3, 1)) for x in maps)

  def weight(path, p):
    names = authors(path)
    if p.ndim == 1:
      return jnp.concatenate([seeded.tensor(n, (len(p) // len(names),)) for n in names])
    h, w, i, o = p.shape
    return jnp.asarray(seeded.tensor(names[0], (o, i, h, w)).transpose(2, 3, 1, 0))

  stored = np.load(STORED)
  # These maps are no features of the images: what was kept in the first epoch is learnt from.
  kept = zip(state.coarse, maps[1:], strict=True)
  state = state._replace(
    params=jax.tree.map_with_path(weight, state.params),
    permutations=jnp.asarray(stored["permutations"]),
    coarse=tuple(rows.at[given.row].set(x) for rows, x in kept),
    pretrained=pretrained,
  )
  given = given._replace(features={"layer1": maps[0]}, epoch=jnp.int32(1))
  return stored, state, maps, *jax.jit(m.update)(state, given)


def test_the_flow_is_the_authors(step):
  stored, state, maps, _, _ = step
  model = cross_flow.Flow(hidden=8, sizes=(3, 3, 3, 5))
  z, log_det = jax.jit(model.apply)({"params": state.params}, maps, state.permutations)
  for i in range(3):
    wanted = stored[f"z{i}"]
    np.testing.assert_allclose(z[i], wanted, atol=1e-5 * np.abs(wanted).max())
    np.testing.assert_allclose(log_det[i], stored[f"log_det{i}"], rtol=1e-5)


def test_a_step_is_the_authors(step):
  stored, state, _, after, logs = step
  assert stored["norm"] > 1  # else nothing is clipped
  np.testing.assert_allclose(logs["loss"], stored["loss"], rtol=1e-5)
  for (path, new), old in zip(
    jax.tree.leaves_with_path(after.params), jax.tree.leaves(state.params), strict=True
  ):
    change, names = np.asarray(new - old), authors(path)
    change = change.transpose(3, 2, 0, 1) if change.ndim == 4 else change
    for name, mine in zip(names, np.split(change, len(names)), strict=True):
      # A step is at most 2e-4; the rounding of a weight of a few units is the tolerance.
      wanted = stored[f"step/{name}"]
      np.testing.assert_allclose(seeded.sample(mine)[::8], wanted, atol=5e-7, err_msg=name)


@jax.jit
def pyramid(image):
  """The features of an image, of every second and of every fourth pixel."""
  net = features.backbone("efficientnet_lite0")
  return [net.apply(net.params, image[:, ::step, ::step])["layer1"] for step in (1, 2, 4)]


def test_the_coarse_features_of_the_first_epoch_are_kept_by_row():
  given = batch("csflow", [3, 6, 1, 2], valid=[True, True, False, False])
  state, _ = jitted("csflow")[0](first_state("csflow"), given)
  for wanted, kept in zip(pyramid(given.image)[1:], state.coarse, strict=True):
    np.testing.assert_allclose(kept[jnp.array([3, 6])], wanted[:2], rtol=1e-4, atol=1e-4)
    assert not kept[jnp.array([0, 1, 2, 4, 5, 7])].any()


def test_later_epochs_do_not_look_at_the_images():
  update = jitted("csflow")[0]
  given = batch("csflow", [0, 1, 2, 3])
  state, _ = update(first_state("csflow"), given)
  dark = given._replace(image=jnp.zeros_like(given.image))
  later, dark_later = (b._replace(epoch=jnp.int32(1)) for b in (given, dark))
  assert_same_bits(update(state, later), update(state, dark_later))
  assert update(state, dark)[1]["loss"] != update(state, given)[1]["loss"]


def test_before_learning_the_score_is_the_energy_of_the_features():
  given = batch("csflow", range(10, 14))
  scores = jitted("csflow")[2](first_state("csflow"), given)
  maps = pyramid(given.image)
  everything = np.concatenate([np.asarray(m).reshape(4, -1) for m in maps], axis=1)
  np.testing.assert_allclose(scores.image, np.mean(everything**2, axis=1) / 2, rtol=1e-4)
  grid = jnp.mean(maps[0] ** 2, axis=-1)
  wanted = jax.image.resize(grid, given.image.shape[:3], "bilinear")
  np.testing.assert_allclose(scores.pixel, wanted, rtol=1e-4)


@pytest.mark.slow
def test_the_authors_values_are_the_defaults():
  m = csflow.Model()
  image = jax.ShapeDtypeStruct((1, 768, 768, 3), jnp.float32)
  net = efficientnet_b5.Model("efficientnet_b5")
  pretrained = jax.eval_shape(net.init, jax.random.key(0), image)["params"]
  grid = jax.eval_shape(net.apply, {"params": pretrained}, image)["block35"].shape[1:]
  assert grid == (24, 24, 304)
  sizes = Spec((768, 768, 3), (("block35", grid),), max_train=8, num_tasks=1)
  state = jax.eval_shape(lambda key, p: m.init(key, sizes, p), jax.random.key(0), pretrained)
  assert [x.shape for x in state.coarse] == [(8, 12, 12, 304), (8, 6, 6, 304)]
  assert state.permutations.shape == (4, 3, 304)
  assert sum(math.prod(p.shape) for p in jax.tree.leaves(state.params)) == 275_227_288


@pytest.mark.parametrize(
  "wrong",
  [
    {"hidden": 0},
    {"kernels": ()},
    {"clamp": 0.0},
    {"lr": 0.0},
    {"weight_decay": -1.0},
    {"adam_eps": 0.0},
    {"clip": 0.0},
    {"stage": "embedding"},
    {"stage": "layer5"},
  ],
)
def test_nonsense_is_refused_by_name(wrong):
  assert_refused("csflow", wrong)


def test_even_kernels_are_refused():
  with pytest.raises(ValueError, match="kernels"):
    csflow.Model(backbone="efficientnet_lite0", kernels=(3, 4))


def test_grids_that_do_not_halve_are_refused(monkeypatch):
  net = types.SimpleNamespace(apply=lambda params, image: {"grid": image[:, 3::4, 3::4]})
  module = types.SimpleNamespace(Model=lambda variant: net)
  monkeypatch.setattr(plugins, "backbone", lambda name: module)
  m = csflow.Model(stage="grid", size=44, hidden=4)
  with pytest.raises(UserError, match=r"11 x 11, 5 x 5, 2 x 2"):
    m.init(jax.random.key(0), Spec((44, 44, 3), (("grid", (11, 11, 3)),), 8, 1), {})
