"""DRAEM: a network that restores an image, and one that sees from both where it was not normal.

Zavrtanik, Kristan, Skocaj: DRAEM - A Discriminatively Trained Reconstruction Embedding for Surface
Anomaly Detection. ICCV 2021, arXiv 2108.07610. Follows the authors' code: textures are pasted
through thresholded Perlin noise into normal images; an auto-encoder learns to undo it (L2 and
SSIM), and a U-Net to segment it (focal loss) from the restored image and the given one. Both begin
untrained, so that the backbone is not looked at: it is one that is always there.

What differs: the authors paste pictures of the Describable Textures Dataset. Name its folder as
`textures` (the name is recorded with the result, the pictures are not) and at most `sources` of
them are; else as many are drawn (imiad_jax/textures.py). Images are RGB, where theirs are BGR,
which the networks learn alike, and are squashed to size with antialiasing. Rotation takes the
nearest pixel. An epoch sees each image once; theirs draws as many with replacement. How far the
operations on textures are theirs, imiad_jax/distortions.py says. In a later task both networks go
on, and the steps of the learning rate begin again.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn
from jaxtyping import Array, Bool, Float, UInt8

from imiad_jax import distortions, images
from imiad_jax import textures as library
from imiad_jax.heads import unet
from imiad_jax.plugins import need
from imiad_jax.types import Batch, Logs, Method, Scores, Spec

VERSION = "1"
SMALL = {  # two and a half minutes on two CPU cores, which is far from what it needs
  "size": 64,
  "width": 8,
  "marks": 8,
  "epochs": 160,
  "lr": 1e-3,
  "sources": 128,
  "rotated": 0.0,
  "window": 3,
}


class State(NamedTuple):
  """n textures, as bytes."""

  params: Any  # {"restore": ..., "segment": ...}
  averages: Any  # of batch norm: the same two
  optimiser: Any
  textures: UInt8[Array, "n h w 3"]
  key: Array


def structural(
  a: Float[Array, "b h w c"], b: Float[Array, "b h w c"], span: float | Float[Array, ""] = 1.0
) -> Float[Array, " b"]:
  """Returns each image's mean SSIM, in [-1,1]; `span` is the range of its values.

  11x11 Gaussian window of sigma 1.5 with zeros outside the image (Wang et al., 2004).
  """

  def window(n: int) -> np.ndarray:
    t = np.arange(n, dtype=np.float64)
    apart = t[:, None] - t
    return np.where(abs(apart) <= 5, np.exp(-0.5 * (apart / 1.5) ** 2), 0) / sum(
      np.exp(-0.5 * (k / 1.5) ** 2) for k in range(-5, 6)
    )

  c = a.shape[-1]
  x = jnp.concatenate([a, b, a * a, b * b, a * b], axis=-1)
  for axis in (1, 2):
    weights = jnp.asarray(window(x.shape[axis]), jnp.float32)
    x = jnp.tensordot(x, weights, axes=(axis, 1), precision=jax.lax.Precision.HIGHEST)
    x = jnp.moveaxis(x, -1, axis)
  mean_a, mean_b, square_a, square_b, product = (x[..., i * c : (i + 1) * c] for i in range(5))
  c1, c2 = (0.01 * span) ** 2, (0.03 * span) ** 2
  mean = (2 * mean_a * mean_b + c1) / (mean_a**2 + mean_b**2 + c1)
  variance = square_a - mean_a**2 + square_b - mean_b**2
  structure = (2 * (product - mean_a * mean_b) + c2) / (variance + c2)
  return jnp.mean(mean * structure, axis=(1, 2, 3))


def focal(
  logits: Float[Array, "b h w 2"], mask: Bool[Array, "b h w"], smooth: float = 1e-5
) -> Float[Array, " b"]:
  """Returns each image's mean of -(1 - p)^2 log p, p the probability of the class that is right.

  As the authors' code has it: p is mixed with `smooth` of the other class, then raised by it.
  """
  right = jnp.stack([~mask, mask], axis=-1).astype(logits.dtype)
  p = jnp.sum(jnp.clip(right, smooth, 1 - smooth) * nn.softmax(logits), axis=-1) + smooth
  return jnp.mean(-((1 - p) ** 2) * jnp.log(p), axis=(1, 2))


def losses(
  restored: Float[Array, "b h w 3"],
  clean: Float[Array, "b h w 3"],
  logits: Float[Array, "b h w 2"],
  mask: Bool[Array, "b h w"],
  valid: Bool[Array, " b"],
) -> Logs:
  """Returns what is minimised, the sum of its parts, each a mean over the valid images."""
  lowest = jnp.min(restored, where=valid[:, None, None, None], initial=jnp.inf)
  span = jnp.where(lowest < -0.5, 2.0, 1.0)  # the authors' guess at the range of the values
  parts = {
    "l2": jnp.mean(jnp.square(restored - clean), axis=(1, 2, 3)),
    "ssim": 1 - structural(restored, clean, span),
    "focal": focal(logits, mask),
  }
  return {k: jnp.sum(jnp.where(valid, v, 0)) / jnp.sum(valid) for k, v in parts.items()}


def smoothed_maximum(x: Float[Array, "b h w"], window: int) -> Float[Array, " b"]:
  """Returns the largest mean of window x window pixels, with zeros outside the map."""
  pad = (window // 2, window // 2)
  size, strides, pads = (1, window, window), (1, 1, 1), ((0, 0), pad, pad)
  total = jax.lax.reduce_window(x, 0.0, jax.lax.add, size, strides, pads)
  return jnp.max(total, axis=(1, 2)) / window**2


def corrupt(
  key: Array, image: Float[Array, "h w 3"], stack: UInt8[Array, "n h w 3"], rotated: float
) -> tuple[Float[Array, "h w 3"], Float[Array, "h w 3"], Bool[Array, "h w"]]:
  """Returns an image to learn from, clean; the same with, or in half of the cases without, a
  texture of the stack pasted; and where that is.
  """
  coin_key, turn_key, angle_key, paste_key = jax.random.split(key, 4)
  angle = jax.random.uniform(angle_key, minval=-jnp.pi / 2, maxval=jnp.pi / 2)
  turned = jax.random.bernoulli(turn_key, rotated)
  clean = jax.lax.cond(turned, images.rotate, lambda x, _: x, image, angle)

  def paste(clean: Array) -> tuple[Array, Array]:
    pick_key, distort_key, blot_key, blend_key = jax.random.split(paste_key, 4)
    texture = stack[jax.random.randint(pick_key, (), 0, len(stack))].astype(jnp.float32) / 255
    texture = distortions.distort(distort_key, texture)
    mask = library.blots(blot_key, *image.shape[:2])
    beta = jax.random.uniform(blend_key, maxval=0.8)
    return jnp.where(mask[..., None], beta * clean + (1 - beta) * texture, clean), mask

  nowhere = jnp.zeros(image.shape[:2], bool)
  coin = jax.random.bernoulli(coin_key)
  return clean, *jax.lax.cond(coin, paste, lambda x: (x, nowhere), clean)


def both(
  nets: tuple[unet.Restorer, unet.Segmenter],
  params: Any,
  averages: Any,
  image: Float[Array, "b h w 3"],
  valid: Bool[Array, " b"] | None,
) -> tuple[Float[Array, "b h w 3"], Float[Array, "b h w 2"], Any]:
  """Returns the restored images, the logits, and what batch norm remembers then."""

  def run(name: str, net: nn.Module, x: Array) -> tuple[Array, Any]:
    variables = {"params": params[name], "batch_stats": averages[name]}
    y, kept = net.apply(variables, x, valid, mutable=["batch_stats"])
    return y, kept["batch_stats"]

  restored, restore = run("restore", nets[0], image)
  logits, segment = run("segment", nets[1], jnp.concatenate([restored, image], axis=-1))
  return restored, logits, {"restore": restore, "segment": segment}


def Model(
  backbone: str = "efficientnet_lite0",
  textures: str = "",
  sources: int = 512,
  size: int = 256,
  width: int = 128,
  marks: int = 64,
  epochs: int = 700,
  batch: int = 8,
  lr: float = 1e-4,
  rotated: float = 0.3,
  window: int = 21,
) -> Method:
  """Builds DRAEM.

  Args:
    backbone: is not used; its weights are recorded with the result all the same.
    textures: a folder with pictures in it or below, to be pasted; empty for drawn textures.
    sources: most textures kept, each size x size x 3 bytes.
    size: height and width of the images, a multiple of 32.
    width: base width of the network that restores.
    marks: base width of the network that segments.
    epochs: passes over each task; the learning rate falls to a fifth after 80 % and 90 % of them.
    batch: images at once.
    lr: learning rate of Adam at a task's first epoch.
    rotated: the share of images turned, by up to 90 degrees either way, before anything else.
    window: side of the average whose maximum is the image's score, odd.

  Raises:
    ValueError: a hyperparameter outside its range.
    UserError: a folder of textures without pictures.
  """
  need(sources >= 1, "sources", sources, "at least 1")
  need(size >= 32 and size % 32 == 0, "size", size, "a multiple of 32")
  need(width >= 1, "width", width, "at least 1")
  need(marks >= 1, "marks", marks, "at least 1")
  need(lr >= 0, "lr", lr, "at least 0")
  need(0 <= rotated <= 1, "rotated", rotated, "between 0 and 1")
  need(window >= 1 and window % 2 == 1, "window", window, "odd and at least 1")
  found = library.read(textures, sources, size) if textures else None
  nets = unet.Restorer(width), unet.Segmenter(marks)
  optimiser = optax.scale_by_adam()

  def init(key: Array, spec: Spec, pretrained) -> State:
    del spec, pretrained
    key, restore_key, segment_key, texture_key = jax.random.split(key, 4)
    made = {
      "restore": unet.begin(restore_key, nets[0], 3),
      "segment": unet.begin(segment_key, nets[1], 6),
    }
    params = {k: v["params"] for k, v in made.items()}
    stack = library.stack(texture_key, sources, size, size) if found is None else jnp.asarray(found)
    averages = {k: v["batch_stats"] for k, v in made.items()}
    return State(params, averages, optimiser.init(params), stack, key)

  def update(state: State, batch: Batch) -> tuple[State, Logs]:
    key, draw_key = jax.random.split(state.key)
    keys = jax.random.split(draw_key, len(batch.valid))
    # One after the other, so that of all operations only those drawn are done.
    clean, image, mask = jax.lax.map(
      lambda x: corrupt(x[0], x[1], state.textures, rotated), (keys, batch.image)
    )

    def loss(params: Any) -> tuple[Array, tuple[Any, Logs]]:
      restored, logits, averages = both(nets, params, state.averages, image, batch.valid)
      parts = losses(restored, clean, logits, mask, batch.valid)
      return parts["l2"] + parts["ssim"] + parts["focal"], (averages, parts)

    gradient, (averages, parts) = jax.grad(loss, has_aux=True)(state.params)
    step, opt = optimiser.update(gradient, state.optimiser, state.params)
    late = (batch.epoch >= 0.8 * epochs).astype(jnp.int32) + (batch.epoch >= 0.9 * epochs)
    rate = lr * 0.2**late
    params = jax.tree.map(lambda x, dx: x - rate * dx, state.params, step)
    return state._replace(params=params, averages=averages, optimiser=opt, key=key), parts

  def finish(state: State) -> State:
    return state

  def score(state: State, batch: Batch) -> Scores:
    _, logits, _ = both(nets, state.params, state.averages, batch.image, None)
    pixel = nn.softmax(logits)[..., 1]
    return Scores(smoothed_maximum(pixel, window), pixel)

  return Method(init, update, finish, score, backbone, (), size, batch, epochs)
