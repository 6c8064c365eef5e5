"""Reverse distillation: a pyramid of features through a bottleneck, and from there built anew.

Notation: the stages of a pyramid are finest first, each with half the grid of the one before. Both
halves are ResNets, of bottleneck blocks whose inner convolution has the share `inner` of their
channels, or where `inner` is None of basic blocks. None of their convolutions has a bias.
"""

import functools
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from imiad_jax.heads.layers import Conv, Norm, Transposed, fan_out

Layer = Callable[..., nn.Module]

_conv = functools.partial(Conv, bias=False, start=fan_out)
_halve = functools.partial(_conv, size=3, stride=2, padding=1)
_double = functools.partial(Transposed, size=2, stride=2, bias=False)
_halve_alone = functools.partial(_conv, size=1, stride=2)


class Block(nn.Module):
  """A residual block, [b,h,w,c] to [b,h',w',features], without its last ReLU.

  `middle` is the convolution that sees more than one cell and may change the grid; `shortcut`, if
  any, brings the input to the same shape.
  """

  features: int
  inner: float | None
  middle: Layer = functools.partial(_conv, size=3, padding=1)
  shortcut: Layer | None = None

  @nn.compact
  def __call__(
    self, x: Float[Array, "b h w c"], valid: Bool[Array, " b"] | None
  ) -> Float[Array, "b h2 w2 features"]:
    """Returns the block's output; its ReLU is left to whoever takes it."""
    if self.inner is None:
      layers = [self.middle(self.features), _conv(self.features, 3, padding=1)]
    else:
      width = int(self.features * self.inner)
      layers = [_conv(width, 1), self.middle(width), _conv(self.features, 1)]
    y = x
    for i, layer in enumerate(layers):
      y = Norm()(layer(y if i == 0 else jax.nn.relu(y)), valid)
    return y + (x if self.shortcut is None else Norm()(self.shortcut(self.features)(x), valid))


class Stage(nn.Module):
  """As many blocks as `depth`, of which the first changes the grid."""

  features: int
  depth: int
  inner: float | None
  middle: Layer
  shortcut: Layer

  @nn.compact
  def __call__(
    self, x: Float[Array, "b h w c"], valid: Bool[Array, " b"] | None
  ) -> Float[Array, "b h2 w2 features"]:
    """Returns the last block's output, without its ReLU."""
    x = Block(self.features, self.inner, self.middle, self.shortcut)(x, valid)
    for _ in range(1, self.depth):
      x = Block(self.features, self.inner)(jax.nn.relu(x), valid)
    return x


class Bottleneck(nn.Module):
  """One-class embedding: all stages brought to the coarsest grid, then halved once more."""

  depth: int
  inner: float | None

  @nn.compact
  def __call__(
    self, stages: tuple[Float[Array, "b _h _w _c"], ...], valid: Bool[Array, " b"] | None
  ) -> Float[Array, "b h w d"]:
    """Returns the embedding, of half the coarsest grid and twice its channels."""
    channels = [x.shape[-1] for x in stages]
    fused = []
    for i, x in enumerate(stages):
      for features in channels[i + 1 :]:
        x = jax.nn.relu(Norm()(_halve(features)(x), valid))
      fused.append(x)
    stage = Stage(2 * channels[-1], self.depth, self.inner, _halve, _halve_alone)
    return jax.nn.relu(stage(jnp.concatenate(fused, -1), valid))


class Decoder(nn.Module):
  """A ResNet backwards: each stage doubles the grid."""

  channels: tuple[int, ...]  # of the stages, finest first
  depths: tuple[int, ...]  # blocks of each stage, coarsest first
  inner: float | None

  @nn.compact
  def __call__(
    self, x: Float[Array, "b h w c"], valid: Bool[Array, " b"] | None
  ) -> tuple[Float[Array, "b _h _w _c"], ...]:
    """Returns the stages built from an embedding, finest first, without their last ReLU."""
    stages = []
    for features, depth in zip(reversed(self.channels), self.depths, strict=True):
      x = Stage(features, depth, self.inner, _double, _double)(jax.nn.relu(x), valid)
      stages.insert(0, x)
    return tuple(stages)


class Reversed(nn.Module):
  """A bottleneck and a decoder after it: a pyramid to one of the same shapes.

  `depths` are the blocks of the bottleneck, then of the decoder's stages, coarsest first.
  """

  depths: tuple[int, ...]
  inner: float | None

  @nn.compact
  def __call__(
    self, stages: tuple[Float[Array, "b _h _w _c"], ...], valid: Bool[Array, " b"] | None
  ) -> tuple[Float[Array, "b _h _w _c"], ...]:
    """Returns the stages built anew, finest first, without their last ReLU."""
    z = Bottleneck(self.depths[0], self.inner, name="bottleneck")(stages, valid)
    channels = tuple(x.shape[-1] for x in stages)
    return Decoder(channels, self.depths[1:], self.inner, name="decoder")(z, valid)
