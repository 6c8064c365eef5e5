"""Tables: what is averaged over what, by hand; nothing that does not exist becomes a number."""

import csv
import io
import subprocess
import sys
import uuid

import numpy as np
import pytest

from imiad_jax import records, summary, tables
from imiad_jax.types import Run

VERSIONS = {"method": "1", "data": "aaaa"}


def record(rows, categories=("bottle",), seed=0, versions=VERSIONS, **changes) -> dict:
  run = Run("synthetic", categories, "unsupervised", {}, "padim", {"size": 64}, seed)
  run = run._replace(**changes)
  identity = records.run_id(run, versions)
  out = {"id": identity, "run": run._asdict(), "versions": versions}
  return out | ({"error": rows} if isinstance(rows, str) else {"rows": rows})


def row(task="bottle", learnt=0, **metrics) -> dict:
  return {"learnt": learnt, "task": task, "seconds": {"score": 1.0}} | metrics


def continual(values, tasks=("a", "b", "c"), metric="image_auroc", **more) -> dict:
  """A record of a matrix given as its lower triangle, row by row."""
  rows = [
    row(tasks[j], i, **({} if value is None else {metric: value}))
    for i, line in enumerate(values)
    for j, value in enumerate(line)
  ]
  return record(rows, tuple(tasks), setting="continual", **more)


# ---- unsupervised ----


def test_means_and_spreads_over_seeds():
  rs = [
    record([row(image_auroc=0.8)], seed=0),
    record([row(image_auroc=0.9)], seed=1),
    record([row("woven", image_auroc=0.6)], ("woven",), seed=0),
  ]
  # The spread is the sample's: sqrt(((0.8 - 0.85)^2 + (0.9 - 0.85)^2) / (2 - 1)) = 0.0707.
  assert tables.scores(rs) == [
    ["category", "I-AUROC"],
    ["bottle", "0.850 ± 0.071"],
    ["woven", "0.600"],
    ["mean", "0.725"],
  ]


def test_a_metric_that_is_absent_is_no_number():
  rs = [
    record([row(image_auroc=0.8, pixel_pro=0.3)]),
    record([row("woven", image_ap=0.6)], ("woven",)),
    record([row("tray")], ("tray",)),
  ]
  assert tables.scores(rs) == [
    ["category", "I-AUROC", "I-AP", "PRO"],
    ["bottle", "0.800", "-", "0.300"],
    ["woven", "-", "0.600", "-"],
    ["mean", "0.800", "0.600", "0.300"],
  ]


def test_one_category_has_no_mean():
  assert tables.scores([record([row(image_ap=0.5)])]) == [["category", "I-AP"], ["bottle", "0.500"]]


def test_what_differs_in_more_than_seed_and_category_is_not_averaged():
  one = record([row(image_auroc=0.8)])
  others = [
    record([row(image_auroc=0.6)], method="patchcore"),
    record([row(image_auroc=0.6)], method_kw={"size": 32}),
    record([row(image_auroc=0.6)], setting_kw={"k": 2}),
    record([row(image_auroc=0.6)], dataset="mtd"),
    record([row(image_auroc=0.6)], versions=VERSIONS | {"method": "2"}),
  ]
  sections = tables.sections([one, *others])
  assert [table[1] for _, table in sections] == [["bottle", "0.800"], *[["bottle", "0.600"]] * 5]
  titles = [title for title, _ in sections]
  assert len(set(titles)) == 6
  assert titles[0] == "padim on synthetic, unsupervised (size=64) (method=1, data=aaaa)"
  assert titles[3] == "padim on synthetic, unsupervised (k=2) (size=64)"


def test_titles_name_what_varies_alone():
  rs = [record([row(image_auroc=0.8)], method_kw={"size": s, "dim": 100}) for s in (64, 128)]
  rs += [record([row(image_auroc=0.8)], method="spade", setting_kw={"sizes": [], "k": 2})]
  assert [title for title, _ in tables.sections(rs)] == [
    "padim on synthetic, unsupervised (size=64)",
    "padim on synthetic, unsupervised (size=128)",
    "spade on synthetic, unsupervised (k=2)",
  ]


# ---- continual ----

# After each task: a 0.9, then 0.7, then 0.8; b 0.8, then 0.5; c 0.6.
LOWER = [[0.9], [0.7, 0.8], [0.8, 0.5, 0.6]]


def test_matrix_has_what_was_learnt_down_and_what_was_tested_across():
  matrix = tables.matrix(continual(LOWER), "image_auroc")
  nan = np.nan
  np.testing.assert_array_equal(matrix, [[0.9, nan, nan], [0.7, 0.8, nan], [0.8, 0.5, 0.6]])
  assert tables.matrix(continual(LOWER), "pixel_ap") is None


