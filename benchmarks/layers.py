"""Times layers that are written out here against those of Flax and XLA, and compares gradients.

  python benchmarks/layers.py

What is timed is the gradient, by the input and the parameters, of the mean sine of what a layer
gives, inside a compiled loop, as epochs are.
"""

import statistics
import time
from collections.abc import Callable
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from imiad_jax.backbones import common
from imiad_jax.heads import convolution
from imiad_jax.heads.layers import Norm

STEPS, REPEATS = 2, 5
Layer = Callable[[jax.Array, jax.Array], jax.Array]  # (input, parameters) -> output


class Case(NamedTuple):
  """A layer, ours and the library's, with the shapes of its input and parameters."""

  ours: Layer
  peer: Layer
  shape: tuple[int, ...]
  params: tuple[int, ...]


def normalised(x: jax.Array, params: jax.Array) -> jax.Array:
  """Returns what our batch norm gives."""
  variables = {"params": {"scale": params[0], "bias": params[1]}, "batch_stats": _statistics(x)}
  return Norm().apply(variables, x, _valid(x), mutable=["batch_stats"])[0]


def of_flax(x: jax.Array, params: jax.Array) -> jax.Array:
  """Returns what Flax's gives with a mask."""
  norm = nn.BatchNorm(use_running_average=False, momentum=0.9, use_fast_variance=False)
  variables = {"params": {"scale": params[0], "bias": params[1]}, "batch_stats": _statistics(x)}
  mask = _valid(x)[:, None, None, None]
  return norm.apply(variables, x, mask=mask, mutable=["batch_stats"])[0]


def _valid(x: jax.Array) -> jax.Array:
  """Returns which images are there: all, which the compiler is not to know."""
  return x[:, 0, 0, 0] < jnp.inf


def _statistics(x: jax.Array) -> dict[str, jax.Array]:
  return {"mean": jnp.zeros(x.shape[-1]), "var": jnp.ones(x.shape[-1])}


def plain(x: jax.Array, kernel: jax.Array) -> jax.Array:
  """Returns XLA's 3x3 convolution, of which JAX derives the gradients."""
  layout = ("NHWC", "HWIO", "NHWC")
  return lax.conv_general_dilated(x, kernel, (1, 1), [(1, 1)] * 2, dimension_numbers=layout)


def looped(layer: Layer) -> Callable[[jax.Array, jax.Array], tuple[jax.Array, jax.Array]]:
  """Returns the sums of the gradients of STEPS steps, each of a slightly other input."""
  gradient = jax.grad(lambda x, params: jnp.mean(jnp.sin(layer(x, params))), (0, 1))

  @jax.jit
  def run(x: jax.Array, params: jax.Array) -> tuple[jax.Array, jax.Array]:
    def step(i: jax.Array, total: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
      return jax.tree.map(jnp.add, total, gradient(x + 0.01 * i, params))

    return lax.fori_loop(0, STEPS, step, (jnp.zeros_like(x), jnp.zeros_like(params)))

  return run


CASES = {
  "batch norm": Case(normalised, of_flax, (8, 112, 112, 96), (2, 96)),
  "depthwise 3x3": Case(
    lambda x, kernel: common.depthwise(x, kernel, 1),
    lambda x, kernel: common.grouped(x, kernel, 1),
    *((8, 56, 56, 32), (3, 3, 1, 32)),
  ),
  "3x3, 16 to 16": Case(
    lambda x, kernel: convolution.convolve(x, kernel, 1, 1),
    *(plain, (8, 32, 32, 16), (3, 3, 16, 16)),
  ),
  "3x3, 48 to 48": Case(
    lambda x, kernel: convolution.convolve(x, kernel, 1, 1),
    *(plain, (8, 32, 32, 48), (3, 3, 48, 48)),
  ),
}


def main() -> None:
  """Prints for each layer medians of turns, the ratio, and the largest relative difference."""
  rng = np.random.default_rng(0)
  print("layer: ours, the library's, ratio, largest difference over the largest number")
  for name, case in CASES.items():
    x, params = (jnp.asarray(rng.normal(size=s), jnp.float32) for s in (case.shape, case.params))
    ways = looped(case.ours), looped(case.peer)
    found, wanted = (jax.block_until_ready(way(x, params)) for way in ways)  # compiled
    pairs = zip(found, wanted, strict=True)
    apart = max(float(jnp.max(jnp.abs(a - b)) / jnp.max(jnp.abs(b))) for a, b in pairs)
    spent: tuple[list[float], list[float]] = ([], [])
    for _ in range(REPEATS):
      for way, times in zip(ways, spent, strict=True):
        began = time.perf_counter()
        jax.block_until_ready(way(x, params))
        times.append((time.perf_counter() - began) / STEPS * 1e3)
    ours, peer = (statistics.median(times) for times in spent)
    print(f"{name:14} {ours:7.1f} ms {peer:8.1f} ms {peer / ours:6.1f} {apart:.1e}", flush=True)


if __name__ == "__main__":
  main()
