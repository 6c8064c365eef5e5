"""What every method must keep, over the folder's listing."""

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest

from imiad_jax import engine, features, plugins, training
from imiad_jax.errors import UserError
from imiad_jax.types import Run
from tests import pictures
from tests.methods.common import (
  SIZE,
  assert_same_bits,
  batch,
  first_state,
  jitted,
  kw,
  learnt,
  method,
  spec,
)

METHODS = plugins.names("methods")


def long(value, yes: bool):
  return pytest.param(*value, marks=[pytest.mark.long] if yes else [])


def trained(name: str) -> bool:
  return "epochs" in plugins.defaults(plugins.load("methods", name).Model)


def own(name: str) -> str:
  supervised = plugins.load("methods", name).Model().supervised
  return "fully_supervised" if supervised else "continual"


# What takes minutes of compilation together is left to `pytest -m long`: methods of big functions;
# of trained ones what vmap compiles anew, and all settings but one: continual, which tests after
# its first task what unsupervised does, or fully_supervised. That one of the largest is left too.
LARGEST = (
  *("draem", "efficientad", "favae", "gcad", "igd"),
  *("prn", "regad", "semirest", "uniad"),
)
LARGE = ("bgad", "csflow", "cutpaste", "devnet", "dne", "dra", *LARGEST)
PATIENT = [long((n,), n in LARGE) for n in METHODS]
VMAPPED = [long((n,), trained(n)) for n in METHODS]
RUNS = [
  long((n, s), n in LARGEST or (trained(n) and s != own(n)))
  for n in METHODS
  for s in plugins.names("settings")
]


@pytest.mark.parametrize("name", PATIENT)
def test_padding_changes_nothing(name):
  update, finish, _ = jitted(name)
  valid = [True, True, False, False]
  one = update(first_state(name), batch(name, [0, 1, 2, 3], valid))
  two = update(first_state(name), batch(name, [0, 1, 5, 7], valid))
  assert_same_bits(one, two)
  assert_same_bits(finish(one[0]), finish(two[0]))


@pytest.mark.parametrize("name", [long((n,), False) for n in METHODS])
def test_an_epoch_is_compiled_once_since_no_state_has_weak_types(name):
  built, params = training.build(name, kw(name)), features.backbone("efficientnet_lite0").params
  first = jax.eval_shape(lambda p: built.init(jax.random.key(0), spec(name), p), params)
  last = jax.eval_shape(built.finish, first)
  assert not any(x.weak_type for x in jax.tree.leaves((first, last)))


@pytest.mark.parametrize("name", PATIENT)
def test_scores_have_their_shapes_and_do_not_see_labels(name):
  score = jitted(name)[2]
  a = score(learnt(name), batch(name, range(10, 14)))
  b = score(learnt(name), batch(name, range(10, 14), label=1))
  assert a.image.shape == (4,) and a.image.dtype == jnp.float32
  assert a.pixel is None or (a.pixel.shape == (4, SIZE, SIZE) and a.pixel.dtype == jnp.float32)
  assert all(np.isfinite(x).all() for x in jax.tree.leaves(a))
  assert_same_bits(a, b)


@pytest.mark.parametrize("name", METHODS)
def test_no_score_calls_lapack(name):
  """Its calls wait, within `shard_map`, for threads that they hold; see `gaussian.whitening`."""
  state = jax.eval_shape(lambda: first_state(name))
  assert "@lapack" not in jitted(name)[2].lower(state, batch(name, range(4))).as_text()


@pytest.mark.parametrize("name", PATIENT)
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


@pytest.mark.parametrize("name", PATIENT)
def test_same_seed_same_bits(name):
  again = learnt.__wrapped__(name)
  assert_same_bits(learnt(name), again)


@pytest.mark.parametrize("name", VMAPPED)
def test_vmap_over_seeds_equals_a_loop(name):
  m, update, finish, score = method(name), *jitted(name)
  params = features.backbone("efficientnet_lite0").params
  keys = jax.random.split(jax.random.key(0), 2)
  start = jax.jit(lambda key: m.init(key, spec(name), params))
  alone, at_once = [start(key) for key in keys], jax.jit(jax.vmap(start))(keys)
  learn = jax.jit(jax.vmap(m.update, (0, None)))
  for first in (0, 4):
    told = batch(name, range(first, first + 4))
    alone = [update(state, told)[0] for state in alone]
    at_once, _ = learn(at_once, told)
  tested = batch(name, range(10, 14))
  loop = jnp.stack([score(finish(state), tested).image for state in alone])
  at_once = jax.jit(jax.vmap(m.finish))(at_once)
  together = jax.jit(jax.vmap(m.score, (0, None)))(at_once, tested).image
  atol = 5e-3 * float(jnp.abs(loop).max())
  np.testing.assert_allclose(together, loop, rtol=0, atol=atol)


@pytest.mark.parametrize("name", PATIENT)
def test_state_survives_a_checkpoint_bit_for_bit(name, tmp_path):
  state = learnt(name)
  with ocp.StandardCheckpointer() as checkpointer:
    checkpointer.save(tmp_path / "state", state)
    checkpointer.wait_until_finished()
    assert_same_bits(state, checkpointer.restore(tmp_path / "state", state))


@pytest.mark.parametrize(("name", "setting"), RUNS)
def test_every_method_runs_in_every_setting_and_finds_blots(name, setting):
  store = pictures.Store(tasks=2, bad=8)
  setting_kw = {"fully_supervised": {"anomalies": 2}, "few_shot": {"shots": 12}}.get(setting, {})
  groups = plugins.load("settings", setting).runs(("c0", "c1"), False)
  m = plugins.load("methods", name).Model(**kw(name, size=64))
  for group in groups:
    run = Run("pictures", group, setting, setting_kw, name, kw(name, size=64), 0)
    refusal = "told as such" if m.needs_anomalies and setting != "fully_supervised" else ""
    refusal = "no others" if m.needs_others and len(group) == 2 else refusal
    if refusal:
      with pytest.raises(UserError, match=refusal):
        next(engine.run(run, store))
      continue
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
