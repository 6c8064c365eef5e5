"""PRN: the port's network and losses, its prototypes, and what its parts promise."""

import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util
from scipy import ndimage

from imiad_jax.heads import defects, kmeans, knn, residual_net
from imiad_jax.methods import prn
from tests.methods.common import assert_refused, batch, first_state, jitted, kw, learnt
from tests.parity import seeded

TINY = {
  "stages": ("layer1", "layer2", "layer3"),
  "sources": 4,
  "epochs": 16,
  "lr": 5e-3,
  "averaged": 0.5,
  "sigma": 2.0,
  "kept": 4,
  "top": 10,
}

PARITY = Path(__file__).parents[1] / "parity" / "prn.npz"
SIZE, CHANNELS, GRIDS = 128, (4, 8, 16, 6), (32, 16, 8, 4)
LAYERS = {
  **{f"attended{i}_0": f"attn_module.layer{i + 1}_msa.0" for i in range(3)},
  **{f"fusion{i}": f"ms_fuser{i + 1}" for i in range(2)},
  **{
    "up2": "up4_to_3",
    "up1": "up3_to_2",
    "up0": "up2_to_1",
    "last": "up1_to_0",
    "out": "conv_out",
  },
}
BLOCK = {"conv0": "conv1", "conv1": "conv2", "norm0": "norm1", "norm1": "norm2"}
LEAVES = {"kernel": "weight", "scale": "weight", "mean": "running_mean", "var": "running_var"}


def theirs(path: tuple[str, ...]) -> str:
  """The port's name of one of our parameters; of a projection's without its last part."""
  block, layer = path[0], path[1]
  leaf = LEAVES.get(path[-1], path[-1])
  if block.startswith("merge"):
    scale, kind, nth = re.fullmatch(r"merge(\d)_([a-z]+)(\d)", block).groups()
    return f"conv_block{int(scale) + 1}.{3 * int(nth) + (kind == 'norm')}.{leaf}"
  if block.startswith("fusion"):
    a, b = re.fullmatch(r"(\d)to(\d)", layer).groups()
    up = ".conv" if a > b else ""
    return f"{LAYERS[block]}.l{int(a) + 1}_to_l{int(b) + 1}{up}.{leaf}"
  if layer.startswith("attention"):
    return f"{LAYERS[block]}.{path[2][0]}_proj{int(layer[-1]) + 1}"
  if block.startswith("attended"):
    name = BLOCK.get(layer, "downsample")
    return f"{LAYERS[block]}.residual_block.{name}.{leaf}"
  if block == "out":
    return f"conv_out.{leaf}"
  return f"{LAYERS[block]}.{1 + (layer == 'norm')}.{leaf}"


def their_shape(path: tuple[str, ...], shape: tuple[int, ...]) -> tuple[int, ...]:
  return tuple(np.array(shape)[[3, 2, 0, 1]]) if len(shape) == 4 else shape


def parts(path: tuple[str, ...], size: int) -> tuple[int, int, int]:
  """Channels and side of a projection's part, from its place."""
  scale, nth = int(path[0][8]), int(path[1][-1])
  side = GRIDS[scale] // 2**nth
  return size // side**2, side, side


def weights(tree):
  """The weights the port was given, in our layout."""

  def one(path, x):
    name = theirs(path)
    if path[-1] in ("query", "key", "value"):
      c, side, _ = parts(path, x.shape[1])
      order = lambda v: v.reshape(c, side, side).transpose(1, 2, 0).reshape(-1)  # noqa: E731
      scale = seeded.tensor(f"{name}.weight", (x.shape[1], 1, 1))
      return jnp.stack([order(scale), order(seeded.tensor(f"{name}.bias", x.shape[1:]))])
    given = seeded.tensor(name, their_shape(path, x.shape))
    return jnp.asarray(given.transpose(2, 3, 1, 0) if given.ndim == 4 else given)

  flat = traverse_util.flatten_dict(tree)
  return traverse_util.unflatten_dict({k: one(k, x) for k, x in flat.items()})


