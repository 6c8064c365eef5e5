"""What every method must keep, over the folder's listing, and what each method promises."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest
import sklearn.neighbors

from imiad_jax import config, engine, features, plugins
from imiad_jax.errors import UserError
from imiad_jax.heads import coreset
from imiad_jax.methods import patchcore, softpatch
from imiad_jax.types import Batch, Run, Spec
from tests import pictures

METHODS = plugins.names("methods")
SIZE = 32


def kw(name: str, **more):
  """Hyperparameters that a test can pay for."""
  factory = plugins.load("methods", name).Model
  small = {"backbone": "efficientnet_lite0"} | config.SMALL.get(name, {})
  return plugins.resolve(name, factory, small | {"size": SIZE, "batch": 4} | more)


@functools.cache
def method(name: str):
  return plugins.load("methods", name).Model(**kw(name))


@functools.cache
def spec(name: str, n: int = 8, tasks: int = 2) -> Spec:
  net = features.backbone("efficientnet_lite0")
  return Spec((SIZE, SIZE, 3), features.shapes(net, method(name).stages, SIZE), n, tasks)


def first_state(name: str, seed: int = 0, **more):
  params = features.backbone("efficientnet_lite0").params
  return jax.jit(method(name).init, static_argnums=1)(
    jax.random.key(seed), spec(name, **more), params
  )


@functools.cache
def jitted(name: str):
  m = method(name)
  return jax.jit(m.update), jax.jit(m.finish), jax.jit(m.score)


def batch(name: str, rows, valid=None, label=0, seed=0) -> Batch:
  """Images are a function of their row, and so are the features."""
  images = [np.random.default_rng((seed, r)).random((SIZE, SIZE, 3)) for r in rows]
  image = np.stack(images).astype(np.float32)
  found = {}
  if method(name).stages:
    out = _backbone(features.backbone("efficientnet_lite0").params, image)
    found = {s: out[s] for s in method(name).stages}
  valid = np.ones(len(rows), bool) if valid is None else np.asarray(valid)
  region = jnp.zeros((len(rows), SIZE, SIZE), jnp.int32)
  row = np.where(valid, rows, spec(name).max_train).astype(np.int32)
  told = np.full(len(rows), label, np.int32)
  return Batch(
    jnp.asarray(image), jnp.asarray(told), region, row, jnp.int32(0), jnp.asarray(valid), found
  )


@jax.jit
def _backbone(params, image):
  return features.backbone("efficientnet_lite0").apply(params, image)


@functools.cache
def learnt(name: str, seed: int = 0):
  """The State after one task of eight images."""
  update, finish, _ = jitted(name)
  state = first_state(name, seed)
  for first in (0, 4):
    state, _ = update(state, batch(name, range(first, first + 4)))
  return finish(state)


def leaves(tree):
  return [
    jax.random.key_data(x) if jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key) else x
    for x in jax.tree.leaves(tree)
  ]


def assert_same_bits(a, b):
  for x, y in zip(leaves(a), leaves(b), strict=True):
    np.testing.assert_array_equal(x, y)


@pytest.mark.parametrize("name", METHODS)
def test_padding_changes_nothing(name):
  update, finish, _ = jitted(name)
  valid = [True, True, False, False]
  one = update(first_state(name), batch(name, [0, 1, 2, 3], valid))
  two = update(first_state(name), batch(name, [0, 1, 5, 7], valid))
  assert_same_bits(one, two)
  assert_same_bits(finish(one[0]), finish(two[0]))


@pytest.mark.parametrize("name", METHODS)
def test_scores_have_their_shapes_and_do_not_see_labels(name):
  score = jitted(name)[2]
  a = score(learnt(name), batch(name, range(10, 14)))
  b = score(learnt(name), batch(name, range(10, 14), label=1))
  assert a.image.shape == (4,) and a.image.dtype == jnp.float32
  assert a.pixel is None or (a.pixel.shape == (4, SIZE, SIZE) and a.pixel.dtype == jnp.float32)
  assert all(np.isfinite(x).all() for x in jax.tree.leaves(a))
  assert_same_bits(a, b)


@pytest.mark.parametrize("name", METHODS)
def test_one_by_one_equals_batched_and_jit_equals_eager(name):
  score = jitted(name)[2]
  rows = range(10, 14)
  together = score(learnt(name), batch(name, rows))
  single = [score(learnt(name), batch(name, [r])) for r in rows]
  joined = jax.tree.map(lambda *x: jnp.concatenate(x), *single)
  eager = method(name).score(learnt(name), batch(name, rows))
  for other in (joined, eager):
    for x, y in zip(jax.tree.leaves(together), jax.tree.leaves(other), strict=True):
      np.testing.assert_allclose(x, y, rtol=2e-3, atol=2e-3 * float(np.abs(x).max()))


@pytest.mark.parametrize("name", METHODS)
def test_same_seed_same_bits(name):
  again = learnt.__wrapped__(name)
  assert_same_bits(learnt(name), again)


@pytest.mark.parametrize("name", METHODS)
def test_vmap_over_seeds_equals_a_loop(name):
  m = method(name)
  params = features.backbone("efficientnet_lite0").params

  def whole(key):
    state = m.init(key, spec(name), params)
    for first in (0, 4):
      state, _ = m.update(state, batch(name, range(first, first + 4)))
    return m.score(m.finish(state), batch(name, range(10, 14))).image

  keys = jax.random.split(jax.random.key(0), 2)
  together = jax.jit(jax.vmap(whole))(keys)
  loop = jnp.stack([jax.jit(whole)(k) for k in keys])
  np.testing.assert_allclose(together, loop, rtol=5e-3)


@pytest.mark.parametrize("name", METHODS)
def test_state_survives_a_checkpoint_bit_for_bit(name, tmp_path):
  state = learnt(name)
  with ocp.StandardCheckpointer() as checkpointer:
    checkpointer.save(tmp_path / "state", state)
    checkpointer.wait_until_finished()
    assert_same_bits(state, checkpointer.restore(tmp_path / "state", state))


@pytest.mark.parametrize("setting", plugins.names("settings"))
@pytest.mark.parametrize("name", METHODS)
def test_every_method_runs_in_every_setting_and_finds_blots(name, setting):
  store = pictures.Store(tasks=2, bad=8)
  setting_kw = {"fully_supervised": {"anomalies": 2}, "few_shot": {"shots": 12}}.get(setting, {})
  groups = plugins.load("settings", setting).runs(("c0", "c1"), False)
  for group in groups:
    run = Run("pictures", group, setting, setting_kw, name, kw(name, size=64), 0)
    outcomes = list(engine.run(run, store))
    assert [(o.learnt, o.category) for o in outcomes] == [
      (i, group[j]) for i in range(len(group)) for j in range(i + 1)
    ]
    for o in outcomes:
      assert {"image_auroc", "image_ap"} <= set(o.metrics)
      assert ("pixel_pro" in o.metrics) == (o.scores.pixel is not None)
      assert all(
        0 <= v <= 1 for k, v in o.metrics.items() if k.endswith(("auroc", "ap", "pro", "f1max"))
      )
    # What was learnt last is found: the blots are loud.
    assert outcomes[-1].metrics["image_auroc"] > 0.9


# --- PatchCore ---


def patchcore_state(ratio: float, tasks: int = 1, append: bool = True, seeds=(0,)):
  m = patchcore.Model(**kw("patchcore", ratio=ratio, append=append))
  params = features.backbone("efficientnet_lite0").params
  state = m.init(jax.random.key(0), spec("patchcore", tasks=tasks), params)
  for seed in seeds:
    for first in (0, 4):
      state, _ = m.update(state, batch("patchcore", range(first, first + 4), seed=seed))
    state = m.finish(state)
  return m, state


def test_a_bank_of_everything_knows_every_training_image_to_the_last_row():
  m, state = patchcore_state(ratio=1.0)
  scores = m.score(state, batch("patchcore", [0, 3, 7]))
  typical = float(jnp.median(jnp.sum(jnp.square(state.bank), -1)))
  assert float(jnp.abs(scores.pixel).max()) < 1e-5 * typical
  assert float(m.score(state, batch("patchcore", [9])).image[0]) > 1e-2 * typical


def test_a_coreset_knows_its_own_rows_and_has_the_promised_size():
  _, state = patchcore_state(ratio=0.25)
  h, w, _ = spec("patchcore").shape("layer2")
  assert int(state.used.sum()) == int(0.25 * 8 * h * w)
  everything = patchcore_state(ratio=1.0)[1].bank
  kept = np.asarray(state.bank[state.used])
  assert all((np.abs(everything - row).max(-1) == 0).any() for row in kept)


def test_appending_never_raises_a_score():
  m, one = patchcore_state(0.25, tasks=2, seeds=(0,))
  _, two = patchcore_state(0.25, tasks=2, seeds=(0, 1))
  rows = batch("patchcore", range(10, 14))
  assert (m.score(two, rows).image <= m.score(one, rows).image).all()


def test_replacing_forgets_what_appending_keeps():
  known = batch("patchcore", [0, 1])
  kept, replaced = (
    m.score(state, known).image
    for m, state in (patchcore_state(1.0, 2, append, (0, 1)) for append in (True, False))
  )
  assert (100 * kept < replaced).all()


def test_reweighting_is_equation_7():
  rng = np.random.default_rng(0)
  patch, bank = rng.normal(size=(3, 6)), rng.normal(size=(20, 6))
  got = patchcore.reweighted(
    jnp.asarray(patch, jnp.float32), jnp.asarray(bank, jnp.float32), jnp.ones(20, bool), 4
  )
  for q, value in zip(patch, got, strict=True):
    distance = np.linalg.norm(bank - q, axis=1)
    star = np.argmin(distance)
    around = np.argsort(np.linalg.norm(bank - bank[star], axis=1))[:4]
    weight = 1 - np.exp(distance[star]) / np.exp(distance[around]).sum()
    np.testing.assert_allclose(value, weight * distance[star], rtol=1e-4)


def test_reweighting_with_fewer_rows_than_neighbours():
  bank = jnp.asarray(np.random.default_rng(0).normal(size=(5, 6)), jnp.float32)
  used = jnp.arange(5) < 2
  got = patchcore.reweighted(bank[2:4], bank, used, 9)
  few = patchcore.reweighted(bank[2:4], bank[:2], jnp.ones(2, bool), 2)
  np.testing.assert_allclose(got, few, rtol=1e-5)


def test_the_coreset_covers_better_than_chance():
  x = jnp.asarray(np.random.default_rng(0).normal(size=(400, 8)), jnp.float32)
  valid = jnp.ones(400, bool)
  start = coreset.start(jax.random.key(0), x, valid, 10)
  picks = coreset.greedy(x, start, valid, jnp.int32(40), 40)

  def radius(chosen):
    return float(jnp.sqrt(((x[:, None] - x[None, chosen]) ** 2).sum(-1)).min(1).max())

  assert radius(picks) < radius(jnp.arange(40))


# --- PaDiM ---


def padim_statistics(n: int, offset: float = 0.0):
  """Streams n images through PaDiM in batches of 4; returns State and the embeddings [n,p,d]."""
  m = plugins.load("methods", "padim").Model(**kw("padim", dim=20))
  params = features.backbone("efficientnet_lite0").params
  state = m.init(jax.random.key(0), spec("padim"), params)
  kept = []
  for first in range(0, n, 4):
    valid = np.arange(4) < n - first
    b = batch("padim", range(first, first + 4), valid)
    b = b._replace(features={k: v + offset for k, v in b.features.items()})
    state, _ = m.update(state, b)
    up = [
      np.repeat(
        np.repeat(f, b.features["layer1"].shape[1] // f.shape[1], 1),
        b.features["layer1"].shape[1] // f.shape[1],
        2,
      )
      for f in map(np.asarray, b.features.values())
    ]
    x = np.concatenate(up, -1)[valid][..., np.asarray(state.channels)]
    kept.append(x.reshape(len(x), -1, x.shape[-1]))
  return m.finish(state), np.concatenate(kept).astype(np.float64)


@pytest.mark.parametrize("offset", [0.0, 300.0])
def test_padim_statistics_are_numpys_even_with_large_means(offset):
  state, x = padim_statistics(10, offset)
  for p in (0, 5, 63):
    np.testing.assert_allclose(state.mean[p], x[:, p].mean(0), rtol=1e-5, atol=1e-4)
    cov = np.cov(x[:, p], rowvar=False) + 0.01 * np.eye(x.shape[-1])
    np.testing.assert_allclose(
      state.factor[p] @ state.factor[p].T, cov, atol=1e-3 * np.abs(cov).max()
    )


def test_padim_with_one_image_uses_eps_alone_and_with_two_rank_one():
  state, _ = padim_statistics(1)
  eye = np.eye(state.factor.shape[-1])
  np.testing.assert_allclose(
    state.factor, 0.1 * np.broadcast_to(eye, state.factor.shape), rtol=1e-5
  )
  state, _ = padim_statistics(2)
  values = np.linalg.eigvalsh(state.factor @ np.swapaxes(state.factor, 1, 2))
  np.testing.assert_allclose(values[:, :-1], 0.01, rtol=1e-2)


# --- DNE ---


def test_dne_after_one_task_scores_with_that_tasks_gaussian():
  state = learnt("dne")
  np.testing.assert_allclose(state.mean, state.means[0], atol=1e-5)
  np.testing.assert_allclose(state.factor, state.factors[0], atol=1e-4)


def test_dne_trains_its_backbone_and_freezes_the_head_after_the_first_task():
  update, _, _ = jitted("dne")
  start, first = first_state("dne"), learnt("dne")
  changed = [
    np.abs(a - b).max() > 0
    for a, b in zip(
      jax.tree.leaves(start.params["layer3"]), jax.tree.leaves(first.params["layer3"]), strict=True
    )
  ]
  assert all(changed)
  assert_same_bits(start.frozen, first.frozen)
  assert float(jnp.abs(start.head["kernel"] - first.head["kernel"]).max()) > 0
  state, _ = update(first, batch("dne", range(4), seed=1))
  assert_same_bits(first.head, state.head)
  assert (
    float(
      jnp.abs(
        state.params["layer3"]["block0"]["project"]["kernel"]
        - first.params["layer3"]["block0"]["project"]["kernel"]
      ).max()
    )
    > 0
  )


def test_dne_keeps_each_tasks_gaussian_and_its_memory_does_not_grow():
  update, finish, _ = jitted("dne")
  first = learnt("dne")
  state, _ = update(first, batch("dne", range(4), seed=1))
  second = finish(state)
  assert_same_bits(first.means[0], second.means[0])
  assert_same_bits(first.factors[0], second.factors[0])
  assert second.counts.tolist() == [8, 4] and int(second.task) == 2
  assert not second.present.any()
  sizes = [[x.shape for x in jax.tree.leaves(s)] for s in (first, second)]
  assert sizes[0] == sizes[1]


# --- What a factory refuses ---


@pytest.mark.parametrize(
  ("name", "wrong"),
  [
    ("patchcore", {"ratio": 2.0}),
    ("patchcore", {"ratio": 0.0}),
    ("patchcore", {"dim": 0}),
    ("patchcore", {"stages": ()}),
    ("patchcore", {"reweight": 0}),
    ("patchcore", {"sigma": 0.0}),
    ("padim", {"eps": -1.0}),
    ("padim", {"stages": ()}),
    ("dne", {"lr": -1.0}),
    ("dne", {"aspect": 0.0}),
    ("dne", {"jitter": 2.0}),
    ("dne", {"embedding": "layer9"}),
    ("dne", {"frozen": ("nothing",)}),
    ("patchcore", {"stages": ("embedding",)}),
  ],
)
def test_nonsense_is_refused_by_name(name, wrong):
  with pytest.raises(UserError) as e:
    engine.check(engine.build(name, kw(name, **wrong)))
  (given, value), *_ = wrong.items()
  named = value[0] if isinstance(value, tuple) and value else given
  assert named in str(e.value)


# --- SPADE ---


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


# --- SoftPatch ---


def test_outlier_factor_equals_scikit_learn():
  x = np.random.default_rng(0).normal(size=(20, 4)).astype(np.float32)
  x[3] += 6
  lof = sklearn.neighbors.LocalOutlierFactor(5).fit(x)
  padded = jnp.asarray(np.concatenate([x, np.zeros((4, 4), np.float32)]))
  got = softpatch.outlier_factor(padded, jnp.arange(24) < 20, 5)
  np.testing.assert_allclose(got[:20], -lof.negative_outlier_factor_, rtol=1e-4)
  assert int(jnp.argmax(got)) == 3


@pytest.mark.parametrize("n", [1, 2, 4])
def test_outlier_factors_of_few_and_of_equal_rows_are_finite(n):
  x = jnp.ones((8, 3))
  got = softpatch.outlier_factor(x, jnp.arange(8) < n, 5)
  np.testing.assert_allclose(got, 1, rtol=1e-3)


def test_a_planted_outlier_is_not_in_the_bank():
  update, finish, _ = jitted("softpatch")
  state = first_state("softpatch")
  # Eight pictures of one thing with a little grain, one of which has a foreign corner.
  rng = np.random.default_rng(0)
  base = rng.random((SIZE, SIZE, 3))
  image = base + rng.normal(0, 0.01, (8, SIZE, SIZE, 3))
  image[5, :12, :12] = rng.random((12, 12, 3))
  image = jnp.asarray(image, jnp.float32)
  out = _backbone(features.backbone("efficientnet_lite0").params, image)
  found = {s: out[s] for s in method("softpatch").stages}
  for first in (0, 4):
    b = batch("softpatch", range(first, first + 4))
    part = {s: v[first : first + 4] for s, v in found.items()}
    state, _ = update(state, b._replace(image=image[first : first + 4], features=part))
  foreign = np.asarray(state.buffer[5, 0])  # the patch of the corner
  bank = finish(state)
  assert np.abs(np.asarray(bank.bank)[np.asarray(bank.used)] - foreign).max(-1).min() > 0


def test_softpatch_without_doubt_is_patchcore():
  more = {"ratio": 0.25}
  m = softpatch.Model(**kw("softpatch", share=0.0, **more))
  params = features.backbone("efficientnet_lite0").params
  state = m.init(jax.random.key(0), spec("softpatch", tasks=1), params)
  for first in (0, 4):
    state, _ = m.update(state, batch("softpatch", range(first, first + 4)))
  state = m.finish(state)
  n, other = patchcore_state(ratio=0.25)
  np.testing.assert_allclose(state.bank, other.bank, rtol=1e-6)
  b = batch("softpatch", range(10, 14))
  trusting = m.score(state._replace(weight=jnp.ones_like(state.weight)), b)
  assert_close = functools.partial(np.testing.assert_allclose, rtol=1e-5)
  jax.tree.map(assert_close, trusting, n.score(other, b))
  doubled = m.score(state._replace(weight=2 * jnp.ones_like(state.weight)), b)
  np.testing.assert_allclose(doubled.image, 2 * trusting.image, rtol=1e-5)
