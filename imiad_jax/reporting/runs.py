"""A section of the report for each run: its numbers, what it was made with, and where."""

import json
from typing import Any, NamedTuple

import numpy as np

from imiad_jax import evidence, tables
from imiad_jax.records import Record
from imiad_jax.reporting import charts, pictures

Pairs = list[tuple[str, str]]


class Miss(NamedTuple):
  """One of the images that a run tells worst."""

  name: str
  said: str  # its kind and score
  pictures: list[str]  # URIs of image, ground truth and, where there is one, map
  missed: bool  # whether the threshold tells it wrong


class Seen(NamedTuple):
  """What the evidence shows of one category's test."""

  category: str
  counts: tuple[int, int]  # normal, anomalous images
  curves: list[charts.Chart]
  histogram: charts.Histogram
  confusion: charts.Confusion | None  # None where the test is of one class
  misses: list[Miss]


class Section(NamedTuple):
  """What the report says of one run."""

  id: str
  title: str
  error: str  # "" where it did not fail
  metrics: list[tuple[str, tables.Table]]
  configuration: Pairs
  environment: Pairs
  seen: list[Seen]
  command: str  # that makes the run


def section(record: Record, tests: list[evidence.Test]) -> Section:
  """Returns the section of a run and its evidence."""
  run = record["run"]
  return Section(
    record["id"],
    title(record),
    record.get("error", ""),
    _metrics(record),
    _configuration(run, record["versions"]),
    _environment(record),
    [_seen(test, threshold(record, test.category)) for test in tests],
    command(run),
  )


def _seen(test: evidence.Test, at: float | None) -> Seen:
  counts = (int((test.label == 0).sum()), int((test.label == 1).sum()))
  return Seen(
    test.category,
    counts,
    charts.curves(test),
    charts.histogram(test, at),
    None if at is None else charts.confusion(test, at),
    _misses(test, at),
  )


def _misses(test: evidence.Test, at: float | None) -> list[Miss]:
  """Returns the pictures that were kept of the lowest anomalous and the highest normal scores."""
  picture = {int(place): k for k, place in enumerate(test.shown)}
  misses: list[Miss] = []
  for place in evidence.worst(test.score, test.label, evidence.MISSES).tolist():
    if place in picture:
      k = picture[place]
      uris = [make(test, k) for make in (pictures.image, pictures.truth, pictures.heat)]
      detected = at is None or test.score[place] >= np.float32(at)
      missed = at is not None and detected != (test.label[place] == 1)
      said = f"{test.kind[place]}, {test.score[place]:.4g}"
      misses.append(Miss(str(test.name[place]), said, [uri for uri in uris if uri], bool(missed)))
  return misses


def threshold(record: Record, category: str) -> float | None:
  """Returns the one with the best F1 of a category's own last test, None where there is none."""
  rows = [row for row in record.get("rows", []) if row["task"] == category]
  return rows[-1].get("image_threshold") if rows else None


def command(run: dict[str, Any]) -> str:
  """Returns the command that makes a run, its hyperparameters apart."""
  said = f"--config=configs/default.py:method={run['method']},dataset={run['dataset']}"
  said += "" if run["setting"] == "unsupervised" else f",setting={run['setting']}"
  flags = [f"--config.setting_kw.{k}={plain(v)}" for k, v in run["setting_kw"].items() if v]
  names = ",".join(f"'{name}'" for name in run["categories"])
  flags += [f'--config.categories="({names},)"', f'--config.seeds="({run["seed"]},)"']
  return f"python -m imiad_jax.main {said} {' '.join(flags)}"


def title(record: Record) -> str:
  """Returns the method, data, setting and seed of a run in one line."""
  run = record["run"]
  names = "+".join(run["categories"])
  where = f"{run['dataset']} / {names}, {tables.setting(run)}"
  return f"{run['method']} on {where}, seed {run['seed']}"


def plain(value: Any) -> str:
  """Returns a value of a config as it is written in JSON, a string without its quotes."""
  return value if isinstance(value, str) else json.dumps(value)


def _metrics(record: Record) -> list[tuple[str, tables.Table]]:
  if not record.get("rows"):
    return []
  found = [("After the last task", tables.scores([record]))]
  if any(row["learnt"] for row in record["rows"]):
    found.append(("Image AUROC task by task", tables.matrix_table([record], "image_auroc")))
    found.append(("Performance and forgetting", tables.forgetting_table([record])))
  return found


def _configuration(run: dict[str, Any], versions: dict[str, str]) -> Pairs:
  own = [(k, plain(run[k])) for k in ("dataset", "categories", "setting", "method", "seed")]
  kw = [(k, plain(v)) for part in ("setting_kw", "method_kw") for k, v in run[part].items()]
  return [*own, *kw, *((f"version of {k}", v) for k, v in versions.items())]


def _environment(record: Record) -> Pairs:
  found: Pairs = [
    (k, plain(record[k])) for k in ("time", "commit", "device", "python") if k in record
  ]
  found += [(k, v) for k, v in record.get("libraries", {}).items()]
  if "seconds" in record:
    found.append(("seconds in all", plain(record["seconds"])))
  for row in record.get("rows", []):
    spent = ", ".join(f"{k} {v:.1f}" for k, v in row["seconds"].items())
    found.append((f"seconds for {row['task']} after task {row['learnt'] + 1}", spent))
  if record.get("peak_bytes"):
    found.append(("most memory", f"{record['peak_bytes'] / 1e9:.2f} GB"))
  found += [(k, plain(v)) for k, v in record.get("efficiency", {}).items()]
  return found
