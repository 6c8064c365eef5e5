"""A section of the report for each run: its numbers, what it was made with, and where."""

import json
from typing import Any, NamedTuple

from imiad_jax import tables
from imiad_jax.records import Record

Pairs = list[tuple[str, str]]


class Section(NamedTuple):
  """What the report says of one run."""

  id: str
  title: str
  error: str  # "" where it did not fail
  metrics: list[tuple[str, tables.Table]]
  configuration: Pairs
  environment: Pairs
  lacking: str  # a sentence that says what is not there and what would make it, or ""


def section(record: Record) -> Section:
  """Returns the section of a run."""
  run = record["run"]
  return Section(
    record["id"],
    title(record),
    record.get("error", ""),
    tables.sections([record]) if record.get("rows") else [],
    _configuration(run, record["versions"]),
    _environment(record),
    "",
  )


def title(record: Record) -> str:
  """Returns the method, data, setting and seed of a run in one line."""
  run = record["run"]
  kw = ", ".join(f"{k}={plain(v)}" for k, v in run["setting_kw"].items())
  setting = f"{run['setting']} ({kw})" if kw else run["setting"]
  names = "+".join(run["categories"])
  return f"{run['method']} on {run['dataset']} / {names}, {setting}, seed {run['seed']}"


def plain(value: Any) -> str:
  """Returns a value of a config as it is written in JSON, a string without its quotes."""
  return value if isinstance(value, str) else json.dumps(value)


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
