"""FAVAE: a variational autoencoder whose decoder has to build a pretrained network's features too.

Dehaene, Eline: Anomaly localization by modeling perceptual features. 2020, arXiv 2008.05369. There
is no code by the authors; this follows the common PyTorch version, which takes plain sums of
squares without weights that the paper learns: an adapter rebuilds each feature map from the
decoder's layer of the same grid, and all errors at a pixel, of the image and of the features, are
its score. A later task goes on from these weights and the optimiser's state.

What differs: the decoder's image, which ends in a sigmoid, is compared with the image in [0,1]; the
benchmark's code compares it with standardised colours, which it cannot reach. Log variances are
clipped to where their exponentials are finite, which some first steps would leave. Any stages of
strides 2 to 16 may be rebuilt, of any backbone. Images of other sizes than 128 have a coarsest grid
other than 8 x 8.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float

from imiad_jax import images
from imiad_jax.errors import UserError
from imiad_jax.heads import maps
from imiad_jax.heads.layers import Conv, Norm, Transposed
from imiad_jax.plugins import need
from imiad_jax.types import Batch, Logs, Method, Scores, Spec

VERSION = "1"
# What two CPU cores can pay for.
SMALL = {
  "stages": ("layer2", "layer3"),
  "width": 16,
  "epochs": 60,
  "batch": 16,
}

_LOG_VAR = (-30.0, 20.0)  # of the latent numbers; the first steps can reach far beyond
_STRIDES = (16, 8, 4, 2)  # of the decoder's layers that features are rebuilt from


class State(NamedTuple):
  """What is trained."""

  params: Any  # of Network
  batch_stats: Any  # its running statistics
  optimiser: Any
  key: Array


class Rebuilt(NamedTuple):
  """What the network makes of images."""

  image: Float[Array, "b h w 3"]
  features: tuple[Float[Array, "b _h _w _c"], ...]  # as many as Network has channels
  mean: Float[Array, "b d"]  # of the latent numbers given the image
  log_var: Float[Array, "b d"]


def divergence(mean: Float[Array, "*b d"], log_var: Float[Array, "*b d"]) -> Float[Array, "*b"]:
  """KL divergence of N(mean, exp(log_var)) from N(0, 1), summed over the d numbers."""
  return 0.5 * jnp.sum(jnp.square(mean) + jnp.exp(log_var) - log_var - 1, -1)


class Network(nn.Module):
  """Encoder, decoder and adapters."""

  width: int  # of the finest layers; the coarsest have four times as many channels
  latent: int  # d
  channels: tuple[int, ...]  # of the feature maps
  strides: tuple[int, ...]  # of the same, each in _STRIDES

  @nn.compact
  def __call__(
    self,
    x: Float[Array, "b h w 3"],
    noise: Float[Array, "b d"],
    valid: Bool[Array, " b"] | None,
  ) -> Rebuilt:
    """Rebuilds images of standardised colours, given standard normal noise, 0 to evaluate."""
    w, grid = self.width, x.shape[1] // 16

    def layer(kind: Any, x: Array, features: int, *shape: int) -> Array:
      return kind(features, *shape)(nn.leaky_relu(Norm()(x, valid), 0.2))

    x = Conv(w, 4, 2, 1)(x)
    x = layer(Conv, x, w, 4, 2, 1)
    x = layer(Conv, x, 2 * w, 3, 1, 1)
    x = layer(Conv, x, 2 * w, 4, 2, 1)
    x = layer(Conv, x, 4 * w, 3, 1, 1)
    x = layer(Conv, x, 4 * w, 4, 2, 1)
    x = layer(Conv, x, 4 * w, 3, 1, 1)
    x = layer(Conv, x, w // 4, 3, 1, 1)
    x = layer(Conv, x, 2 * self.latent, grid)
    mean, log_var = jnp.split(x[:, 0, 0], 2, -1)
    log_var = jnp.clip(log_var, *_LOG_VAR)
    z = mean + jnp.exp(log_var / 2) * noise

    taps = {}
    x = Transposed(w // 4, grid)(z[:, None, None])
    x = layer(Transposed, x, 4 * w, 3, 1, 1)
    x = taps[16] = layer(Transposed, x, 4 * w, 3, 1, 1)
    x = taps[8] = layer(Transposed, x, 4 * w, 4, 2, 1)
    x = layer(Transposed, x, 2 * w, 3, 1, 1)
    x = taps[4] = layer(Transposed, x, 2 * w, 4, 2, 1)
    x = layer(Transposed, x, w, 3, 1, 1)
    x = taps[2] = layer(Transposed, x, w, 4, 2, 1)
    image = nn.sigmoid(layer(Transposed, x, 3, 4, 2, 1))
    features = []
    for i, (channels, stride) in enumerate(zip(self.channels, self.strides, strict=True)):
      y = nn.relu(Conv(channels, 1, name=f"adapter{i}")(taps[stride]))
      features.append(Conv(channels, 1, name=f"feature{i}")(y))
    return Rebuilt(image, tuple(features), mean, log_var)


def Model(
  backbone: str = "vgg16",
  stages: tuple[str, ...] = ("stem", "layer1", "layer2"),
  size: int = 128,
  width: int = 128,
  latent: int = 100,
  epochs: int = 100,
  batch: int = 64,
  lr: float = 0.005,
  weight_decay: float = 1e-5,
  kl: float = 1.0,
  sigma: float = 4.0,
) -> Method:
  """Builds FAVAE.

  Args:
    backbone: a pretrained network.
    stages: its stages that are rebuilt, of strides 2, 4, 8 or 16.
    size: height and width of the images, a multiple of 16.
    width: channels of the autoencoder's finest layers; it has up to four times as many.
    latent: numbers that an image is encoded by.
    epochs: passes over each task.
    batch: images at once.
    lr: learning rate.
    weight_decay: L2 penalty, added to the gradient as torch's Adam does.
    kl: weight of the divergence from the prior.
    sigma: of the Gaussian that smooths the map, in pixels.

  Raises:
    ValueError: a hyperparameter outside its range.
  """
  need(len(stages) > 0, "stages", stages, "one or more stages of the backbone")
  need(size % 16 == 0, "size", size, "a multiple of 16")
  need(width >= 4, "width", width, "at least 4")
  need(latent >= 1, "latent", latent, "at least 1")
  need(lr >= 0, "lr", lr, "at least 0")
  need(weight_decay >= 0, "weight_decay", weight_decay, "at least 0")
  need(kl >= 0, "kl", kl, "at least 0")
  need(sigma > 0, "sigma", sigma, "above 0")
  optimiser = optax.chain(optax.add_decayed_weights(weight_decay), optax.scale_by_adam())

  def network(shapes: Sequence[tuple[int, ...]]) -> Network:
    """Returns the network that rebuilds features of these shapes [..., h', w', c]."""
    strides = tuple(size // shape[-3] for shape in shapes)
    return Network(width, latent, tuple(shape[-1] for shape in shapes), strides)

  def errors(rebuilt: Rebuilt, batch: Batch) -> list[Float[Array, "b _h _w"]]:
    """Returns the squared errors of the image and of each stage, summed over channels."""
    wanted = [batch.image, *(batch.features[stage] for stage in stages)]
    made = [rebuilt.image, *rebuilt.features]
    return [jnp.sum(jnp.square(a - b), -1) for a, b in zip(made, wanted, strict=True)]

  def rebuild(state: State, batch: Batch, params: Any, noise: Array, valid: Array | None):
    net = network([batch.features[stage].shape for stage in stages])
    variables = {"params": params, "batch_stats": state.batch_stats}
    x = images.standardise(batch.image)
    return net.apply(variables, x, noise, valid, mutable=["batch_stats"])

  def init(key: Array, spec: Spec, pretrained) -> State:
    del pretrained
    shapes = [spec.shape(stage) for stage in stages]
    for stage, (h, _, _) in zip(stages, shapes, strict=True):
      if h not in [size // stride for stride in _STRIDES]:
        raise UserError(
          f'The stage "{stage}" of {backbone} has {h} rows for {size} of the image; FAVAE rebuilds '
          "stages of strides 2, 4, 8 and 16."
        )
    key, start_key = jax.random.split(key)
    x = jnp.zeros((1, *spec.image))
    variables = network(shapes).init(start_key, x, jnp.zeros((1, latent)), None)
    params = variables["params"]
    return State(params, variables["batch_stats"], optimiser.init(params), key)

  def update(state: State, batch: Batch) -> tuple[State, Logs]:
    key, noise_key = jax.random.split(state.key)
    noise = jax.random.normal(noise_key, (len(batch.valid), latent))

    def loss(params: Any) -> tuple[Array, Any]:
      rebuilt, moved = rebuild(state, batch, params, noise, batch.valid)
      each = sum(jnp.sum(e, (1, 2)) for e in errors(rebuilt, batch))
      each += kl * divergence(rebuilt.mean, rebuilt.log_var)
      return jnp.sum(jnp.where(batch.valid, each, 0)), moved

    (value, moved), gradient = jax.value_and_grad(loss, has_aux=True)(state.params)
    step, opt = optimiser.update(gradient, state.optimiser, state.params)
    params = jax.tree.map(lambda x, dx: x - lr * dx, state.params, step)
    mean = value / jnp.maximum(jnp.sum(batch.valid), 1)
    return State(params, moved["batch_stats"], opt, key), {"loss": mean}

  def score(state: State, batch: Batch) -> Scores:
    noise = jnp.zeros((len(batch.image), latent))
    rebuilt, _ = rebuild(state, batch, state.params, noise, None)
    shape = batch.image.shape[1:3]
    each = [maps.to_image(e, shape, sigma) for e in errors(rebuilt, batch)]
    pixel = jnp.sum(jnp.stack(each), 0)
    return Scores(jnp.max(pixel, axis=(1, 2)), pixel)

  return Method(init, update, lambda state: state, score, backbone, stages, size, batch, epochs)
