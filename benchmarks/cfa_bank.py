"""Compares CFA's bank, the mean of each position, with other banks of as many rows, untrained.

  python benchmarks/cfa_bank.py --dataset=mtd --data_dir=<folder>
  python benchmarks/cfa_bank.py --dataset=synthetic --category=bottle

What each image of the test is scored from is CFA's own: merged stages, distances to the three
nearest rows, its soft minimum and the largest value of the smoothed map.
"""

import argparse
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from sklearn.cluster import MiniBatchKMeans

from imiad_jax import cache, data, engine, features, metrics
from imiad_jax.heads import maps
from imiad_jax.methods import cfa
from imiad_jax.types import Run

BATCH, CLUSTERED = 32, 60_000  # images at once; patches that k-means sees


def main() -> None:
  """Prints the image AUROC of each bank."""
  parser = argparse.ArgumentParser(description="Untrained banks of CFA.")
  parser.add_argument("--dataset", default="synthetic")
  parser.add_argument("--category", default="")
  parser.add_argument("--data_dir")
  given = parser.parse_args()
  index, source = data.open(given.dataset, given.data_dir, cache.folder("prepared"))
  category = given.category or engine.categories(index)[0]
  kw: dict[str, Any] = {"backbone": "efficientnet_lite0"} | cfa.SMALL
  method, store = cfa.Model(**kw), features.Store(index, source)
  run = Run(given.dataset, (category,), "unsupervised", {}, "cfa", kw, 0)
  (task,) = engine.curriculum(run, index, method)

  def embedded(rows: np.ndarray) -> Float[np.ndarray, "n h w c"]:
    found = store.features(rows, method.backbone, method.stages, method.size)
    parts = [
      cfa.merge([jnp.asarray(x[k : k + BATCH]) / x.shape[-1] for x in found.values()])
      for k in range(0, len(rows), BATCH)
    ]
    return np.concatenate(parts)

  @jax.jit
  def scores(x: Float[Array, "n h w c"], bank: Float[Array, "m c"]) -> Float[Array, " n"]:
    far = jnp.sqrt(cfa.nearest(x.reshape(len(x), -1, x.shape[-1]), bank, 3))
    grid = (jax.nn.softmax(-far, axis=-1) * far)[..., 0].reshape(x.shape[:3])
    return jnp.max(maps.to_image(grid, (method.size, method.size), 4.0), axis=(1, 2))

  learnt, test = embedded(task.train), embedded(task.tests[category])
  means = learnt.mean(axis=0).reshape(-1, learnt.shape[-1])
  patches = learnt.reshape(-1, learnt.shape[-1])
  rng = np.random.default_rng(0)
  some = patches[rng.permutation(len(patches))[:CLUSTERED]]
  clusters = MiniBatchKMeans(len(means), batch_size=4096, random_state=0).fit(some)
  banks = {
    "the mean of each position": means,
    "as many patches, drawn": some[: len(means)],
    "as many centres of k-means": np.asarray(clusters.cluster_centers_, np.float32),
  }
  label = index.label[task.tests[category]]
  for name, bank in banks.items():
    parts = [
      scores(jnp.asarray(test[k : k + BATCH]), jnp.asarray(bank))
      for k in range(0, len(test), BATCH)
    ]
    found = metrics.binary(np.concatenate(parts), label, np.ones(len(label), bool))
    print(f"{name:28} {found['auroc']:.3f}")


if __name__ == "__main__":
  main()
