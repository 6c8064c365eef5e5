"""RD4AD: its network's sizes, what its loss and map do not see, and the numbers of the original."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.ndimage

from imiad_jax import training
from imiad_jax.backbones import resnet
from imiad_jax.errors import UserError
from imiad_jax.heads.reconstruction import Reversed
from imiad_jax.methods import rd4ad
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

TINY = {"stages": ("layer1", "layer2"), "depths": (1, 1, 1), "epochs": 30, "lr": 5e-3}

STORED = Path(__file__).parent.parent / "parity" / "rd4ad.npz"
# The depths of each student and the share of a block's channels inside it, None of basic blocks.
STUDENTS = {"basic": ((2, 2, 2, 2), None), "wide": ((3, 3, 4, 6), 0.5)}


def count(tree) -> int:
  return sum(x.size for x in jax.tree.leaves(tree))


def student(backbone: str, **more) -> rd4ad.State:
  """The shapes of the first State of a backbone's student at 256 x 256."""
  net = resnet.Model(backbone)
  image = jax.ShapeDtypeStruct((1, 256, 256, 3), jnp.float32)
  out = jax.eval_shape(lambda x: net.init_with_output(jax.random.key(0), x)[0], image)
  method = rd4ad.Model(backbone=backbone, **more)
  shapes = tuple((stage, out[stage].shape[1:]) for stage in method.stages)
  whole = Spec((256, 256, 3), shapes, 8, 1)
  return jax.eval_shape(lambda key: method.init(key, whole, None), jax.random.key(0))


def test_the_student_of_a_wide_resnet_is_the_authors():
  params = student("wide_resnet50_2").params
  assert count(params["bottleneck"]) == 58_885_120
  assert count(params["decoder"]) == 24_917_504


def test_an_inner_width_of_a_quarter_gives_open_iads_bottleneck():
  assert count(student("wide_resnet50_2", inner=0.25).params["bottleneck"]) == 30_829_568


def test_small_resnets_have_students_of_basic_blocks():
  def conv(size, c, features):
    return size**2 * c * features + 2 * features  # and its batch norm

  bottleneck = conv(3, 64, 128) + 2 * conv(3, 128, 256) + conv(1, 768, 512)
  bottleneck += conv(3, 768, 512) + 3 * conv(3, 512, 512)
  params = student("resnet18", depths=(2, 2, 2, 2)).params
  assert count(params["bottleneck"]) == bottleneck
  each = [2 * conv(2, 2 * c, c) + 3 * conv(3, c, c) for c in (64, 128, 256)]
  assert count(params["decoder"]) == sum(each)


def test_the_embedding_is_half_the_coarsest_grid_and_the_rest_is_as_it_came():
  shapes = [(2, 16, 24, 8), (2, 8, 12, 16), (2, 4, 6, 32)]
  x = tuple(jnp.ones(shape) for shape in shapes)
  network = Reversed((1, 1, 2, 1), 0.5)
  variables = network.init(jax.random.key(0), x, None)
  built, seen = network.apply(variables, x, None, capture_intermediates=True, mutable=True)
  assert [y.shape for y in built] == shapes
  assert seen["intermediates"]["bottleneck"]["__call__"][0].shape == (2, 2, 3, 64)


def test_nothing_but_the_student_is_kept_and_all_of_it_learns():
  first, update = first_state("rd4ad"), jitted("rd4ad")[0]
  rows = batch("rd4ad", range(4))
  state, before = update(first, rows)
  for name in ("params", "statistics"):
    moved = jax.tree.map(
      lambda a, b: bool((a != b).any()), getattr(first, name), getattr(state, name)
    )
    assert all(jax.tree.leaves(moved)), name
  for _ in range(20):
    state, after = update(state, rows)
  assert float(after["loss"]) < 0.5 * float(before["loss"])


