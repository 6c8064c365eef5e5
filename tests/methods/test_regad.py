"""RegAD: its warps and transformers, what it draws, and the numbers of the authors' code."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from imiad_jax.backbones import common, resnet
from imiad_jax.heads import registration, warp
from imiad_jax.methods import regad
from imiad_jax.types import Batch, Spec
from tests.methods.common import assert_refused, assert_same_bits, batch, first_state, jitted
from tests.methods.test_stpm import seeded_state
from tests.parity import seeded

TINY = {"stages": ("layer1", "layer2"), "hidden": 8, "supports": 4, "epochs": 2}


def turn(angle: float, *scales: float) -> jax.Array:
  a, b = scales or (1.0, 1.0)
  c, s = np.cos(angle), np.sin(angle)
  return jnp.asarray([[[c * a, -s, 0], [s, c * b, 0]]], jnp.float32)


def smooth(size: int) -> jax.Array:
  y, x = np.mgrid[:size, :size] / size
  return jnp.asarray(np.stack([np.sin(3 * x + y), np.cos(2 * y - x)], -1)[None], jnp.float32)


def test_the_identity_warps_nothing_and_a_quarter_turn_moves_cells():
  x = jnp.asarray(np.random.default_rng(0).normal(size=(1, 7, 7, 2)), jnp.float32)
  np.testing.assert_allclose(warp.affine(x, turn(0.0)), x, atol=1e-5)
  np.testing.assert_allclose(warp.affine(x, turn(np.pi / 2))[0], jnp.rot90(x[0]), atol=1e-4)
  # Two cells to the right: what comes from beyond the edge is mirrored, the edge cell twice.
  moved = warp.affine(x, jnp.array([[[1.0, 0, 4 / 7], [0, 1, 0]]]))
  np.testing.assert_allclose(moved[:, :, :5], x[:, :, 2:], atol=1e-5)
  np.testing.assert_allclose(moved[:, :, 5:], x[:, :, :4:-1], atol=1e-5)


def test_the_way_back_undoes_a_warp():
  theta = turn(0.1, 1.1, 0.9) + jnp.array([[[0, 0, 0.05], [0, 0, -0.02]]])
  both = warp.affine(warp.affine(smooth(32), theta), warp.inverse(theta))
  np.testing.assert_allclose(both[:, 6:-6, 6:-6], smooth(32)[:, 6:-6, 6:-6], atol=5e-3)
  twice = warp.inverse(warp.inverse(theta))
  np.testing.assert_allclose(twice, theta, atol=1e-6)


def test_there_are_22_views_and_the_image_is_one():
  image = jnp.asarray(np.random.default_rng(0).random((12, 12, 3)), jnp.float32)
  views = regad.views(image)
  assert (
    views.shape == (22, 12, 12, 3) and 0 <= float(views.min()) <= float(views.max()) <= 1 + 1e-6
  )
  same = jnp.abs(views - image).max((1, 2, 3)) < 1e-6
  assert int(same.sum()) == 1
  apart = jnp.abs(views[:, None] - views[None]).max((2, 3, 4)) + jnp.eye(22)
  assert float(apart.min()) > 1e-3


def test_draws_are_members_and_the_others_differ_from_the_query():
  member = jnp.asarray([1, 0, 1, 1, 0, 1, 1, 0], bool)
  seen = set()
  for seed in range(30):
    query, other, valid = regad.draw(jax.random.key(seed), member, 6, 2)
    query, other = np.asarray(query[:5]), np.asarray(other[:5])
    assert valid.tolist() == [True] * 5 + [False]
    assert sorted(query) == [0, 2, 3, 5, 6] and member[other].all()
    assert (other != query[:, None]).all()
    seen |= {(int(q), int(o)) for q, row in zip(query, other, strict=True) for o in row}
  assert len(seen) == 20  # every pair of two
  query, other, valid = regad.draw(jax.random.key(0), jnp.arange(8) == 3, 4, 2)
  assert valid.tolist() == [True, False, False, False]
  assert query[0] == 3 and (other[0] == 3).all()


def test_agreement_is_the_cosine_and_its_targets_get_no_gradient():
  rng = np.random.default_rng(0)
  a, b = (jnp.asarray(rng.normal(size=(2, 3, 3, 5)), jnp.float32) for _ in range(2))
  np.testing.assert_allclose(registration.agreement(a, a, 2 * a, 3 * a), -1, atol=1e-6)
  np.testing.assert_allclose(registration.agreement(a, a, -a, -a), 1, atol=1e-6)
  slopes = jax.grad(lambda *x: registration.agreement(*x).sum(), (0, 1, 2, 3))(a, a, b, b)
  assert [bool(jnp.any(s != 0)) for s in slopes] == [True, False, True, False]


def test_a_new_transformer_changes_nothing():
  net = registration.Transformer((8, 4, 8))
  x = jax.random.normal(jax.random.key(0), (3, 9, 9, 5))
  theta: Any = net.apply(net.init(jax.random.key(1), x, None), x, jnp.ones(3, bool), mutable=True)[
    0
  ]
  np.testing.assert_allclose(theta, np.broadcast_to(turn(0.0), (3, 2, 3)), atol=1e-7)


@pytest.mark.long
def test_only_the_first_task_is_trained_and_only_later_ones_are_kept_as_supports():
  update, finish, _ = jitted("regad")
  told = batch("regad", range(4))
  kept, _ = update(first_state("regad"), told)
  assert kept.present.tolist() == [True] * 4 + [False] * 4
  assert_same_bits(kept.params, first_state("regad").params)
  learnt, logs = update(kept, told._replace(epoch=jnp.int32(1)))
  assert -1 <= float(logs["loss"]) <= 1
  first = finish(learnt)
  assert_same_bits((first.mean, first.white), (kept.mean, kept.white))
  second, _ = update(update(first, told)[0], told._replace(epoch=jnp.int32(1)))
  assert_same_bits(second.params, first.params)
  done = finish(second)
  assert int(done.task) == 2 and not done.present.any()
  assert float(jnp.abs(done.mean - first.mean).max()) > 0


def convolution(name: str, shape: tuple[int, ...]) -> jax.Array:
  h, w, i, o = shape
  return jnp.asarray(seeded.tensor(name, (o, i, h, w)).transpose(2, 3, 1, 0))


def norm(name: str, like: Any) -> tuple[Any, Any]:
  def draw(kind: str) -> jax.Array:
    return jnp.asarray(seeded.tensor(f"{name}.{kind}", like["scale"].shape))

  params = {"scale": draw("weight"), "bias": draw("bias")}
  return params, {"mean": draw("running_mean"), "var": draw("running_var")}


def transformer(i: int, side: int, like: Any) -> tuple[Any, Any]:
  """Seeded parameters and statistics of a transformer whose last grid is side x side."""
  params, stats = {}, {}
  for j, at in enumerate((0, 4)):
    params[f"conv{j}"] = {
      "kernel": convolution(f"stn{i}.conv.{at}.weight", like[f"conv{j}"]["kernel"].shape)
    }
    params[f"norm{j}"], stats[f"norm{j}"] = norm(f"stn{i}.conv.{at + 1}", like[f"norm{j}"])
  hidden = seeded.tensor(f"stn{i}.fc.0.weight", (1024, 16 * side * side))
  hidden = hidden.reshape(1024, 16, side, side).transpose(2, 3, 1, 0).reshape(1, 1, -1, 1024)
  bias = jnp.asarray(seeded.tensor(f"stn{i}.fc.0.bias", (1024,)))
  params["hidden"] = {"kernel": jnp.asarray(hidden), "bias": bias}
  params["kernel"] = jnp.asarray(0.1 * seeded.tensor(f"stn{i}.fc.2.weight", (3, 1024)).T)
  params["bias"] = jnp.asarray(seeded.tensor(f"stn{i}.fc.2.bias", (3,)) + np.array([0, 1, 1], "f4"))
  return params, stats


def projector(name: str, like: Any) -> tuple[Any, Any]:
  params, stats = {}, {}
  for key, value in like.items():
    place = f"{name}.{key[:4].replace('norm', 'bn')}{int(key[4:]) + 1}"
    if key.startswith("conv"):
      params[key] = {"kernel": convolution(f"{place}.weight", value["kernel"].shape)}
    else:
      params[key], stats[key] = norm(place, value)
  return params, stats


def theirs(tree: dict[str, Any], sides: dict[str, int]) -> dict[str, Any]:
  """What a step moved, under the names and in the layouts of the parity script."""
  out = {}
  for i, (stage, side) in enumerate(sides.items(), start=1):
    for j, at in enumerate((0, 4)):
      out[f"stn{i}.conv.{at}.weight"] = tree[stage][f"conv{j}"]["kernel"]
      for kind, ours in (("weight", "scale"), ("bias", "bias")):
        out[f"stn{i}.conv.{at + 1}.{kind}"] = tree[stage][f"norm{j}"][ours]
    hidden = tree[stage]["hidden"]["kernel"].reshape(side, side, 16, 1024)
    out[f"stn{i}.fc.0.weight"] = hidden.transpose(3, 2, 0, 1).reshape(1024, -1)
    out[f"stn{i}.fc.0.bias"] = tree[stage]["hidden"]["bias"]
    out[f"stn{i}.fc.2.weight"] = tree[stage]["kernel"].T
    out[f"stn{i}.fc.2.bias"] = tree[stage]["bias"]
  for name in ("encoder", "predictor"):
    for key, value in tree[name].items():
      number = int(key[4:]) + 1
      if key.startswith("conv"):
        out[f"{name}.conv{number}.weight"] = value["kernel"]
      else:
        out[f"{name}.bn{number}.weight"] = value["scale"]
        out[f"{name}.bn{number}.bias"] = value["bias"]
  return out


@pytest.mark.long
def test_a_step_and_a_map_are_the_authors():
  size, sides = 48, {"layer1": 3, "layer2": 2, "layer3": 1}
  head = common.Head("fc", 512)
  layers = resnet._layers("resnet18")
  pretrained = common.fold(seeded_state(""), layers, resnet._EPS, head, Path("seeded"))
  m = regad.Model(size=size, supports=2, epochs=3, batch=2, lr=1.0, sigma=1e-3)
  spec = Spec((size, size, 3), (), 2, 2)
  state = jax.jit(m.init, static_argnums=1)(jax.random.key(0), spec, pretrained)
  params, stats = dict(state.params), dict(state.statistics)
  for i, (stage, side) in enumerate(sides.items(), start=1):
    params[stage], stats[stage] = transformer(i, side, params[stage])
  for name in ("encoder", "predictor"):
    params[name], stats[name] = projector(name, params[name])
  pictures = np.concatenate(seeded.images(((size, size),) * 4))
  image = jnp.asarray(np.round(255 * pictures) / np.float32(255))

  def told(at: slice, epoch: int) -> Batch:
    zeros, region = jnp.zeros(2, jnp.int32), jnp.zeros((2, size, size), jnp.int32)
    row, valid = jnp.arange(2, dtype=jnp.int32), jnp.ones(2, bool)
    return Batch(image[at], zeros, region, row, jnp.int32(epoch), valid, {})

  update = jax.jit(m.update)
  state, _ = update(state._replace(params=params, statistics=stats), told(slice(2), 0))
  after, logs = update(state, told(slice(2), 1))
  scores = jax.jit(m.score)(
    jax.jit(m.finish)(state._replace(task=jnp.int32(1))), told(slice(2, 4), 0)
  )
  with np.load(Path(__file__).parents[1] / "parity" / "regad.npz") as stored:
    np.testing.assert_allclose(logs["loss"], stored["loss"], rtol=1e-5)
    error = np.abs(scores.pixel - stored["map"]).max() / stored["map"].max()
    assert error < 1e-4, error
    moved = theirs(jax.tree.map(lambda a, b: a - b, after.params, state.params), sides)
    assert set(moved) <= set(stored.files)
    for name, value in moved.items():
      wanted = stored[name]
      error = np.abs(seeded.sample(value) - wanted).max() / np.abs(wanted).max()
      assert error < 1e-3, (name, error)


@pytest.mark.parametrize(
  "wrong",
  [
    {"stages": ()},
    {"stages": ("layer1", "layer9")},
    {"shots": 0},
    {"supports": 0},
    {"epochs": 1},
    {"eps": 0.0},
  ],
)
def test_nonsense_is_refused_by_name(wrong):
  assert_refused("regad", wrong)
