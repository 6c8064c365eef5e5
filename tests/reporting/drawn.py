"""Lines of results made up for the tests of the report."""

from imiad_jax import records
from imiad_jax.types import Run


def line(setting, method, category, values, seed=0, dataset="mvtec_ad", kw=None, own=None, **more):
  """Returns a line of one category whose only task gave `values`."""
  rows = [{"learnt": 0, "task": category, "seconds": {}} | values]
  return made((category,), rows, setting, method, seed, dataset, kw, own, **more)


def continual(method, values, tasks="abc", seed=0, dataset="mvtec_ad", own=None):
  """Returns a line of tasks whose image AUROC is given as a lower triangle, row by row."""
  rows = [
    {"learnt": i, "task": tasks[j], "seconds": {}, "image_auroc": value}
    for i, row in enumerate(values)
    for j, value in enumerate(row)
  ]
  return made(tuple(tasks), rows, "continual", method, seed, dataset, {"sizes": []}, own)


def made(categories, rows, setting, method, seed, dataset, kw, own, version="1", **more):
  run = Run(dataset, categories, setting, kw or {}, method, own or {"size": 224}, seed)
  versions = {"method": version}
  identity = records.run_id(run, versions)
  return {"id": identity, "run": run._asdict(), "versions": versions, "rows": rows} | more


def auroc(setting, method, values, **more):
  """Returns lines of categories a, b, c ... with the image AUROC in `values`."""
  names = "abcdefghijklmnopqrstuvwxyz"
  return [line(setting, method, names[k], {"image_auroc": v}, **more) for k, v in enumerate(values)]
