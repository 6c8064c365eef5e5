"""SimpleNet: a small discriminator between adapted patch features and the same with noise.

Liu, Zhou, Xu, Wang: SimpleNet, A Simple Network for Image Anomaly Detection and Localization.
CVPR 2023, arXiv 2303.15140. Follows the authors' code: patch embeddings as PatchCore's, a linear
adaptor, Gaussian noise added to what it gives, a discriminator with batch norm over the true and
the noisy patches together, a hinge loss on both; AdamW for the adaptor, Adam with an L2 penalty for
the discriminator. The score of a patch is minus the discriminator's output, that of an image its
largest. A later task goes on with the networks and optimisers of the last.

What differs: images are resized to a square without a centre crop; scores are those of the last
epoch, where the authors keep the one that tests best; batch norm's running variance is not the
unbiased one.
"""

from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float

from imiad_jax.heads import layers, maps, patches
from imiad_jax.plugins import need
from imiad_jax.types import Batch, Logs, Method, Scores, Spec

VERSION = "1"
# What two CPU cores can pay for. The noise goes with the embedding: at a position of the grid its
# numbers have a standard deviation of 1.6 from image to image (the synthetic bottle, capsule, plate
# and woven). Of what was tried from 0.15 to 4, 1.5 to 2.5 did best; less is not learnt in time.
SMALL = {
  "size": 224,
  "dim": 224,
  "hidden": 128,
  "noise": 2.0,
  "batch": 4,
  "epochs": 20,
  "discriminator_lr": 5e-4,
}


class State(NamedTuple):
  """The two networks, and what trains them."""

  params: dict[str, Any]  # "adaptor" and "discriminator"
  stats: Any  # running statistics of the discriminator's batch norm
  optimisers: dict[str, Any]  # of each network
  key: Array


xavier: layers.Init = nn.initializers.variance_scaling(1.0, "fan_avg", "normal")
"""N(0, 2/(fan in + fan out)), what the authors give to the kernels."""


class Discriminator(nn.Module):
  """Two layers from the d numbers of a patch to one, above 0 for normal patches."""

  hidden: int

  @nn.compact
  def __call__(
    self, x: Float[Array, "b h w d"], valid: Bool[Array, " b"] | None
  ) -> Float[Array, "b h w"]:
    """Returns the output for each patch; batch norm as in layers.Norm."""
    x = layers.Conv(self.hidden, 1, start=xavier, name="first")(x)
    x = nn.leaky_relu(layers.Norm(name="norm")(x, valid), 0.2)
    return layers.Conv(1, 1, bias=False, start=xavier, name="last")(x)[..., 0]


def hinge(
  true: Float[Array, "b h w"],
  noisy: Float[Array, "b h w"],
  valid: Bool[Array, " b"],
  margin: float,
) -> Float[Array, ""]:
  """Returns the mean over the patches of valid images of what is short of either margin."""
  each = jnp.mean(nn.relu(margin - true) + nn.relu(margin + noisy), axis=(1, 2))
  return jnp.sum(each * valid) / jnp.sum(valid)


def Model(
  backbone: str = "wide_resnet50_2",
  stages: tuple[str, ...] = ("layer2", "layer3"),
  size: int = 288,
  epochs: int = 160,
  batch: int = 8,
  dim: int = 1536,
  hidden: int = 1024,
  noise: float = 0.015,
  margin: float = 0.5,
  adaptor_lr: float = 1e-4,
  discriminator_lr: float = 2e-4,
  sigma: float = 4.0,
) -> Method:
  """Builds SimpleNet.

  Args:
    backbone: a pretrained network.
    stages: its stages; the first one's grid is that of the patches.
    size: height and width of the images.
    epochs: passes over each task.
    batch: images at once.
    dim: numbers a patch embedding has, before and after the adaptor.
    hidden: width of the discriminator.
    noise: standard deviation of the noise; it belongs to the scale of the embedding, so another
      backbone or `dim` wants another one.
    margin: of the hinge loss.
    adaptor_lr: learning rate of the adaptor.
    discriminator_lr: learning rate of the discriminator.
    sigma: of the Gaussian that smooths the map, in pixels.

  Raises:
    ValueError: a hyperparameter outside its range.
  """
  need(len(stages) > 0, "stages", stages, "one or more stages of the backbone")
  need(dim >= 1, "dim", dim, "at least 1")
  need(hidden >= 1, "hidden", hidden, "at least 1")
  need(noise > 0, "noise", noise, "above 0")
  need(margin > 0, "margin", margin, "above 0")
  need(adaptor_lr >= 0, "adaptor_lr", adaptor_lr, "at least 0")
  need(discriminator_lr >= 0, "discriminator_lr", discriminator_lr, "at least 0")
  need(sigma > 0, "sigma", sigma, "above 0")
  adaptor = layers.Conv(dim, 1, start=xavier)
  discriminator = Discriminator(hidden)
  optimisers = {
    "adaptor": optax.adamw(adaptor_lr, weight_decay=0.01),
    "discriminator": optax.chain(
      optax.add_decayed_weights(1e-5), optax.scale_by_adam(), optax.scale(-discriminator_lr)
    ),
  }

  def adapt(params: Any, batch: Batch) -> Float[Array, "b h w d"]:
    x = patches.embed([batch.features[s] for s in stages], dim)
    adapted: Any = adaptor.apply({"params": params["adaptor"]}, x)
    return adapted

  def init(key: Array, spec: Spec, pretrained) -> State:
    del pretrained
    key, adaptor_key, discriminator_key = jax.random.split(key, 3)
    h, w, _ = spec.shape(stages[0])
    x = jnp.zeros((1, h, w, dim))
    made = discriminator.init(discriminator_key, x, None)
    params = {
      "adaptor": adaptor.init(adaptor_key, x)["params"],
      "discriminator": made["params"],
    }
    first = {name: optimisers[name].init(params[name]) for name in optimisers}
    return State(params, made["batch_stats"], first, key)

  def update(state: State, batch: Batch) -> tuple[State, Logs]:
    key, noise_key = jax.random.split(state.key)

    def loss(params: Any) -> tuple[Array, Any]:
      true = adapt(params, batch)
      noisy = true + noise * jax.random.normal(noise_key, true.shape)
      outputs, moved = discriminator.apply(
        {"params": params["discriminator"], "batch_stats": state.stats},
        *(jnp.concatenate([true, noisy]), jnp.tile(batch.valid, 2)),
        mutable=["batch_stats"],
      )
      outputs_true, outputs_noisy = jnp.split(outputs, 2)
      value = hinge(outputs_true, outputs_noisy, batch.valid, margin)
      return value, moved["batch_stats"]

    (value, stats), gradient = jax.value_and_grad(loss, has_aux=True)(state.params)
    params, opts = {}, {}
    for name, optimiser in optimisers.items():
      old = state.params[name]
      step, opts[name] = optimiser.update(gradient[name], state.optimisers[name], old)
      params[name] = optax.apply_updates(old, step)
    return State(params, stats, opts, key), {"loss": value}

  def finish(state: State) -> State:
    return state

  def score(state: State, batch: Batch) -> Scores:
    variables = {"params": state.params["discriminator"], "batch_stats": state.stats}
    normal: Any = discriminator.apply(variables, adapt(state.params, batch), None)
    pixel = maps.to_image(-normal, batch.image.shape[1:3], sigma)
    return Scores(jnp.max(-normal, axis=(1, 2)), pixel)

  return Method(init, update, finish, score, backbone, stages, size, batch, epochs)
