"""What tests of methods share: tiny models of each, batches of noise, a State that has learnt.

The tests of a method stand in test_<method>.py, which says in TINY which hyperparameters, beside
SMALL, they can pay for.
"""

import functools
import importlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from imiad_jax import features, plugins, training
from imiad_jax.errors import UserError
from imiad_jax.types import Batch, Spec
from tests.parity import seeded

SIZE = 32


def kw(name: str, **more):
  """Hyperparameters that a test can pay for."""
  module = plugins.load("methods", name)
  tiny = importlib.import_module(f"tests.methods.test_{name}").TINY
  small = {"backbone": "efficientnet_lite0"} | module.SMALL | {"size": SIZE, "batch": 4} | tiny
  return plugins.resolve(name, module.Model, small | more)


@functools.cache
def method(name: str):
  return plugins.load("methods", name).Model(**kw(name))


@functools.cache
def spec(name: str, n: int = 8, tasks: int = 2) -> Spec:
  net = features.backbone("efficientnet_lite0")
  return Spec((SIZE, SIZE, 3), features.shapes(net, method(name).stages, SIZE), n, tasks)


def first_state(name: str, seed: int = 0, **more):
  params = features.backbone("efficientnet_lite0").params
  return training.build(name, kw(name)).init(jax.random.key(seed), spec(name, **more), params)


@functools.cache
def jitted(name: str):
  m = method(name)
  return jax.jit(m.update), jax.jit(m.finish), jax.jit(m.score)


def batch(name: str, rows, valid=None, label=None, seed=0) -> Batch:
  """Images are a function of their row, and so are the features.

  A method that uses labels is told, unless `label` says otherwise, that each row of odd number has
  a defect in its middle.
  """
  images = [np.random.default_rng((seed, r)).random((SIZE, SIZE, 3)) for r in rows]
  image = np.stack(images).astype(np.float32)
  found = {}
  if method(name).stages:
    found = frozen(name, image)
  valid = np.ones(len(rows), bool) if valid is None else np.asarray(valid)
  told = np.zeros(len(rows), np.int32) if label is None else np.full(len(rows), label, np.int32)
  if method(name).supervised and label is None:
    told = np.asarray(rows, np.int32) % 2
  region = np.zeros((len(rows), SIZE, SIZE), np.int32)
  middle = slice(SIZE // 4, SIZE // 2)
  region[:, middle, middle] = told[:, None, None]
  row = np.where(valid, rows, spec(name).max_train).astype(np.int32)
  return Batch(*map(jnp.asarray, (image, told, region, row, 0, valid)), found)


def seeded_batch(grids, number: int, images: int, size: int) -> Batch:
  """A batch as parity/stand_in.py gives it: grids have side and channels, images are empty."""
  found = {
    stage: jnp.asarray(seeded.tensor(f"{number}/{stage}", (images, s * s, c))).reshape(-1, s, s, c)
    for stage, (s, c) in grids.items()
  }
  row, none = images * number + jnp.arange(images), jnp.zeros(images, jnp.int32)
  image, region = jnp.zeros((images, size, size, 3)), jnp.zeros((images, size, size), jnp.int32)
  return Batch(image, none, region, row, jnp.int32(0), jnp.ones(images, bool), found)


def seeded_spec(grids, size: int, n: int, tasks: int = 1) -> Spec:
  """The sizes of what `seeded_batch` gives, of n training images."""
  return Spec((size, size, 3), tuple((k, (s, s, c)) for k, (s, c) in grids.items()), n, tasks)


def close(got, wanted):
  """Equal but for a hundred-thousandth of the largest number."""
  np.testing.assert_allclose(got, wanted, rtol=0, atol=1e-5 * np.abs(wanted).max())


def frozen(name: str, image):
  """The frozen features of images that a method asks for."""
  out = _backbone(features.backbone("efficientnet_lite0").params, image)
  return {s: out[s] for s in method(name).stages}


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


def assert_refused(name, wrong):
  """The first hyperparameter of `wrong`, or the first of its values, is named in the error."""
  with pytest.raises(UserError) as e:
    training.check(training.build(name, kw(name, **wrong)))
  (given, value), *_ = wrong.items()
  named = value[0] if isinstance(value, tuple) and value else given
  assert named in str(e.value)
