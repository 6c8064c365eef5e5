"""The paper's tables: ours and the published rows side by side, best ones and doubts marked."""

from imiad_jax.reporting import comparison, writers
from imiad_jax.reporting.comparison import Cell
from tests.reporting.drawn import auroc, continual, line


def texts(row):
  return [cell.text for cell in row.cells]


def marks(row):
  return [cell.mark for cell in row.cells]


def test_ours_the_papers_and_the_difference():
  # Table VI, MTD: PaDiM 0.885 and a pixel AP of 0.768 that is a copy; PatchCore 0.975, 0.303.
  values = {"image_auroc": 0.95, "pixel_ap": 0.25}
  rs = [
    line("unsupervised", "padim", "mtd", values, dataset="mtd"),
    line("unsupervised", "patchcore", "mtd", {"image_auroc": 0.9, "pixel_ap": 0.3}, dataset="mtd"),
    line("unsupervised", "simplenet", "mtd", {"image_auroc": 0.7}, dataset="mtd"),
  ]
  (table,) = comparison.tables(rs)
  assert table.head == ["method", "image AUROC", "pixel AP"]
  assert "Table VI" in table.caption and "marked" in table.caption
  padim, paper, less, patchcore, other, _, simplenet = table.rows
  assert [r.kind for r in table.rows[:3]] == ["ours", "paper", "difference"]
  assert [r.label for r in table.rows[:3]] == ["PaDiM"] * 3
  assert (texts(padim), marks(padim)) == (["0.950", "0.250"], ["best", "second"])
  assert (texts(paper), marks(paper)) == (["0.885", "0.768"], ["second", "doubt"])
  assert paper.cells[1].note == "a copy of another cell"
  assert texts(less) == ["+0.065", ""] and "doubt" in less.cells[1].note
  assert marks(patchcore) == ["second", "best"]
  assert marks(other) == ["best", ""]  # the only pixel AP that is no copy
  assert (texts(simplenet), marks(simplenet)) == (["0.700", ""], ["", ""])


def test_ties_share_a_place_and_what_lacks_categories_has_none():
  rs = [
    *auroc("unsupervised", "padim", [0.9, 0.8], dataset="synthetic"),
    *auroc("unsupervised", "patchcore", [0.8, 0.9], dataset="synthetic"),
    *auroc("unsupervised", "spade", [0.6, 0.6], dataset="synthetic"),
    *auroc("unsupervised", "stpm", [0.99], dataset="synthetic"),
  ]
  (table,) = comparison.tables(rs)
  assert [marks(r) for r in table.rows] == [["best"], ["best"], ["second"], [""]]
  assert table.rows[3].cells[0].note == "1 of 2 categories, 1 seed"
  assert "not ranked" in table.caption and "no such numbers on synthetic" in table.caption


def test_seeds_give_a_spread_and_an_interval():
  rs = [
    line("unsupervised", "padim", "a", {"image_auroc": 0.8 + s / 10}, seed=s, dataset="x")
    for s in (0, 1)
  ]
  (table,) = comparison.tables(rs)
  note = "1 category, 2 seeds, 95 % interval 0.800 to 0.900"
  assert table.rows[0].cells == [Cell("0.850 ± 0.071", "", note, "0.800 to 0.900")]
  assert "95 % bootstrap intervals" in table.caption


def test_few_images_with_and_without_views():
  rs = [
    r
    for shots, view, value in [(8, "rotation", 0.9), (8, "none", 0.8), (1, "none", 0.7)]
    for r in auroc("few_shot", "patchcore", [value], kw={"shots": shots, "view": view})
  ]
  table = comparison.tables(rs)[0]
  assert table.head[1:] == ["1 image", "8 images", "8 images, rotation"]
  assert texts(table.rows[1]) == ["0.788", "0.891", "0.916"]  # Table IX


def test_noise_and_reweighting():
  rs = [
    *auroc("noisy", "patchcore", [0.9], kw={"ratio": 0.15}, own={"reweight": 1}),
    *auroc("noisy", "patchcore", [0.95], kw={"ratio": 0.15}, own={"reweight": 9}),
    *auroc("noisy", "padim", [0.9], kw={"ratio": 0.15}),
  ]
  noisy, reweighted = comparison.tables(rs)
  assert [r.label for r in noisy.rows] == ["PaDiM"] * 3 + ["PatchCore (reweight=1)"] * 3
  assert texts(noisy.rows[4]) == ["0.975"]  # Table X
  assert [texts(r) for r in reweighted.rows] == [
    *(["0.900"], ["0.975"], ["-0.075"]),  # Table XII, without
    *(["0.950"], ["0.984"], ["-0.034"]),  # with nine
  ]


def test_other_readings_of_a_protocol_are_not_compared():
  rs = [
    *auroc("noisy", "padim", [0.9], kw={"ratio": 0.1, "reading": "of_all"}),
    *auroc("fully_supervised", "patchcore", [0.9], kw={"anomalies": 10, "kinds": 1}),
  ]
  supervised, noisy = comparison.tables(rs)
  assert noisy.title.endswith("mvtec_ad, reading=of_all")
  assert supervised.title == "10 anomalies told on mvtec_ad, of 1 kind of defect"
  assert {r.kind for t in (noisy, supervised) for r in t.rows} == {"ours"}


def test_patchcore_stands_among_the_supervised():
  values = {"pixel_ap": 0.5}
  kw = {"anomalies": 10, "kinds": 0}
  rs = [line("fully_supervised", "patchcore", "bottle", values, kw=kw)]
  (table,) = comparison.tables(rs)
  assert texts(table.rows[1]) == ["0.561"]  # Table VIII


