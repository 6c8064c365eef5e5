"""Anomalies whose masks are told: kept, and pasted on normal images, so that there are more.

Notation: a images kept at most, n images drawn, h and w pixels. What is kept is of one task, and is
met in its first epoch.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, UInt8

from imiad_jax import images, textures
from imiad_jax.types import Batch

_MOVED, _SCALED = 1 / 16, 0.2  # albumentations' ShiftScaleRotate, as its defaults and as used
_TURNED = jnp.pi / 4


class Memory(NamedTuple):
  """Anomalous images and where their defects are."""

  image: UInt8[Array, "a h w 3"]
  mask: Bool[Array, "a h w"]
  count: Array  # [] int32: of them, how many are used


class Drawn(NamedTuple):
  """Anomalous images to learn from."""

  image: Float[Array, "n h w 3"]
  mask: Bool[Array, "n h w"]
  there: Bool[Array, " n"]  # whether they are: none is where none was told
  row: Int[Array, " n"]  # training row of the normal image beneath; -1 for none


def begin(kept: int, height: int, width: int) -> Memory:
  """Returns a memory with room for so many images and none in it."""
  shape = (kept, height, width)
  return Memory(jnp.zeros((*shape, 3), jnp.uint8), jnp.zeros(shape, bool), jnp.int32(0))


def forget(memory: Memory) -> Memory:
  """Returns the memory as a task begins with it."""
  return memory._replace(count=jnp.zeros_like(memory.count))


def remember(memory: Memory, batch: Batch) -> Memory:
  """Keeps the batch's anomalous images with masks, in the first epoch and while there is room."""
  mask = batch.region > 0
  new = batch.valid & (batch.epoch == 0) & jnp.any(mask, axis=(1, 2))
  place = jnp.where(new, memory.count + jnp.cumsum(new) - 1, len(memory.image))
  image = jnp.round(255 * batch.image).astype(jnp.uint8)
  return Memory(
    image=memory.image.at[place].set(image, mode="drop"),
    mask=memory.mask.at[place].set(mask, mode="drop"),
    count=jnp.minimum(memory.count + jnp.sum(new), len(memory.image)),
  )


def known(batch: Batch) -> Bool[Array, " b"]:
  """Returns for which images of a batch it is told of each pixel whether it is normal."""
  return batch.valid & ((batch.label == 0) | jnp.any(batch.region > 0, axis=(1, 2)))