def test_performance_and_forgetting():
  # Performance (0.8 + 0.5 + 0.6) / 3 = 0.633. Lost: a 0.9 - 0.8, b 0.8 - 0.5, together 0.4:
  # over two tasks 0.2, over three 0.133.
  expected = ["I-AUROC", "0.633", "0.200", "0.133"]
  head = ["metric", "performance", "FM", "FM/T"]
  assert tables.forgetting_table([continual(LOWER)]) == [head, expected]


def test_continual_seeds_are_averaged():
  # Another seed in which a is 0.2 lower at the end: performance 0.567, lost 0.6, 0.3 and 0.2.
  other = [*LOWER[:2], [0.6, 0.5, 0.6]]
  rs = [continual(LOWER, seed=0), continual(other, seed=1)]
  (_, matrix), (_, forgetting) = tables.sections(rs)
  assert matrix == [
    ["after learning", "a", "b", "c"],
    ["a", "0.900", "", ""],
    ["b", "0.700", "0.800", ""],
    ["c", "0.700", "0.500", "0.600"],
  ]
  assert forgetting[1] == ["I-AUROC", "0.600 ± 0.047", "0.250 ± 0.071", "0.167 ± 0.047"]


def test_other_orders_and_numbers_of_tasks_stand_apart():
  rs = [continual(LOWER), continual(LOWER, "bac"), continual(LOWER[:2], "ab")]
  heads = [table[0][1:] for _, table in tables.sections(rs)[::2]]
  assert heads == [list("abc"), list("bac"), list("ab")]


def test_a_metric_that_one_task_lacks_has_no_forgetting():
  lacking = continual([[0.9], [0.7, None], [0.8, None, 0.6]])
  (_, matrix), (_, forgetting) = tables.sections([lacking])
  assert matrix == [["after learning", "a", "b", "c"]]
  assert forgetting == [["metric", "performance", "FM", "FM/T"]]


# ---- how they are written ----

EVERYTHING = [
  record([row(image_auroc=0.8, pixel_ap=0.1)], seed=0),
  record([row("woven", image_auroc=0.9)], ("woven",)),
  record("image scores of 3 of 9 images of tray are not finite", ("tray",)),
  continual(LOWER),
  continual([[0.9], [0.7, None]], "ab", method="dne"),
]


def test_failed_runs_are_shown_and_not_counted():
  for written in (tables.text(tables.sections(EVERYTHING)), tables.markdown(EVERYTHING)):
    assert "FAILED on tray: image scores of 3 of 9 images" in written
  assert "FAILED" in tables.text(tables.sections([EVERYTHING[2]]))
  assert [name for name, *_ in tables.sections(EVERYTHING[:3])[1][1]] == [
    *("category", "bottle", "woven", "mean")
  ]


def test_markdown_tables_have_as_many_cells_in_each_line():
  blocks = [b for b in tables.markdown(EVERYTHING).split("\n\n") if b.startswith("|")]
  assert len(blocks) == 5  # unsupervised one, continual two each
  for block in blocks:
    head, rule, *rows = (line.strip("|").split("|") for line in block.strip().splitlines())
    assert set(rule) == {"---"}
    assert {len(head), len(rule)} | {len(r) for r in rows} == {len(head)}


def test_text_tables_have_aligned_columns():
  lines = tables.text(tables.sections(EVERYTHING[:2])).splitlines()
  head, rule, *rows = lines[2:]
  assert set(rule) == {"-"} and len(rule) >= max(map(len, rows))
  assert {r.index("0.") for r in rows} == {head.index("I-AUROC")}


def test_csv_reads_back():
  read = list(csv.DictReader(io.StringIO(tables.rows_csv(EVERYTHING))))
  assert len(read) == 1 + 1 + 6 + 3  # the failed run has no rows
  assert read[0]["id"] == EVERYTHING[0]["id"]
  assert (read[0]["image_auroc"], read[0]["pixel_ap"], read[0]["pixel_pro"]) == ("0.8", "0.1", "")
  assert [(r["learnt"], r["task"], r["image_auroc"]) for r in read[-3:]] == [
    *(("0", "a", "0.9"), ("1", "a", "0.7"), ("1", "b", ""))
  ]


# ---- the command ----


def report(folder, out) -> subprocess.CompletedProcess:
  command = [sys.executable, "-m", "imiad_jax.report", f"--results={folder}", f"--out={out}"]
  return subprocess.run(command, check=False, capture_output=True, text=True, timeout=60)


def test_report_writes_its_files(tmp_path):
  for r in EVERYTHING:
    records.append(records.path(str(tmp_path / "results"), Run(**r["run"])), r)
  done = report(tmp_path / "results", tmp_path / "out")
  assert (done.returncode, done.stderr) == (0, "")
  assert "from 5 runs" in done.stdout
  read = list(records.read_all(str(tmp_path / "results")))
  assert (tmp_path / "out" / "report.md").read_text().endswith(tables.markdown(read))
  assert (tmp_path / "out" / "index.html").read_text().startswith("<!DOCTYPE html>")
  assert (tmp_path / "out" / "report.tex").exists()
  assert (tmp_path / "out" / "report.csv").read_text() == tables.rows_csv(read)


