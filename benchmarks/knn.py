"""Times the nearest neighbour in a bank against faiss's flat index, and compares the distances.

  python benchmarks/knn.py

2,000 queries in a bank of 20,000 rows of 512 numbers, on as many threads as there are cores. faiss
is timed where it is installed (`pip install faiss-cpu`), NumPy's product of matrices always.
"""

import importlib.util
import statistics
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from imiad_jax.heads import knn

BANK, QUERIES, DIM, REPEATS = 20_000, 2_000, 512, 7


def main() -> None:
  """Prints medians of turns, ratios, and the largest difference of a distance."""
  rng = np.random.default_rng(0)
  bank = rng.normal(size=(BANK, DIM)).astype(np.float32)
  query = rng.normal(size=(QUERIES, DIM)).astype(np.float32)
  exact = numpy(query.astype(np.float64), bank.astype(np.float64))
  compiled = jax.jit(knn.nearest)
  on_device = jnp.asarray(query), jnp.asarray(bank), jnp.ones(BANK, bool)
  ways: dict[str, Callable[[], np.ndarray]] = {
    "ours": lambda: np.asarray(compiled(*on_device)),
    "NumPy": lambda: numpy(query, bank),
  }
  if importlib.util.find_spec("faiss"):
    import faiss  # pyright: ignore[reportMissingImports]

    index = faiss.IndexFlatL2(DIM)
    index.add(bank)
    ways["faiss"] = lambda: index.search(query, 1)[0][:, 0]
  found = {name: way() for name, way in ways.items()}  # compiled
  seconds: dict[str, list[float]] = {name: [] for name in ways}
  for _ in range(REPEATS):
    for name, way in ways.items():
      began = time.perf_counter()
      way()
      seconds[name].append(time.perf_counter() - began)
  ours = statistics.median(seconds["ours"])
  for name, times in seconds.items():
    median = statistics.median(times)
    error = np.max(np.abs(found[name] - exact) / exact)
    print(f"{name:6} {median:.3f} s, {median / ours:.2f} times ours, relative error {error:.1e}")


def numpy(query: np.ndarray, bank: np.ndarray) -> np.ndarray:
  """Returns the squared distance to the nearest row from one whole matrix of distances."""
  cross = query @ bank.T
  return np.min(np.sum(query**2, 1)[:, None] - 2 * cross + np.sum(bank**2, 1), axis=1)


if __name__ == "__main__":
  main()