def to_grid(mask: Bool[Array, "b h w"], shape: tuple[int, ...]) -> Bool[Array, "b h2 w2"]:
  """Resizes masks to `shape` (h2, w2) as PyTorch's "nearest" does: the first pixel of each cell."""
  rows, columns = (jnp.arange(m) * n // m for n, m in zip(mask.shape[1:], shape, strict=True))
  return mask[:, rows][:, :, columns]


def beneath(key: Array, batch: Batch) -> tuple[Float[Array, "h w 3"], Array, Bool[Array, ""]]:
  """Returns a random normal image of a batch and its row, and whether there is one."""
  normal = batch.valid & (batch.label == 0)
  place = jnp.argmax(jnp.where(normal, jax.random.uniform(key, normal.shape), -1))
  return batch.image[place], batch.row[place], jnp.any(normal)


def draw(key: Array, memory: Memory, batch: Batch, n: int, pasted: float = 0.5) -> Drawn:
  """Draws anomalous images: as they are, or with probability `pasted` only their defects, each on
  a normal image of the batch.
  """

  def one(key: Array) -> Drawn:
    which_key, coin_key, under_key, paste_key = jax.random.split(key, 4)
    which = jax.random.randint(which_key, (), 0, jnp.maximum(memory.count, 1))
    image, mask = memory.image[which].astype(jnp.float32) / 255, memory.mask[which]
    under, row, there = beneath(under_key, batch)
    coin = jax.random.bernoulli(coin_key, pasted) & there
    new, where = paste(paste_key, image, mask, under)
    raw = Drawn(image, mask, memory.count > 0, jnp.int32(-1))
    return jax.tree.map(lambda a, b: jnp.where(coin, a, b), Drawn(new, where, raw.there, row), raw)

  return jax.vmap(one)(jax.random.split(key, n))


def cloudy(key: Array, n: int, height: int, width: int) -> UInt8[Array, "n h w 3"]:
  """Draws n textures to be pasted where no pictures are given: clouds in a few colours."""

  def one(key: Array) -> Array:
    cloud_key, colour_key = jax.random.split(key)
    drawn = textures.coloured(colour_key, textures.clouds(cloud_key, height, width))
    return jnp.round(255 * drawn).astype(jnp.uint8)

  return jax.lax.map(one, jax.random.split(key, n))


def textured(key: Array, stack: UInt8[Array, "m h w 3"], batch: Batch, n: int) -> Drawn:
  """Draws normal images of a batch on which a texture is pasted, as DRAEM does it.

  Where Perlin noise is high, mixed with the image by a share of U(0, 0.8); of the operations that
  change its colours only jitter is left.
  """

  def one(key: Array) -> Drawn:
    under_key, which_key, jitter_key, blot_key, share_key = jax.random.split(key, 5)
    under, row, there = beneath(under_key, batch)
    texture = stack[jax.random.randint(which_key, (), 0, len(stack))].astype(jnp.float32) / 255
    mask = textures.blots(blot_key, *under.shape[:2])
    share = jax.random.uniform(share_key, maxval=0.8)
    mixed = share * under + (1 - share) * images.jitter(jitter_key, texture)
    return Drawn(jnp.where(mask[..., None], mixed, under), mask, there, row)

  return jax.vmap(one)(jax.random.split(key, n))


def paste(
  key: Array, image: Float[Array, "h w 3"], mask: Bool[Array, "h w"], under: Float[Array, "h w 3"]
) -> tuple[Float[Array, "h w 3"], Bool[Array, "h w"]]:
  """Pastes a defect on another image; returns that and where the defect is then.

  It is mirrored or not and turned by 0, 90, 180 or 270 degrees about its centre; in one of two
  cases turned by U(-45, 45) degrees, scaled by U(0.8, 1.2) and moved by up to a 16th of the image
  along each axis too. Its colours are jittered.
  """
  mirror_key, quarter_key, coin_key, turn_key, jitter_key = jax.random.split(key, 5)
  height, width = mask.shape
  y, x = jnp.mgrid[:height, :width].astype(jnp.float32)
  total = jnp.maximum(jnp.sum(mask), 1)
  middle = jnp.sum(jnp.where(mask, jnp.stack([y, x]), 0), axis=(1, 2)) / total
  mirror = jnp.where(jax.random.bernoulli(mirror_key), -1.0, 1.0)
  quarter = jax.random.randint(quarter_key, (), 0, 4) * jnp.pi / 2
  turn, scale, *shift = jax.random.uniform(turn_key, (4,), minval=-1, maxval=1) * jnp.where(
    jax.random.bernoulli(coin_key), 1.0, 0.0
  )
  angle, scale = quarter + _TURNED * turn, 1 + _SCALED * scale
  # Each pixel takes what is, seen from the defect's centre, back along scale, turn and mirror.
  y = (y - middle[0] - _MOVED * height * shift[0]) / scale
  x = (x - middle[1] - _MOVED * width * shift[1]) / scale
  c, s = jnp.cos(angle), jnp.sin(angle)
  row = jnp.round(middle[0] + c * y + s * x).astype(jnp.int32)
  column = jnp.round(middle[1] + mirror * (c * x - s * y)).astype(jnp.int32)
  inside = (row >= 0) & (row < height) & (column >= 0) & (column < width)
  row, column = jnp.clip(row, 0, height - 1), jnp.clip(column, 0, width - 1)
  where = inside & mask[row, column]
  moved = images.jitter(jitter_key, image[row, column])
  return jnp.where(where[..., None], moved, under), where
