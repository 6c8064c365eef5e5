"""The numbers of the published lines come out again, each method in its setting.

PaDiM and PatchCore, which only keep and compare frozen features, gave the same three digits with
jax 0.10 and 0.12; DNE, which trains, differed by 0.01 between these two. A method is learnt on one
category, but DRAEM, which begins untrained, on four, of which the means are compared: how many
cores there are, so rounding alone, moved its image AUROC on one of them by 0.08 for the same seed.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
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
CATEGORIES = {"gcad": ("panel",), "draem": ("bottle", "capsule", "plate", "woven")}
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
  category = f"--config.categories={CATEGORIES.get(method, ('bottle',))}"
  command = [sys.executable, "-m", "imiad_jax.main", config, category]
  env = {k: v for k, v in os.environ.items() if k != "XLA_FLAGS"}  # those of tests compile badly
  flags = [*places, "--config.efficiency=False"]
  subprocess.run([*command, *flags], cwd=ROOT, env=env, check=True, capture_output=True)
  published, again = lines(PUBLISHED, method), lines(tmp_path, method)
  known = again.keys() & published.keys()  # the same hyperparameters, versions, data and weights
  assert known, f"results/published has no line of the present {method} on {category}"
  within = WITHIN if method in FROZEN else TRAINED
  alike = {}  # lines by all but their category
  for name in sorted(known):
    alike.setdefault(json.dumps(again[name]["run"] | {"categories": ()}), []).append(name)
  for names in alike.values():
    rows = [(*again[name]["rows"], *published[name]["rows"]) for name in names]
    for metric in ("image_auroc", "pixel_auroc", "pixel_ap"):
      assert all((metric in row) == (metric in before) for row, before in rows)
      if metric in rows[0][0]:
        mean, was = np.mean([(row[metric], before[metric]) for row, before in rows], axis=0)
        assert mean == pytest.approx(was, abs=within), (metric, rows)
