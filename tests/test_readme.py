"""The README's tables are those of the lines kept, and the paper's numbers those of the paper."""

import runpy
from pathlib import Path

import pytest

from imiad_jax import published

ROOT = Path(__file__).parents[1]


def test_the_tables_of_the_readme_are_those_of_the_results():
  text = (ROOT / "README.md").read_text()
  assert runpy.run_path(str(ROOT / "docs" / "tables.py"))["written"](text) == text, "make tables"


def test_gcad_is_before_all_others_where_parts_must_belong_together():
  logical = runpy.run_path(str(ROOT / "docs" / "tables.py"))["logical"]
  first, *others = sorted(
    logical("variants", "mismatch")[1:], key=lambda row: float(row[2]), reverse=True
  )
  assert first[0] == "GCAD" and len(others) == 10
  chance = [row[0] for row in others if float(row[4]) < 0.6]
  assert chance == [row[0] for row in others if row[0] != "SPADE"]


def test_numbers_of_the_paper_are_found_by_our_names():
  cell = published.of("unsupervised", "mtd", "rd4ad")["image_auroc"]
  assert (cell.value, cell.table, cell.doubt) == (0.884, "VI", "")
  assert published.of("unsupervised", "mtd", "simplenet") == {}
  few = published.of("few_shot", "mvtec_ad", "patchcore", "shots=4")
  assert few["image_auroc"].value == pytest.approx(0.844)
  assert published.of("unsupervised", "mtd", "padim")["pixel_ap"].doubt
  assert all(0 <= c.value <= 1 for c in published.cells() if not c.metric.startswith("fm"))