def test_the_map_is_the_smoothed_sum_of_each_stages_distances(monkeypatch):
  state, rows = learnt("rd4ad"), batch("rd4ad", [9, 10])
  m = rd4ad.Model(**kw("rd4ad"))
  built = tuple(rows.features[stage] for stage in m.stages)
  monkeypatch.setattr(Reversed, "apply", lambda *_, **__: (built, {"batch_stats": {}}))
  same = m.score(state, rows)
  assert float(jnp.abs(same.pixel).max()) < 1e-5
  longer = rows._replace(features={k: 7 * v for k, v in rows.features.items()})
  np.testing.assert_allclose(m.score(state, longer).pixel, same.pixel, atol=1e-5)
  away = rows._replace(features={k: -v for k, v in rows.features.items()})
  opposite = m.score(state, away)
  np.testing.assert_allclose(opposite.pixel, 2 * len(m.stages), rtol=1e-5)
  np.testing.assert_array_equal(opposite.image, opposite.pixel.max((1, 2)))


def test_a_later_task_goes_on_from_all_that_was_learnt():
  update, finish, _ = jitted("rd4ad")
  state = learnt("rd4ad")
  assert_same_bits(finish(state), state)
  later, _ = update(state, batch("rd4ad", range(4)))
  assert [int(x.optimiser[0].count) for x in (state, later)] == [2, 3]


def layers(wide: bool):
  """Yields (half, PyTorch's convolution, its batch norm, our path, convolution, batch norm)."""
  depths = STUDENTS["wide" if wide else "basic"][0]
  for i in range(3):
    yield "bottleneck", f"conv{i + 1}", f"bn{i + 1}", (), f"Conv_{i}", f"Norm_{i}"
  for stage, depth in enumerate(depths):
    for block in range(depth):
      half, of, short = "decoder", f"layer{stage}.{block}", "upsample"
      at = (f"Stage_{stage - 1}", f"Block_{block}")
      if stage == 0:
        half, of, short = "bottleneck", f"bn_layer.{block}", "downsample"
        at = ("Stage_0", f"Block_{block}")
      names = ["Conv_0", "Conv_1"] + ["Conv_2"] * wide
      if stage > 0 and block == 0:
        names = ["Conv_0", "Transposed_0", "Conv_1"] if wide else ["Transposed_0", "Conv_0"]
      for i, name in enumerate(names):
        yield half, f"{of}.conv{i + 1}", f"{of}.bn{i + 1}", at, name, f"Norm_{i}"
      if block == 0:
        name = "Transposed_1" if stage > 0 else f"Conv_{len(names)}"
        yield half, f"{of}.{short}.0", f"{of}.{short}.1", at, name, f"Norm_{len(names)}"


def entries(variables, wide: bool):
  """Yields (name in PyTorch, dict, key, whether it is a transposed kernel) for all there is."""
  kinds = {"params": {"weight": "scale", "bias": "bias"}}
  kinds["batch_stats"] = {"running_mean": "mean", "running_var": "var"}
  for half, conv, norm, path, ours, normed in layers(wide):
    for kind, tree in variables.items():
      at = tree[half]
      for part in path:
        at = at[part]
      if kind == "params":
        yield f"{half}.{conv}.weight", at[ours], "kernel", ours.startswith("Transposed")
      for theirs, key in kinds[kind].items():
        yield f"{half}.{norm}.{theirs}", at[normed], key, False


def to_torch(x, double: bool):
  """A kernel as PyTorch lays it out."""
  if x.ndim < 4:
    return x
  if double:
    return x.transpose(2, 3, 0, 1)
  return x.transpose(3, 2, 0, 1)


def from_torch(x, double: bool):
  """The inverse of `to_torch`."""
  if x.ndim < 4:
    return x
  if double:
    return x.transpose(2, 3, 0, 1)
  return x.transpose(2, 3, 1, 0)


