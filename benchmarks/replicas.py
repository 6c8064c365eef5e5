"""Times R seeds of a method trained at once by vmap against R trainings one after the other.

  python benchmarks/replicas.py                       # every method, four seeds
  python benchmarks/replicas.py --replicas=8 patchcore stpm

Each method has its small hyperparameters, images of 64 x 64 and two epochs, GCAD the three that it
takes at least, on one category of the drawn data set, with anomalies told where it uses them;
compilation is left out. A ratio above 1 says that at once is faster.
"""

import argparse
import statistics

import jax

from imiad_jax import cache, data, engine, features, plugins
from imiad_jax.types import Run

REPEATS = 3
EPOCHS = {"gcad": 3}


def seconds(runs: list[Run], store: features.Store) -> float:
  """Returns how long learning takes: the median of some repeats after one to compile."""
  spent: list[float] = []
  for _ in range(REPEATS + 1):
    total = 0.0
    for _, outcome in engine.together(runs, store):
      total += outcome.seconds.get("learn", 0)
    spent.append(total)
  return statistics.median(spent[1:])


def main() -> None:
  """Prints for each method both times and their ratio."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("methods", nargs="*", default=plugins.names("methods"))
  parser.add_argument("--replicas", type=int, default=4)
  parser.add_argument("--size", type=int, default=64)
  given = parser.parse_args()
  index, source = data.open("synthetic", None, cache.folder("prepared"))
  store = features.Store(index, source)
  device = jax.devices()[0].device_kind
  print(f"{given.replicas} seeds on {device}: one after the other, at once, ratio")
  for name in given.methods:
    module = plugins.load("methods", name)
    kw = plugins.resolve(
      name, module.Model, {"backbone": "efficientnet_lite0"} | module.SMALL | {"size": given.size}
    )
    kw |= {"epochs": EPOCHS.get(name, 2)} if "epochs" in kw else {}
    setting = "fully_supervised" if module.Model(**kw).supervised else "unsupervised"
    runs = [
      Run("synthetic", ("bottle",), setting, {}, name, kw, seed) for seed in range(given.replicas)
    ]
    apart = given.replicas * seconds(runs[:1], store)
    together = seconds(runs, store)
    print(f"{name:12} {apart:7.2f} s {together:7.2f} s {apart / together:5.2f}")


if __name__ == "__main__":
  main()
