"""Compares CFA's bank, the mean of each position, with other banks of as many rows, untrained.

  python benchmarks/cfa_bank.py --dataset=mtd --data_dir=<folder>
  python benchmarks/cfa_bank.py --dataset=synthetic --category=bottle

Scores are those of CFA's small hyperparameters with a descriptor that changes nothing.
"""

import argparse
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float
from sklearn.cluster import MiniBatchKMeans

from imiad_jax import cache, data, engine, features, metrics, training
from imiad_jax.methods import cfa
from imiad_jax.types import Run

CLUSTERED = 60_000  # patches that k-means sees


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
  built, store = training.build("cfa", kw), features.Store(index, source)
  run = Run(given.dataset, (category,), "unsupervised", {}, "cfa", kw, 0)
  (task,) = engine.curriculum(run, index, built.method)

  def told(rows: np.ndarray) -> dict[str, Any]:
    net, stages, size = built.method.backbone, built.method.stages, built.method.size
    image = store.pixels(rows, size).image
    return {"image": image, "features": store.features(rows, net, stages, size)}

  test = told(task.tests[category])
  label = index.label[task.tests[category]]
  state = training.start(built, len(task.train), 1, [0])
  state = state._replace(params=state.params | {"descriptor": unchanged(state.params)})
  for name, bank in banks(told(task.train)["features"]).items():
    found = built.score(state._replace(bank=jnp.asarray(bank)), test).image
    auroc = metrics.binary(np.asarray(found), label, np.ones(len(label), bool))["auroc"]
    print(f"{name:28} {auroc:.3f}")


def unchanged(params: Any) -> Any:
  """Returns a descriptor's parameters with which it gives back what it sees, coordinates apart."""
  return jax.tree.map(
    lambda p: jnp.eye(*p.shape[-2:])[None, None] if p.ndim == 4 else 0 * p, params["descriptor"]
  )


def banks(learnt: dict[str, np.ndarray]) -> dict[str, Float[np.ndarray, "p c"]]:
  """Returns banks of merged stages [n,h,w,c]; each has as many rows as there are positions."""
  stages = [x / x.shape[-1] for x in learnt.values()]
  parts = [
    cfa.merge([jnp.asarray(x[k : k + 32]) for x in stages]) for k in range(0, len(stages[0]), 32)
  ]
  patches = np.concatenate(parts)
  means = patches.mean(axis=0).reshape(-1, patches.shape[-1])
  patches = patches.reshape(-1, patches.shape[-1])
  some = patches[np.random.default_rng(0).permutation(len(patches))[:CLUSTERED]]
  clusters = MiniBatchKMeans(len(means), batch_size=4096, random_state=0).fit(some)
  return {
    "the mean of each position": means,
    "as many patches, drawn": some[: len(means)],
    "as many centres of k-means": np.asarray(clusters.cluster_centers_, np.float32),
  }


if __name__ == "__main__":
  main()
