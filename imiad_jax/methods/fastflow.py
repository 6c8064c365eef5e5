"""FastFlow: a convolutional normalizing flow on the feature map of each stage.

Yu, Zheng, Wang, Li, Wu, Zhao, Wu: FastFlow: Unsupervised Anomaly Detection and Localization via 2D
Normalizing Flows. 2021, arXiv 2111.07677. There is no code by the authors; this follows the common
PyTorch version, from which the IM-IAD benchmark took its own. As there, each feature map first
passes a layer norm over all of its numbers, with a trained gain and offset for each of them. The
paper has none. Its determinant is left out, so the loss is no likelihood of the features
themselves: it could fall by smaller gains alone. The log "square", the mean of z squared, is about
1 where a normal distribution was learnt.

What differs: the last images of an epoch are learnt too, however few. The default is that version's
layout for a WideResNet, kernels of 3 and 1 in turn; for a ResNet-18 it has 3 alone, which the
benchmark has not. A later task goes on from the weights and optimiser state that the last one left.
"""

from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int

from imiad_jax.heads import flow
from imiad_jax.plugins import need
from imiad_jax.types import Batch, Logs, Method, Scores, Spec

VERSION = "1"
# What two CPU cores can pay for.
SMALL = {"size": 224, "steps": 4, "epochs": 20, "batch": 8}


class State(NamedTuple):
  """A flow for each stage."""

  params: dict[str, Any]  # by stage
  permutations: dict[str, Int[Array, "steps c"]]  # by stage; drawn once
  optimiser: Any


class Scale(nn.Module):
  """The flow of one stage, behind its layer norm."""

  hidden_ratio: float
  sizes: tuple[int, ...]
  clamp: float

  @nn.compact
  def __call__(
    self, x: Float[Array, "b h w c"], permutations: Int[Array, "steps c"]
  ) -> tuple[Float[Array, "b h w c"], Float[Array, " b"]]:
    """Returns z and log|det| of the flow alone."""
    axes, channels = (1, 2, 3), x.shape[-1]
    x = nn.LayerNorm(
      epsilon=1e-5, reduction_axes=axes, feature_axes=axes, use_fast_variance=False, name="norm"
    )(x)
    hidden = int((channels - channels // 2) * self.hidden_ratio)
    return flow.Flow(channels, hidden, self.sizes, self.clamp, name="flow")(x, permutations)


def Model(
  backbone: str = "wide_resnet50_2",
  stages: tuple[str, ...] = ("layer1", "layer2", "layer3"),
  size: int = 256,
  steps: int = 8,
  kernels: tuple[int, ...] = (3, 1),
  hidden_ratio: float = 1.0,
  clamp: float = 2.0,
  lr: float = 1e-3,
  weight_decay: float = 1e-5,
  epochs: int = 500,
  batch: int = 32,
) -> Method:
  """Builds FastFlow.

  Args:
    backbone: a pretrained network.
    stages: its stages, each with a flow of its own.
    size: height and width of the images.
    steps: couplings of each flow.
    kernels: sizes of their kernels, odd, taken in turn.
    hidden_ratio: channels between a subnet's two convolutions, over those it is given (the paper:
      1, and 0.16 for a ViT, with 20 steps).
    clamp: the largest log-scale of a coupling.
    lr: learning rate, constant.
    weight_decay: L2 penalty, added to the gradient as torch's Adam does.
    epochs: passes over each task.
    batch: images at once.

  Raises:
    ValueError: a hyperparameter outside its range.
  """
  need(len(stages) > 0, "stages", stages, "one or more stages of the backbone")
  need(steps >= 1, "steps", steps, "at least 1")
  odd = len(kernels) > 0 and all(k >= 1 and k % 2 == 1 for k in kernels)
  need(odd, "kernels", kernels, "one or more odd sizes")
  need(hidden_ratio > 0, "hidden_ratio", hidden_ratio, "above 0")
  need(clamp > 0, "clamp", clamp, "above 0")
  need(lr >= 0, "lr", lr, "at least 0")
  need(weight_decay >= 0, "weight_decay", weight_decay, "at least 0")
  scale = Scale(hidden_ratio, tuple(kernels[i % len(kernels)] for i in range(steps)), clamp)
  optimiser = optax.chain(
    optax.add_decayed_weights(weight_decay), optax.scale_by_adam(), optax.scale(-lr)
  )

  def init(key: Array, spec: Spec, pretrained) -> State:
    del pretrained
    params, permutations = {}, {}
    for stage in stages:
      key, order_key, params_key = jax.random.split(key, 3)
      x = jnp.zeros((1, *spec.shape(stage)))
      permutations[stage] = flow.permutations(order_key, steps, x.shape[-1])
      params[stage] = scale.init(params_key, x, permutations[stage])["params"]
    return State(params, permutations, optimiser.init(params))

  def hidden(params: Any, state: State, batch: Batch) -> dict[str, tuple[Array, Array]]:
    """Returns z and log|det| by stage."""
    found = {}
    for stage in stages:
      x, permutations = batch.features[stage], state.permutations[stage]
      z, log_det = scale.apply({"params": params[stage]}, x, permutations)
      found[stage] = (z, log_det)
    return found

  def update(state: State, batch: Batch) -> tuple[State, Logs]:
    weight = batch.valid / jnp.sum(batch.valid)

    def loss(params: Any) -> tuple[Array, Array]:
      found = hidden(params, state, batch).values()
      each = sum(flow.negative_log_likelihood(z, log_det) for z, log_det in found)
      square = sum(jnp.mean(jnp.square(z), axis=(1, 2, 3)) for z, _ in found) / len(stages)
      return jnp.sum(each * weight), jnp.sum(square * weight)

    (value, square), gradient = jax.value_and_grad(loss, has_aux=True)(state.params)
    step, opt = optimiser.update(gradient, state.optimiser, state.params)
    params = optax.apply_updates(state.params, step)
    return state._replace(params=params, optimiser=opt), {"loss": value, "square": square}

  def score(state: State, batch: Batch) -> Scores:
    shape = batch.image.shape[:3]
    pixel = jnp.zeros(shape)
    for z, _ in hidden(state.params, state, batch).values():
      likelihood = jnp.exp(-0.5 * jnp.mean(jnp.square(z), axis=-1))
      pixel -= jax.image.resize(likelihood, shape, "bilinear", antialias=False) / len(stages)
    return Scores(jnp.max(pixel, axis=(1, 2)), pixel)

  return Method(init, update, lambda state: state, score, backbone, stages, size, batch, epochs)
