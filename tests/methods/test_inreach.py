"""InReaCh: pairs and channels against slow ones, what the bank leaves out, the authors' numbers."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from imiad_jax.methods import inreach
from imiad_jax.types import Batch, Spec
from tests.methods.common import assert_refused, batch, jitted, learnt

TINY = {"sigma": 4.0}  # of a picture that is a seventh as wide

STORED = Path(__file__).parent.parent / "parity" / "inreach.npz"


def patches(n=4, p=9, d=5, noise=0.3, seed=0):
  """Images [n,p,d] whose patches at one position are alike, one more than another."""
  rng = np.random.default_rng(seed)
  more = rng.exponential(noise, (n, p, 1)) * rng.normal(size=(n, p, d))
  return (rng.normal(size=(p, d)) + more).astype(np.float32)


def associate(x, seeds, rank):
  as_int = [jnp.asarray(v, jnp.int32) for v in (seeds, rank)]
  return np.asarray(jax.jit(inreach.associate)(jnp.asarray(x), *as_int))


def nominal(x, seeds, channel, shortest=3, spread=5.0):
  as_int = [jnp.asarray(v, jnp.int32) for v in (seeds, channel)]
  return np.asarray(inreach.nominal(jnp.asarray(x), *as_int, shortest, spread))


def slow_channels(x, seeds, rank):
  """The definition: a dictionary from (seed number, patch) to the (image, patch) in its channel."""
  channels = {}
  for b in range(len(x)):
    for i in range(x.shape[1]):
      found = []
      for a, seed in enumerate(seeds):
        if rank[b] > a:
          apart = np.linalg.norm(x[b, i] - x[seed], axis=1)
          y = int(apart.argmin())
          back = np.linalg.norm(x[b] - x[seed, y], axis=1).argmin()
          found.append((apart[y], back == i, a, y))
      if found and min(found)[1]:
        channels.setdefault(min(found)[2:], [(seeds[min(found)[2]], min(found)[3])]).append((b, i))
  return channels


def slow_nominal(x, channels, shortest, spread):
  kept = np.zeros(x.shape[:2], bool)
  lengths = []
  for members in channels.values():
    found = np.array([x[m] for m in members], np.float64)
    radius = np.linalg.norm(found - found.mean(0), axis=1)
    left = [m for m, r in zip(members, radius, strict=True) if r < spread * radius.std()]
    if len(left) > shortest:
      lengths.append(len(left))
      for m in left:
        kept[m] = True
  return kept, lengths


def test_channels_and_bank_are_those_of_the_definition():
  n, depth = 8, 3
  x = patches(n)
  rng = np.random.default_rng(1)
  order = rng.permutation(n)
  seeds, rank = order[:depth], np.argsort(order)
  slow = slow_channels(x, seeds, rank)
  got = associate(x, seeds, rank)
  assert 0 < (got < depth * 9).sum() < n * 9
  for b in range(n):
    for i in range(9):
      channel = next((k for k, members in slow.items() if (b, i) in members[1:]), None)
      assert got[b, i] == (depth * 9 if channel is None else channel[0] * 9 + channel[1])
  for shortest, spread in ((2, 5.0), (3, 1000.0), (3, 3.0)):
    kept, lengths = slow_nominal(x, slow, shortest, spread)
    np.testing.assert_array_equal(nominal(x, seeds, got, shortest, spread), kept)
    assert all(length > shortest for length in lengths)
  assert nominal(x, seeds, got, 2, 1000.0).any()


def test_pairs_are_the_same_from_either_side():
  x = patches(2, 30, noise=0.6)
  one, two = associate(x, [0], [0, 1])[1], associate(x, [1], [1, 0])[0]
  pairs = {(i, y) for i, y in enumerate(one.tolist()) if y < 30}
  assert pairs == {(y, i) for i, y in enumerate(two.tolist()) if y < 30}
  assert 5 < len(pairs) < 30


def test_patches_of_equal_images_are_paired_with_themselves():
  x = np.repeat(patches(1), 3, 0)
  got = associate(x, [0, 1], [0, 1, 2])
  np.testing.assert_array_equal(got, [np.full(9, 18), np.arange(9), np.arange(9)])


def test_absent_images_are_in_no_channel():
  x = patches(6)
  seeds, rank = inreach.draw(jax.random.key(0), jnp.arange(6) < 4, 5)
  assert sorted(rank[:4].tolist()) == [0, 1, 2, 3] and (rank[4:] == -1).all()
  np.testing.assert_array_equal(rank[seeds], [0, 1, 2, 3, -1])
  all_there = associate(x[:4], seeds[:4], rank[:4])
  some_absent = associate(x, seeds, rank)
  assert 9 < (all_there < 36).sum()
  np.testing.assert_array_equal(some_absent[:4], np.where(all_there < 36, all_there, 45))
  assert (some_absent[4:] == 45).all()


def test_a_planted_patch_is_not_in_the_bank():
  # Every image has its own, the seed images too; all other patches are alike.
  x = patches(8, noise=0.05)
  rng = np.random.default_rng(5)
  x[np.arange(8), np.arange(8)] = 20 * rng.normal(size=(8, 5))
  kept = nominal(x, [0, 1, 2], associate(x, [0, 1, 2], np.arange(8)), spread=1000.0)
  assert not kept[np.arange(8), np.arange(8)].any()
  assert kept.mean() > 0.6


def test_where_no_channel_is_left_all_patches_are_the_bank():
  update, finish, score = jitted("inreach")
  state, _ = update(learnt("inreach"), batch("inreach", [0, 1, 2, 3], [True, True, True, False]))
  state = finish(state)
  np.testing.assert_array_equal(state.bank.all(1), jnp.arange(8) < 3)
  known, other = (score(state, batch("inreach", [r])).pixel.max() for r in (0, 9))
  assert float(known) < 1e-3 * float(other)


def test_places_count_where_the_mean_image_is_not_its_transpose():
  image = jnp.zeros((6, 6, 3)).at[:3].set(0.5)
  # Half of the pixels are in one but not the other triangle of blocks: 9 + 9 of 36 differ by 127.5.
  np.testing.assert_allclose(inreach.turned(image), 0.5 * 127.5**2, rtol=1e-5)
  assert float(inreach.turned((image + jnp.swapaxes(image, 0, 1)) / 2)) == 0


def test_bank_and_map_are_those_of_the_authors_code(monkeypatch):
  # Their seed images are the first ones.
  first = lambda key, present, seeds: (jnp.arange(seeds), jnp.arange(len(present)))  # noqa: E731
  monkeypatch.setattr(inreach, "draw", first)
  with np.load(STORED) as stored:
    stored = dict(stored)
  found = {stage: jnp.asarray(stored[stage]) for stage in ("layer1", "layer2")}
  m = inreach.Model(stages=("layer1", "layer2"), size=24, dim=8, seeds=4, batch=12)
  shapes = tuple((stage, x.shape[1:]) for stage, x in found.items())
  update, finish, score = map(jax.jit, (m.update, m.finish, m.score))

  def rows(image, take):
    part = {stage: x[take] for stage, x in found.items()}
    n = len(part["layer1"])
    told = (jnp.zeros(n, jnp.int32), jnp.zeros((n, 24, 24), jnp.int32), jnp.arange(n))
    pixels = jnp.asarray(image[:n] / np.float32(255))
    return Batch(pixels, *told, jnp.int32(0), jnp.ones(n, bool), part)

  for placed in (0, 1):  # whether places count of images like these
    image = stored[f"image{placed}"]
    state = m.init(jax.random.key(0), Spec((24, 24, 3), shapes, 12, 1), {})
    state = finish(update(state, rows(image, slice(12)))[0])
    assert float(state.placed) == placed
    np.testing.assert_array_equal(state.bank, stored[f"kept{placed}"])
    pixel = score(state, rows(image, slice(12, 13))).pixel[0]
    np.testing.assert_allclose(pixel, stored[f"map{placed}"], rtol=1e-5)


@pytest.mark.parametrize(
  "wrong",
  [
    {"stages": ()},
    {"stages": ("embedding",)},
    {"dim": 0},
    {"seeds": 0},
    {"shortest": 0},
    {"spread": 0.0},
    {"place": -1.0},
    {"sigma": 0.0},
  ],
)
def test_nonsense_is_refused_by_name(wrong):
  assert_refused("inreach", wrong)