@pytest.mark.parametrize("wrong", ["nothing there", "cannot be written"])
def test_report_says_in_one_line_what_is_wrong(tmp_path, wrong):
  (tmp_path / "file").touch()
  if wrong == "cannot be written":
    r = EVERYTHING[0]
    records.append(records.path(str(tmp_path), Run(**r["run"])), r)
  done = report(tmp_path, tmp_path / "file" / uuid.uuid4().hex)
  assert done.returncode == 2
  said = "no results" if wrong == "nothing there" else "cannot be written: Not a directory"
  assert done.stderr.startswith("error: ") and said in done.stderr
  assert done.stderr.count("\n") == 1


# ---- summary ----


def test_summary_has_a_line_for_each_variant_and_a_column_for_what_varies():
  few = [
    record([row(c, image_auroc=v)], (c,), setting="few_shot", setting_kw={"shots": s, "view": "x"})
    for s, c, v in [(10, "a", 0.9), (10, "b", 0.7), (2, "a", 0.6), (2, "b", 0.5)]
  ]
  few[1]["peak_bytes"] = 2_500_000_000
  (one, two) = summary.of([*few, continual(LOWER), record("broken", setting="few_shot")])
  assert one == (
    "few_shot on synthetic",
    [
      ["method", "shots", "I-AUROC", "s", "GB"],
      ["padim", "2", "0.550", "1.0", "-"],
      ["padim", "10", "0.800", "1.0", "2.5"],
    ],
  )
  head = ["method", "I-AUROC", "FM I-AUROC", "s", "GB"]
  # Six rows took a second each.
  assert two == ("continual on synthetic", [head, ["padim", "0.633", "0.200", "6.0", "-"]])


def test_a_run_without_test_images_says_so():
  nothing = record([])
  ((title, table),) = tables.sections([nothing])
  assert "no test images" in title and table == []
  assert summary.of([nothing]) == [] and tables.text([(title, table)])


def test_summary_tells_variants_of_a_method_apart_by_what_varies():
  rs = [record([row("a", image_auroc=v)], ("a",)) for v in (0.7, 0.9, 0.5)]
  rs[0]["run"]["method_kw"] = {"reweight": 10, "size": 224}
  rs[1]["run"]["method_kw"] = {"reweight": 9, "size": 224}
  rs[2]["run"] |= {"method": "other", "method_kw": {"size": 32}}
  ((_, table),) = summary.of(rs)
  assert [line[:2] for line in table[1:]] == [
    ["other", "0.500"],
    ["padim (reweight=9)", "0.900"],
    ["padim (reweight=10)", "0.700"],
  ]


def test_summary_has_variants_of_the_setting_across_where_there_are_several_methods():
  rs = [
    record([row("a", image_auroc=v)], ("a",), setting="noisy", setting_kw={"ratio": r, "x": 1})
    for r, v in [(0.2, 0.7), (0.1, 0.9), (0.1, 0.8)]
  ]
  rs[2]["run"]["method"] = "other"
  (lines, across) = summary.of(rs)
  assert len(lines[1]) == 4 and across == (
    "noisy on synthetic: I-AUROC by ratio",
    [["method", "0.1", "0.2"], ["other", "0.800", ""], ["padim", "0.900", "0.700"]],
  )
  assert len(summary.of(rs[:2])) == 1


def test_summary_has_bytes_where_they_were_measured():
  rs = [record([row("a", image_auroc=0.5)], ("a",), seed=seed) for seed in (0, 1)]
  rs[1]["efficiency"] = {"scoring_bytes": 1_500_000}
  ((_, table),) = summary.of(rs)
  assert (table[0][-1], table[1][-1]) == ("MB", "1.50")


def test_summary_tells_seen_from_unseen_kinds_where_anomalies_were_told():
  kinds = {"crack": {"auroc": 0.9}, "hole": {"auroc": 0.6}, "stain": {"auroc": 0.4}}
  told = record([row("a", image_auroc=0.7, kinds=kinds)], ("a",), setting="fully_supervised")
  told["selection"] = {"a": {"told": ["crack"]}}
  ((_, table),) = summary.of([told])
  assert table[0][1:4] == ["I-AUROC", "seen", "unseen"]
  assert table[1][1:4] == ["0.700", "0.900", "0.500"]


def test_summary_tells_logical_kinds_from_damage_after_the_last_task():
  kinds = {"mismatch": {"auroc": 0.9}, "hole": {"auroc": 0.6}, "stain": {"auroc": 0.4}}
  lower = {kind: {"auroc": 0.1} for kind in kinds}
  rows = [row("a", 0, image_auroc=0.7, kinds=lower), row("a", 1, image_auroc=0.7, kinds=kinds)]
  ((_, table),) = summary.of([record([*rows, row("b", 1, image_auroc=0.7)], ("a", "b"))])
  assert table[0][1:4] == ["I-AUROC", "logical", "damage"]
  assert table[1][1:4] == ["0.700", "0.900", "0.500"]