def sampled(path, gradient):
  """What the script kept of a parameter's gradient, by the port's name."""
  name, gradient = theirs(path), np.asarray(gradient)
  if path[-1] in ("query", "key", "value"):
    c, side, _ = parts(path, gradient.shape[1])
    moved = [v.reshape(side, side, c).transpose(2, 0, 1) for v in gradient]
    return {
      f"{name}.weight": seeded.sample(moved[0])[::4],
      f"{name}.bias": seeded.sample(moved[1])[::4],
    }
  moved = gradient.transpose(3, 2, 0, 1) if gradient.ndim == 4 else gradient
  return {name: seeded.sample(moved)[::4]}


def assert_close(got, wanted, limit: float):
  """The largest difference is below `limit` times the largest value."""
  assert got.shape == wanted.shape
  assert float(np.abs(got - wanted).max()) < limit * float(np.abs(wanted).max())


@pytest.mark.long
def test_prn_is_the_port():
  stored = np.load(PARITY)
  features = [jnp.asarray(stored[f"features/{i}"]) for i in range(4)]
  residuals = []
  for i, x in enumerate(features[:-1]):
    bank = jnp.asarray(stored[f"prototypes/{i}"])
    _, row = knn.nearest_row(x.reshape(2, -1), bank.reshape(3, -1), jnp.ones(3, bool))
    np.testing.assert_array_equal(row, stored[f"nearest/{i}"])
    residuals.append(jnp.square(x - bank[row]))
  net = residual_net.Net(1)
  scales = tuple(features[:-1])
  inputs = (scales, tuple(residuals), features[-1], (SIZE, SIZE))
  made = jax.eval_shape(lambda: net.init(jax.random.key(0), *inputs, None))
  variables = {k: weights(v) for k, v in made.items()}
  fused = residual_net.Fusion().apply({"params": variables["params"]["fusion0"]}, scales)
  for i, m in enumerate(fused):
    assert_close(seeded.sample(m), stored[f"fused/{i}"], 1e-5)
  wide = jnp.concatenate([features[2]] * 2, axis=-1)
  of = {k: v["attended2_0"] for k, v in variables.items()}
  attended = residual_net.Attended().apply(of, wide, None)
  assert_close(seeded.sample(attended), stored["attended"], 1e-5)
  evaluated = jax.jit(lambda v: net.apply(v, *inputs, None))(variables)
  assert_close(seeded.sample(evaluated), stored["logit/evaluated"], 1e-4)
  mask = jnp.zeros((2, SIZE, SIZE), bool).at[0, 20:60, 40:48].set(True)

  def loss(params):
    given, valid = variables | {"params": params}, jnp.ones(2, bool)
    logit, _ = net.apply(given, *inputs, valid, mutable=["batch_stats"])
    found = prn.losses(logit, mask, valid)
    return found["smooth"] + 5 * found["focal"], (logit, found)

  gradient, (logit, found) = jax.jit(jax.grad(loss, has_aux=True))(variables["params"])
  assert_close(seeded.sample(logit), stored["logit/trained"], 1e-4)
  np.testing.assert_allclose([found["smooth"], found["focal"]], stored["losses"], rtol=1e-4)
  compared = 0
  for path, x in traverse_util.flatten_dict(gradient).items():
    for name, value in sampled(path, x).items():
      wanted = stored[f"gradient/{name}"]
      np.testing.assert_allclose(value, wanted, rtol=0, atol=2e-3 * np.abs(wanted).max() + 1e-7)
      compared += 1
  # The rest are queries and keys of one part alone, which ours has not.
  rest = [v for k, v in stored.items() if re.search(r"gradient/.*[qk]_proj1\.", k)]
  assert compared + len(rest) == sum(k.startswith("gradient/") for k in stored)
  assert not any(v.any() for v in rest)


