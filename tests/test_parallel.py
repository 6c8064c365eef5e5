"""Splitting and copying over however many devices there are."""

import jax
import numpy as np
import pytest

from imiad_jax import parallel


def test_the_mesh_is_one_axis_over_all_devices():
  mesh = parallel.mesh()
  assert mesh.axis_names == ("data",)
  assert list(mesh.devices) == jax.devices()
  assert parallel.count() == mesh.size == len(jax.devices())
  assert mesh == parallel.mesh()


def test_shard_splits_the_leading_axis():
  n = 2 * parallel.count()
  tree = {"a": np.arange(3 * n).reshape(n, 3), "b": np.arange(n) % 2 == 0}
  split = parallel.shard(tree)
  for k, x in split.items():
    assert [s.data.shape[0] for s in x.addressable_shards] == [2] * parallel.count()
    np.testing.assert_array_equal(x, tree[k])


def test_shard_refuses_what_it_cannot_split():
  with pytest.raises(ValueError, match=r"divi|rank"):
    parallel.shard(np.zeros(parallel.count() + 1) if parallel.count() > 1 else np.float32(0))


def test_replicate_copies_everything():
  x = parallel.replicate((np.arange(5.0),))[0]
  assert [s.data.shape for s in x.addressable_shards] == [(5,)] * parallel.count()
  assert x.is_fully_replicated


def test_a_step_keeps_the_rows_where_they_are():
  x = parallel.shard(np.ones((2 * parallel.count(), 4), np.float32))
  w = parallel.replicate(np.ones((4, 3), np.float32))
  y, total = parallel.block(jax.jit(lambda x, w: (x @ w, (x @ w).sum()))(x, w))
  assert y.sharding.is_equivalent_to(x.sharding, 2)
  assert float(total) == 2 * parallel.count() * 4 * 3


@pytest.mark.parametrize("n", range(1, 2000, 37))
def test_buckets_hold_and_waste_at_most_a_quarter(n):
  assert n <= parallel.bucket(n) <= max(8, 1.25 * n + 1)
  assert parallel.bucket(parallel.bucket(n)) == parallel.bucket(n)
  assert parallel.room(n) == (parallel.room(1) if n <= 96 else parallel.bucket(n))
