"""What a method costs: time and memory of scoring, operations, parameters, bytes of its State.

As in figure 2 of IM-IAD: from images to scores, with the frozen backbone. Loading, decoding and
resizing of images and their way to the device are left out, as are compilation and metrics; the
same on every machine is only what is counted, not what is timed.
"""

import functools
import math
import resource
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from imiad_jax import features, training
from imiad_jax.types import Method, Scores, State

WARM = 2  # calls before those that are timed
ENOUGH = 1.0  # seconds of timed calls after which three are enough


def scorer(
  method: Method, params: Any, state: State, image: jax.Array
) -> tuple[Callable[[], Scores], float]:
  """Compiles the scoring of images, as the engine does it: the backbone, then the method's score.

  Args:
    method: that of the State.
    params: of its backbone.
    state: what it has learnt.
    image: [b,h,w,3] uint8.

  Returns:
    What gives the scores, and how many floating point operations that takes, 0 where XLA does not
    tell.
  """

  def score(state: State, image: jax.Array, frozen: dict[str, jax.Array]) -> Scores:
    return method.score(state, training.untold({"image": image, "features": frozen}))

  network = _network(method.backbone, method.stages, image.shape)
  compiled = jax.jit(score).lower(state, image, network(params, image)).compile()
  flops = _flops(network) + _flops(compiled)
  return lambda: compiled(state, image, network(params, image)), flops


@functools.cache
def _network(name: str, stages: tuple[str, ...], shape: tuple[int, ...]) -> Any:
  """Returns a compiled backbone, the same for all methods that ask for these features."""
  given = features.backbone(name).params, jax.ShapeDtypeStruct(shape, jnp.uint8)
  return jax.jit(features.frozen(name, stages)).lower(*given).compile()


def measure(
  built: training.Built, state: State, data: training.Data, repeats: int = 10
) -> dict[str, float | int]:
  """Measures the scoring of images by a method that has learnt, on one device.

  Args:
    built: the method.
    state: what it has learnt.
    data: of it "image" [n,h,w,3] uint8 at the method's size, again from the first where there are
      fewer than its batch.
    repeats: timed calls, after a warm-up, fewer where they take long; their median counts.

  Returns:
    "seconds_one"         for one image at batch 1
    "seconds_batch"       for one image, at the method's batch
    "batch"               that batch
    "flops"               floating point operations for one image at batch 1, by XLA's analysis of
                          the compiled functions, which counts the body of a loop once; absent where
                          XLA does not tell
    "parameters"          of the backbone, whether frozen or learnt on from there
    "state_bytes"         of the State
    "scoring_bytes"       of what scoring reads of it, such as a bank but not an optimiser
    "host_peak_bytes"     the most this process ever had in memory, so everything before included
    "device_peak_bytes"   the same of the device; absent where it does not tell, such as on a CPU

  Raises:
    ValueError: no images, or no repeats.
  """
  if not len(data["image"]) or repeats < 1:
    raise ValueError(f"needs an image and a repeat, but got {len(data['image'])} and {repeats}")
  device = jax.local_devices()[0]
  params, state = jax.device_put((features.backbone(built.method.backbone).params, state), device)
  batch = built.method.batch
  out: dict[str, float | int] = {"batch": batch}
  for name, size in (("seconds_one", 1), ("seconds_batch", batch)):
    image = np.resize(data["image"], (size, *data["image"].shape[1:]))
    score, flops = scorer(built.method, params, state, jax.device_put(image, device))
    out[name] = _seconds(score, repeats) / size
    if size == 1 and flops > 0:
      out["flops"] = flops
  out["parameters"] = sum(x.size for x in jax.tree.leaves(params))
  out["state_bytes"] = sum(_nbytes(x) for x in jax.tree.leaves(state))
  out["scoring_bytes"] = _read(built.method, state, data["image"].shape[1])
  out["host_peak_bytes"] = _host_peak()
  stats = device.memory_stats() or {}
  if "peak_bytes_in_use" in stats:
    out["device_peak_bytes"] = stats["peak_bytes_in_use"]
  return out


def _seconds(call: Callable[[], Any], repeats: int) -> float:
  """Returns the median seconds of a call whose results are there."""
  seconds: list[float] = []
  for _ in range(WARM + repeats):
    began = time.perf_counter()
    jax.block_until_ready(call())
    seconds.append(time.perf_counter() - began)
    if len(seconds) >= WARM + 3 and sum(seconds[WARM:]) > ENOUGH:
      break
  return statistics.median(seconds[WARM:])


def _flops(compiled: Any) -> float:
  """Returns the operations of a compiled function, 0 where XLA does not tell."""
  cost = compiled.cost_analysis() or {}
  cost = cost[0] if isinstance(cost, list) else cost
  return float(cost.get("flops", 0))


def _read(method: Method, state: State, size: int) -> int:
  """Returns the bytes of those arrays of a State that scoring reads: jit leaves out the others."""
  grids = features.shapes(features.backbone(method.backbone), method.stages, size)

  def score(state: State, value: jax.Array) -> Scores:
    made = {
      "image": jnp.full((1, size, size, 3), value, jnp.uint8),
      "features": {stage: jnp.full((1, *shape), value) for stage, shape in grids},
    }
    return method.score(state, training.untold(made))

  program: Any = jax.jit(score).lower(state, jnp.float32(0)).compiler_ir("hlo")
  given = program.program_shape().parameter_shapes()
  sizes = (math.prod(x.dimensions()) * x.numpy_dtype().itemsize for x in given)
  return sum(sizes) - 4  # the value has 4


def _nbytes(x: jax.Array) -> int:
  keys = jnp.issubdtype(x.dtype, jax.dtypes.prng_key)
  return int(jax.random.key_data(x).nbytes if keys else x.nbytes)


def _host_peak() -> int:
  """Returns the highest resident size of this process; Linux counts it in KiB, macOS in bytes."""
  peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
  return peak if sys.platform == "darwin" else peak * 1024