def test_parts_are_joined_as_they_were_cut_and_one_alone_attends_to_itself():
  x = jax.random.normal(jax.random.key(0), (2, 8, 8, 3))
  for n in (1, 2, 4, 8):
    np.testing.assert_array_equal(residual_net.joined(residual_net.cut(x, n), x.shape), x)
  np.testing.assert_array_equal(residual_net.cut(x, 2)[:, 1].reshape(2, 4, 4, 3), x[:, :4, 4:])
  value = jax.random.normal(jax.random.key(1), (2, 192))
  one = residual_net.Attention(1).apply({"params": {"value": value}}, x)
  np.testing.assert_allclose(one, x * value[0].reshape(8, 8, 3) + value[1].reshape(8, 8, 3))


def test_a_grouped_convolution_is_the_convolution_of_each_group():
  x = jax.random.normal(jax.random.key(0), (1, 7, 7, 4))
  kernel = jax.random.normal(jax.random.key(1), (3, 3, 2, 6))
  params = {"kernel": kernel, "bias": jnp.arange(6.0)}
  got = residual_net.Grouped(6, 3, 2).apply({"params": params}, x)
  wanted = jax.lax.conv_general_dilated(
    *(x, kernel, (2, 2), [(1, 1)] * 2),
    dimension_numbers=("NHWC", "HWIO", "NHWC"),
    feature_group_count=2,
  )
  np.testing.assert_allclose(got, wanted + jnp.arange(6.0), atol=1e-4)


def test_kmeans_finds_clusters_from_products_alone():
  centres = 10 * jax.random.normal(jax.random.key(0), (3, 50))
  x = centres[jnp.arange(12) % 3] + 0.1 * jax.random.normal(jax.random.key(1), (12, 50))
  valid = jnp.arange(12) < 9
  fit = jax.jit(kmeans.fit, static_argnums=4)
  weights = fit(jax.random.key(2), x @ x.T, valid, jnp.int32(3), 5)
  assert not np.asarray(weights[:, 9:]).any() and not np.asarray(weights[3:]).any()
  wanted = jnp.stack([x[i:9:3].mean(0) for i in range(3)])
  got = weights[:3] @ x
  order = jnp.argmin(jnp.sum(jnp.square(got[:, None] - wanted), -1), axis=0)
  np.testing.assert_allclose(got[order], wanted, atol=1e-4)
  apart = jnp.sum(jnp.square(x[:, None] - got), -1)
  np.testing.assert_allclose(kmeans.distances(weights[:3], x @ x.T), apart, atol=0.1)


def test_losses_are_nothing_where_the_mask_is_right():
  mask = jnp.zeros((2, 4, 4), bool).at[0, 1].set(True)
  right = jnp.where(mask, 50.0, -50.0)
  parts = prn.losses(right, mask, jnp.ones(2, bool))
  assert all(abs(float(v)) < 1e-6 for v in parts.values())
  wrong = right.at[1].set(0.0)
  np.testing.assert_allclose(prn.losses(wrong, mask, jnp.ones(2, bool))["smooth"], 0.5 * 0.125)
  # What is not known does not count.
  assert float(prn.losses(wrong, mask, jnp.arange(2) < 1)["smooth"]) < 1e-6


def test_pasted_defects_stay_whole_and_textures_lie_on_normal_images():
  rows = batch("prn", range(4))._replace(epoch=jnp.int32(0))
  memory = defects.remember(defects.begin(4, *rows.image.shape[1:3]), rows)
  assert int(memory.count) == 2 and memory.mask[:2].any((1, 2)).all()
  again = defects.remember(memory, rows._replace(epoch=jnp.int32(1)))
  assert int(again.count) == 2
  drawn = jax.jit(defects.draw, static_argnums=(3, 4))
  image, mask, there, row = drawn(jax.random.key(0), memory, rows, 6, 0.0)
  assert there.all() and (row == -1).all()
  raw = {np.asarray(x).tobytes() for x in memory.image[:2]}
  levels = np.round(255 * np.asarray(image)).astype(np.uint8)
  assert {x.tobytes() for x in levels} == raw and mask.any((1, 2)).all()
  image, mask, _, row = drawn(jax.random.key(0), memory, rows, 6, 1.0)
  outside = np.where(np.asarray(mask)[..., None], 0, np.asarray(image))
  assert set(row.tolist()) <= {0, 2}  # the normal ones
  under = np.asarray(rows.image)[row]
  np.testing.assert_array_equal(outside, np.where(np.asarray(mask)[..., None], 0, under))
  none = drawn(jax.random.key(0), defects.forget(memory), rows, 2, 0.5)
  assert not none.there.any()