def few(params, wide: bool):
  """Some values of each parameter in the order of PyTorch's names, as parity/rd4ad.py has them."""
  found = sorted(entries({"params": params}, wide), key=lambda entry: entry[0])
  flat = [np.asarray(to_torch(at[key], double)).reshape(-1) for _, at, key, double in found]
  return np.concatenate([f[:: max(1, f.size // 20) | 1] for f in flat])


def doubled(leaf):
  """A leaf as NumPy has it, float64 if it is float32."""
  leaf = np.asarray(leaf)
  return leaf.astype(np.float64) if leaf.dtype == np.float32 else leaf


@pytest.mark.parametrize("name", STUDENTS)
def test_numbers_are_those_of_the_original(name, monkeypatch):
  (depths, inner), wide = STUDENTS[name], name == "wide"
  monkeypatch.setattr(rd4ad, "_EXPANDED", 64 if wide else 256)
  m = rd4ad.Model(depths=depths)
  noise = [seeded.tensor(f"layer{i}", (48 >> i, 16 >> i, 64 << i)) for i in range(3)]
  x = [jnp.asarray(np.maximum(v.reshape(3, -1, *v.shape[1:]), 0)) for v in noise]
  features = dict(zip(m.stages, x, strict=True))
  whole = Spec((64, 64, 3), tuple((k, v.shape[1:]) for k, v in features.items()), 8, 1)
  shapes = jax.eval_shape(lambda key: m.init(key, whole, None), jax.random.key(0))
  variables = {"params": shapes.params, "batch_stats": shapes.statistics}
  for theirs, at, key, double in entries(variables, wide):
    made = seeded.tensor(theirs, to_torch(np.empty(at[key].shape), double).shape)
    at[key] = jnp.asarray(from_torch(made, double))
  assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(variables))

  zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes.optimiser)
  state = rd4ad.State(variables["params"], variables["batch_stats"], zeros)
  blank = jnp.zeros((3, 64, 64), jnp.int32)
  told = jnp.zeros(3, jnp.int32)
  rows = Batch(jnp.zeros((3, 64, 64, 3)), told, blank, told, told[0], told == 0, features)
  with np.load(STORED) as stored:

    def close(got, what, tolerance):
      wanted = stored[f"{name}/{what}"]
      assert np.abs(got - wanted).max() < tolerance * np.abs(wanted).max(), what

    network = Reversed(depths, inner)
    built, seen = jax.jit(
      lambda v: network.apply(
        v, tuple(x), None, mutable=["intermediates"], capture_intermediates=True
      )
    )(variables)
    z = seen["intermediates"]["bottleneck"]["__call__"][0]
    for what, value in zip(("z", *m.stages), (z, *map(jax.nn.relu, built)), strict=True):
      close(seeded.sample(value), what, 1e-5)
    smoothed = scipy.ndimage.gaussian_filter(stored[f"{name}/map"], 4.0)
    np.testing.assert_allclose(jax.jit(m.score)(state, rows).pixel[0], smoothed, rtol=1e-5)

    # In float64: batch norm over the deep one's 12 cells rounds float32 by more than is asked for.
    with jax.enable_x64(True):
      state, rows = jax.tree.map(lambda leaf: jnp.asarray(doubled(leaf)), (state, rows))
      update, losses = jax.jit(m.update), []
      for step in range(3):
        state, logs = update(state, rows)
        losses.append(logs["loss"])
        if step == 0:
          close(few(state.optimiser[0].mu, wide) / 0.5, "gradient", 1e-5)
        if step == 1 and not wide:
          moved = np.abs(few(state.params, wide) - stored[f"{name}/moved"])
          assert moved.max() < 1e-5  # of steps up to 1e-2
    np.testing.assert_allclose(losses, stored[f"{name}/loss"], rtol=1e-6)
    mean = state.statistics["bottleneck"]["Norm_0"]["mean"]
    close(np.asarray(mean), "statistics", 1e-5)


@pytest.mark.parametrize(
  "wrong",
  [
    {"inner": 0.0},
    {"lr": -1.0},
    {"momentum": 1.0},
    {"sigma": 0.0},
    {"stages": ()},
    {"stages": ("embedding", "layer1")},
  ],
)
def test_nonsense_is_refused_by_name(wrong):
  assert_refused("rd4ad", wrong)


def test_depths_that_do_not_fit_the_stages_are_refused():
  for depths in ((1, 1), (1, 1, 1, 1), (1, 0, 1)):
    with pytest.raises(UserError, match="depths"):
      training.build("rd4ad", kw("rd4ad", depths=depths))


def test_grids_that_do_not_halve_are_refused():
  for wrong in ({"stages": ("layer1", "layer3")}, {"stages": ("layer2", "layer1")}, {"size": 40}):
    with pytest.raises(UserError, match="halve one another"):
      training.check(training.build("rd4ad", kw("rd4ad", **wrong)))
