"""Arrays over the devices of a process: one mesh with one axis, "data", along which rows are split.

The package uses `jax.jit` with `NamedSharding`, and `jax.shard_map`, instead of `jax.pmap`: pmap is
in maintenance mode and is itself implemented so.
"""

import functools
from collections.abc import Callable
from typing import Any, TypeVar

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

AXIS = "data"
Tree = TypeVar("Tree")


def count() -> int:
  """Returns the number of devices, to a multiple of which the rows of a batch are padded."""
  return jax.local_device_count()


def mesh() -> Mesh:
  """Returns the mesh of this process's devices. Meshes of two calls are equal: one compilation."""
  return Mesh(np.asarray(jax.local_devices()), (AXIS,), axis_types=(AxisType.Auto,))


def shard(tree: Tree) -> Tree:
  """Splits each array of a pytree over the devices along its leading axis.

  Raises:
    ValueError: (by JAX) a leading axis is not divisible by `count()`; the caller pads.
  """
  return jax.device_put(tree, NamedSharding(mesh(), PartitionSpec(AXIS)))


def replicate(tree: Tree) -> Tree:
  """Copies each array of a pytree to all devices."""
  return jax.device_put(tree, NamedSharding(mesh(), PartitionSpec()))


def block(tree: Tree) -> Tree:
  """Waits for a sharded computation where two in flight may hang, and returns its results.

  Several host devices (`--xla_force_host_platform_device_count`) share one pool of threads: two
  collectives in flight can each hold the threads that the other waits for.
  """
  if jax.default_backend() == "cpu" and count() > 1:
    jax.block_until_ready(tree)
  return tree


def pad(x: np.ndarray, rows: int) -> np.ndarray:
  """Appends zeros along the leading axis of a host array until it has `rows` rows."""
  return np.concatenate([x, np.zeros((rows - len(x), *x.shape[1:]), x.dtype)])


def bucket(n: int) -> int:
  """Rounds a number of rows up, so that tasks of like size share a compiled function."""
  step = max(8, 1 << max(0, n.bit_length() - 3))
  return -(-n // step) * step


def room(n: int) -> int:
  """Rounds up a number of rows of arrays that are only gathered from, `bucket` or more.

  Few rows get as much room as some more, so that settings of few and of many images share what is
  compiled.
  """
  return max(96, bucket(n))


def chunked(fn: Callable[[Any, Tree], Any], chunk: int) -> Callable[[Any, Tree], Any]:
  """Makes fn(fixed, rows) run over any number of rows, `chunk` rows a device at a time.

  Args:
    fn: maps a pytree that is the same for all rows (weights, a State), and a pytree of arrays with
      `chunk` rows, to a pytree of arrays with as many rows, each depending on its own row alone.
    chunk: rows that one device handles at once; one compilation serves every number of rows.

  Returns:
    A function of the same two arguments, for rows on the host; its results are NumPy arrays.
  """
  split, same = PartitionSpec(AXIS), PartitionSpec()
  shared = jax.shard_map(fn, mesh=mesh(), in_specs=(same, split), out_specs=split, check_vma=False)
  compiled = jax.jit(shared)
  size = chunk * count()

  def part(x: np.ndarray, first: int) -> np.ndarray:
    return pad(x[first : first + size], size)

  def call(fixed: Any, rows: Tree) -> Any:
    fixed = replicate(fixed)
    n = len(jax.tree.leaves(rows)[0])
    parts = [
      block(compiled(fixed, shard(jax.tree.map(functools.partial(part, first=first), rows))))
      for first in range(0, n, size)
    ]
    return jax.tree.map(lambda *x: np.concatenate([np.asarray(y) for y in x])[:n], *parts)

  return call
