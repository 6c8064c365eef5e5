"""Arrays over devices: one mesh with one axis, "data", along which rows are split.

The package uses `jax.jit` with `NamedSharding`, and `jax.shard_map`, instead of `jax.pmap`: pmap is
in maintenance mode and is itself implemented so.
"""

from typing import TypeVar

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

AXIS = "data"
Tree = TypeVar("Tree")


def count() -> int:
  """Returns the number of devices, to a multiple of which the rows of a batch are padded."""
  return jax.device_count()


def mesh() -> Mesh:
  """Returns the mesh of all devices. Meshes of two calls are equal, so jit compiles once."""
  return Mesh(np.asarray(jax.devices()), (AXIS,), axis_types=(AxisType.Auto,))


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
