"""The numbers of the published lines come out again, for one category, each method in its setting.

PaDiM and PatchCore, which only keep and compare frozen features, gave the same three digits with
jax 0.10 and 0.12; DNE, which trains, differed by 0.01 between these two.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from configs import table_fully_supervised, table_unsupervised
from imiad_jax import records

ROOT = Path(__file__).parents[1]
PUBLISHED = ROOT / "results" / "published"
TABLES = {  # whose `quick` is run, of one category
  "unsupervised": table_unsupervised.METHODS,
  "fully_supervised": tuple(m for m in table_fully_supervised.METHODS if m != "patchcore"),
  "few_shot": ("fastrecon", "regad"),
  "noisy": ("igd", "inreach"),
  "logical": ("gcad",),
  "unified": ("dne", "sharedbank", "uniad"),
}
WITHIN = 0.002
TRAINED = 0.05  # of methods that learn by gradients: rounding sets training on another way
FROZEN = ("fastrecon", "inreach", "padim", "patchcore", "sharedbank", "softpatch", "spade")


def case(table: str, method: str):
  quick = method in ("padim", "patchcore")
  return pytest.param(table, method, marks=pytest.mark.slow if quick else pytest.mark.long)


def lines(folder: Path, method: str) -> dict[str, records.Record]:
  """Returns all lines of a method in a folder of results, by their id."""
  return {x["id"]: x for file in folder.rglob(f"{method}.jsonl") for x in records.read(file)}


def test_every_published_method_is_here():
  published = {file.stem for file in PUBLISHED.rglob("*.jsonl")}
  assert sorted(m for methods in TABLES.values() for m in methods) == sorted(published)


@pytest.mark.parametrize(("table", "method"), [case(t, m) for t, ms in TABLES.items() for m in ms])
def test_published_numbers_come_out_again(table, method, synthetic_dir, tmp_path):
  places = (f"--config.results={tmp_path}", f"--config.prepared_dir={synthetic_dir}")
  config = f"--config=configs/table_{table}.py:quick,methods={method}"
  category = f"--config.categories={'panel' if table == 'logical' else 'bottle'}"
  command = [sys.executable, "-m", "imiad_jax.main", config, category]
  env = {k: v for k, v in os.environ.items() if k != "XLA_FLAGS"}  # those of tests compile badly
  flags = [*places, "--config.efficiency=False"]
  subprocess.run([*command, *flags], cwd=ROOT, env=env, check=True, capture_output=True)
  published, again = lines(PUBLISHED, method), lines(tmp_path, method)
  known = again.keys() & published.keys()  # the same hyperparameters, versions, data and weights
  assert known, f"results/published has no line of the present {method} on {category}"
  within = WITHIN if method in FROZEN else TRAINED
  for name in known:
    (row,), (before,) = again[name]["rows"], published[name]["rows"]
    for metric in ("image_auroc", "pixel_auroc", "pixel_ap"):
      assert (metric in row) == (metric in before)
      if metric in row:
        assert row[metric] == pytest.approx(before[metric], abs=within), (metric, json.dumps(row))