def test_performance_and_forgetting_less_is_better():
  rs = [
    continual("padim", [[0.9], [0.7, 0.8]], "ab"),
    continual("patchcore", [[0.8], [0.8, 0.6]], "ab"),
  ]
  (table,) = comparison.tables(rs)
  assert table.head == ["method", "image AUROC", "image AUROC, FM"]
  padim, paper, _, patchcore = table.rows[:4]
  assert (texts(padim), marks(padim)) == (["0.750", "0.100"], ["best", "second"])
  assert (texts(patchcore), marks(patchcore)) == (["0.700", "0.000"], ["second", "best"])
  assert texts(paper) == ["0.545", "0.368"]  # Table XI


def test_what_rounds_to_zero_has_no_sign():
  (table,) = comparison.tables([continual("patchcore", [[0.8], [0.8002, 0.6]], "ab")])
  lost = table.rows[0].cells[1]
  assert (lost.text, lost.interval) == ("0.000", "0.000 to 0.000")


def test_the_unified_view_averages_what_all_settings_have():
  rs = [
    *auroc("unsupervised", "patchcore", [0.9, 0.8]),
    *auroc("noisy", "patchcore", [0.7, 0.6], kw={"ratio": 0.15}),
    *auroc("few_shot", "patchcore", [0.5, 0.5], kw={"shots": 8, "view": "none"}),
    continual("patchcore", [[0.5], [0.4, 0.3]], "ab"),
    *auroc("unsupervised", "padim", [0.9, 0.8]),
  ]
  table = comparison.tables(rs)[-1]
  assert table.head[1:] == ["vanilla", "noisy 0.15", "8-shot", "continual", "mean of the four"]
  padim, _, _, ours, paper, _ = table.rows
  assert texts(padim) == ["0.850", "", "", "", ""]
  # a: (0.9 + 0.7 + 0.5 + 0.4) / 4, b: (0.8 + 0.6 + 0.5 + 0.3) / 4
  assert texts(ours) == ["0.850", "0.650", "0.500", "0.350", "0.587"]
  assert texts(paper) == ["0.992", "0.975", "0.864", "0.919", "0.938"]  # Table XIII


def test_what_has_no_number_has_no_row():
  rs = [
    *auroc("unsupervised", "padim", [0.9], dataset="x"),
    *auroc("noisy", "padim", [0.9], dataset="x", kw={"ratio": 0.15}),
    *auroc("fully_supervised", "bgad", [0.9], dataset="x", kw={"anomalies": 10, "kinds": 0}),
  ]
  assert [r.label for r in comparison.tables(rs)[-1].rows] == ["PaDiM"]


def test_another_noise_has_no_published_number_in_the_unified_view():
  rs = [
    *auroc("unsupervised", "patchcore", [0.9]),
    *auroc("noisy", "patchcore", [0.7], kw={"ratio": 0.3}),
  ]
  table = comparison.tables(rs)[-1]
  assert table.head[1:] == ["vanilla", "noisy 0.3"]
  assert texts(table.rows[1]) == ["0.992", ""]


def test_logical_anomalies():
  kinds = {"logical_anomalies": {"auroc": 0.7}, "structural_anomalies": {"auroc": 0.9}}
  values = {"image_auroc": 0.8, "kinds": kinds, "spro@0.05_logical": 0.5}
  rs = [line("unsupervised", "gcad", "juice_bottle", values, dataset="mvtec_loco")]
  plain, logical = comparison.tables(rs)
  assert [r.kind for r in plain.rows] == ["ours"]  # Table VI has no GCAD
  assert texts(logical.rows[0]) == ["0.700", "0.900", "0.800", "0.500"]
  assert texts(logical.rows[1]) == ["0.860", "0.806", "0.833", "0.711"]  # Table VII


# ---- how they are written ----

TABLE = comparison.Table(
  "A_b on 5 %",
  "± the spread.",
  ["method", "x_1"],
  [
    comparison.Row("M_1 | 2", "ours", [Cell("0.9 ± 0.1", "best", "", "0.8 to 1.0")]),
    comparison.Row("M_1 | 2", "paper", [Cell("0.8", "doubt", "wrong")]),
    comparison.Row("M_1 | 2", "difference", [Cell("")]),
  ],
)


def test_markdown_escapes_and_marks():
  head, rule, *rows = writers.markdown([TABLE]).splitlines()[2:7]
  assert (head, rule) == ("| method | x\\_1 |", "|---|---|")
  assert rows == [
    "| M\\_1 \\| 2 | **0.9 ± 0.1** (0.8 to 1.0) |",
    "| paper | 0.8 (?) |",
    "| ours - paper |  |",
  ]


def test_latex_escapes_and_marks():
  written = writers.latex([TABLE])
  assert r"\caption{A\_b on 5 \%. $\pm$ the spread.}" in written
  assert r"method & x\_1 \\" in written
  assert written.startswith(r"% \usepackage{booktabs,graphicx,xcolor}")
  assert r"M\_1 | 2 & \textbf{0.9 $\pm$ 0.1} \\" + "\n" + r" & {\tiny 0.8--1.0} \\" in written
  assert r"\textcolor{gray}{\itshape 0.8$^\dagger$}" in written
  assert written.count(r"\begin") == written.count(r"\end")
  depth = written.replace(r"\{", "").replace(r"\}", "")
  assert depth.count("{") == depth.count("}")
