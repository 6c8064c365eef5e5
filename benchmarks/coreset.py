"""Times greedy k-centre selection against the obvious loop in NumPy, and compares their picks.

  python benchmarks/coreset.py

24,576 rows of 384 numbers, projected to 128, of which a tenth is picked. The loop is NumPy's in
float64, so that it decides between rows that float32 calls equally far.
"""

import statistics
import time

import jax
import jax.numpy as jnp
import numpy as np

from imiad_jax.heads import coreset

ROWS, DIM, PROJECTED, PICKS, REPEATS = 24_576, 384, 128, 2_457, 5


def obvious(x: np.ndarray, distance: np.ndarray, count: int) -> list[int]:
  """Returns the picks: each time the row that is farthest from all before it."""
  picks = []
  for _ in range(count):
    picks.append(int(np.argmax(distance)))
    distance = np.minimum(distance, np.sum(np.square(x - x[picks[-1]]), axis=1))
  return picks


@jax.jit
def ours(x: jax.Array, distance: jax.Array) -> jax.Array:
  """Returns the same picks, on the device."""
  return coreset.greedy(x, distance, jnp.ones(len(x), bool), jnp.int32(PICKS), PICKS)


def main() -> None:
  """Prints medians, their ratio, and how many picks are equal."""
  key, start_key = jax.random.split(jax.random.key(0))
  x = jnp.asarray(np.random.default_rng(0).normal(size=(ROWS, DIM)), jnp.float32)
  z = coreset.project(key, x, PROJECTED)
  distance = coreset.start(start_key, z, jnp.ones(ROWS, bool), 10)
  picks = ours(z, distance).block_until_ready()  # compiled
  seconds = []
  for _ in range(REPEATS):
    began = time.perf_counter()
    ours(z, distance).block_until_ready()
    seconds.append(time.perf_counter() - began)
  began = time.perf_counter()
  expected = obvious(np.asarray(z, np.float64), np.asarray(distance, np.float64), PICKS)
  loop = time.perf_counter() - began
  mine = statistics.median(seconds)
  same = int(np.sum(np.asarray(picks) == expected))
  print(f"ours {mine:.2f} s (median of {REPEATS}), NumPy's loop {loop:.1f} s: {loop / mine:.0f}x")
  print(f"{same} of {PICKS} picks are equal, in order")


if __name__ == "__main__":
  main()