@pytest.mark.long
def test_the_first_epoch_collects_and_later_ones_learn():
  update, finish, score = jitted("prn")
  start, told = first_state("prn"), batch("prn", range(4))
  first, _ = update(start, told)
  assert first.present.tolist()[:4] == [True, False, True, False]
  jax.tree.map(np.testing.assert_array_equal, first.params, start.params)
  second, logs = update(first, told._replace(epoch=jnp.int32(1)))
  assert bool(second.ready) and int(second.used.sum()) == 1 and float(logs["smooth"]) > 0
  moved = jax.tree.map(lambda a, b: bool((a != b).any()), second.params, first.params)
  assert all(jax.tree.leaves(moved))
  # One prototype of two images is their mean.
  x = told.features["layer1"].reshape(4, -1)[::2]
  np.testing.assert_allclose(second.prototypes[0][0], x.mean(0), atol=1e-4)
  done = finish(second)
  assert not done.ready and not done.present.any() and int(done.memory.count) == 0
  tested = batch("prn", range(10, 14))
  scores, sharp = score(done, tested), prn.Model(**kw("prn", sigma=0.0)).score(done, tested)
  flat = sharp.pixel.reshape(4, -1)
  assert (flat.mean(1) <= sharp.image).all() and (sharp.image <= flat.max(1)).all()
  np.testing.assert_allclose(scores.image, sharp.image, atol=1e-5)
  wanted = ndimage.gaussian_filter(sharp.pixel, (0, 2, 2))
  np.testing.assert_allclose(scores.pixel, wanted, atol=1e-5)


@pytest.mark.long
def test_scores_are_of_the_mean_of_the_weights_of_the_last_passes():
  update, finish, score = jitted("prn")
  told, tested = batch("prn", range(4)), batch("prn", range(10, 14))
  state, seen = first_state("prn"), {}
  for epoch in (0, 7, 8, 9, 10):  # of 16, the second half
    state, _ = update(state, told._replace(epoch=jnp.int32(epoch)))
    seen[epoch] = (state.params, state.averages)
    if epoch < 8:
      jax.tree.map(np.testing.assert_array_equal, state.mean, seen[epoch])
  wanted = jax.tree.map(lambda *x: sum(x) / 3, seen[8], seen[9], seen[10])
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, 1e-5, 1e-5), state.mean, wanted)
  done = finish(state)
  assert int(done.summed) == 0
  last = done._replace(params=seen[7][0], averages=seen[7][1])
  np.testing.assert_array_equal(score(last, tested).pixel, score(done, tested).pixel)
  assert np.abs(score(done._replace(mean=seen[7]), tested).pixel - score(done, tested).pixel).any()


@pytest.mark.long
def test_padding_changes_nothing_in_later_epochs():
  update = jitted("prn")[0]
  start, _ = update(first_state("prn"), batch("prn", range(4)))
  valid = [True, True, False, False]
  one, two = (
    update(start, batch("prn", [0, 1, *r], valid)._replace(epoch=jnp.int32(1)))[0].params
    for r in ((2, 3), (5, 7))
  )
  jax.tree.map(np.testing.assert_array_equal, one, two)


@pytest.mark.parametrize(
  "wrong",
  [
    *({"stages": ("layer1",)}, {"sources": 0}, {"ratio": 0.0}, {"blocks": 0}, {"balance": -1.0}),
    *({"top": 0}, {"lr": -1.0}, {"weight_decay": -1.0}, {"kept": 0}, {"averaged": 1.0}),
    {"sigma": -1.0},
    {"textures": "nowhere/at"},
  ],
)
def test_nonsense_is_refused_by_name(wrong):
  assert_refused("prn", wrong)


@pytest.mark.long
def test_a_later_task_begins_without_what_was_kept():
  state = learnt("prn")
  assert not state.present.any() and not bool(state.ready)
