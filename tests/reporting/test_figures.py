"""Figures: there only with the data for them, parts of one page, legible on dark and light."""

import itertools
import re
import subprocess
import sys
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest

from imiad_jax.reporting import drawing, figures, ranks, tradeoff
from tests.reporting.drawn import auroc, continual, line

LOWER = [[0.9], [0.7, 0.8], [0.8, 0.5, 0.625]]


def few(method, value, shots, view="none", **more):
  return auroc("few_shot", method, [value], kw={"shots": shots, "view": view}, **more)


def noisy(method, value, ratio, **more):
  kw = {"ratio": ratio, "reading": "of_normal", "overlap": False}
  return auroc("noisy", method, value, kw=kw, **more)


def costly(method, seconds, value, size=1_000_000):
  cost = {"seconds_one": seconds, "scoring_bytes": size, "parameters": 0}
  return auroc("unsupervised", method, [value], efficiency=cost)


EVERYTHING = [
  continual("padim", LOWER),
  continual("patchcore", LOWER, seed=1),
  *few("padim", 0.7, 1),
  *few("padim", 0.8, 8),
  *few("padim", 0.9, 8, "rotation"),
  *few("padim", 0.8, 1, "rotation"),
  *noisy("padim", [0.9, 0.7], 0.1),
  *noisy("padim", [0.8, 0.6], 0.2),
  *costly("padim", 0.01, 0.9),
  *costly("patchcore", 0.02, 0.95),
  *[r for m in ("spade", "stpm", "cfa") for r in auroc("unsupervised", m, [0.9] * 6)],
]


def words(figure):
  """Returns the texts of a figure, in order."""
  return [
    t.text for t in ElementTree.fromstring(figure.svg).iter("{http://www.w3.org/2000/svg}text")
  ]


def test_there_is_a_figure_of_each_kind():
  titles = [figure.title for figure in figures.all(EVERYTHING)]
  assert titles == [
    "Task by task on mvtec_ad",
    "Performance and forgetting on mvtec_ad",
    "Hidden defects on mvtec_ad",
    "Few images on mvtec_ad",
    "Accuracy and cost on mvtec_ad",
    "Is any method better?",
  ]


@pytest.mark.parametrize("kind", figures.KINDS, ids=lambda kind: kind.draw.__name__)
def test_no_figure_without_its_data(kind):
  assert kind.draw([], "mvtec_ad") is None
  assert kind.draw(EVERYTHING, "another") is None
  assert kind.draw(EVERYTHING, "mvtec_ad") is not None
  assert re.match(r"python -m imiad_jax.main --config=configs/table_\w+\.py", kind.command)


def test_what_lacks_is_said_with_the_command_for_it():
  assert figures.lacking(EVERYTHING) == []
  (said,) = figures.lacking([r for r in EVERYTHING if r["run"]["setting"] != "noisy"])
  assert "hidden defects" in said and "configs/table_noisy.py" in said
  assert len(figures.lacking([])) == len(figures.KINDS) + 1  # the ranks, of all data sets


def test_one_page_can_hold_them_all():
  every = figures.all(EVERYTHING)
  assert figures.all(EVERYTHING) == every  # the same text every time
  ids, refs = [], []
  for figure in every:
    root = ElementTree.fromstring(figure.svg)
    ids += [e.get("id") for e in root.iter() if e.get("id")]
    refs += re.findall(r'url\(#([^)]*)\)|href="#([^"]*)"', figure.svg)
    assert root.get("aria-label") == figure.title
    assert "http" not in figure.svg.replace("http://www.w3.org/2000/svg", "")
    assert not re.search(r"<(script|style|image|metadata)", figure.svg)
  assert len(ids) == len(set(ids))
  assert {a or b for a, b in refs} <= set(ids)


def test_ink_follows_the_page_and_is_never_black():
  for figure in figures.all(EVERYTHING):
    assert "currentColor" in figure.svg and drawing.INK not in figure.svg
    # Numbers on coloured cells are black or white whatever the page is.
    drawn = re.findall(r"<(?:path|use)[^>]*?(?:stroke|fill): (#\w+)", figure.svg)
    assert not {"#000000", "#ffffff", "#000", "#fff"} & set(drawn)
    for text in re.findall(r"<text[^>]*>", figure.svg):
      assert "currentColor" in text or "Task by task" in figure.title


def luminance(colour):
  """Returns the relative luminance of WCAG 2."""
  parts = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
  linear = np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)
  return float(linear @ [0.2126, 0.7152, 0.0722])


@pytest.mark.parametrize("page", ["#ffffff", "#121212"])
def test_series_stand_out_from_the_page(page):
  for colour in drawing.COLOURS:
    light, dark = sorted((luminance(colour), luminance(page)), reverse=True)
    assert (light + 0.05) / (dark + 0.05) >= 3  # WCAG 2 on graphics


def test_series_differ():
  assert len({drawing.style(k) for k in range(50)}) == 50


# ---- what they show ----


def test_matrix_has_the_mean_over_seeds():
  other = [*LOWER[:2], [0.6, 0.5, 0.625]]
  figure = figures.matrices(
    [continual("padim", LOWER), continual("padim", other, seed=1)], "mvtec_ad"
  )
  numbers = [w for w in words(figure) if re.fullmatch(r"\d\.\d\d", w)]
  assert numbers == ["0.90", "0.70", "0.80", "0.70", "0.50", "0.62"]
  assert words(figure)[:3] == ["a", "b", "c"] and "PaDiM" in words(figure)


def test_the_lowest_matrix_of_each_column_has_the_names():
  rs = [continual(m, LOWER) for m in ("padim", "patchcore", "stpm")]  # the third alone below
  assert [w for w in words(figures.matrices(rs, "mvtec_ad")) if w in "abc"] == list("abc") * 2


def test_matrix_is_of_the_order_of_tasks_that_most_lines_have():
  rs = [*[continual(m, LOWER) for m in ("padim", "patchcore")], continual("padim", LOWER, "cab")]
  assert [w for w in words(figures.matrices(rs, "mvtec_ad")) if w in "abc"] == list("abc") * 2


def test_bars_have_performance_and_forgetting():
  said = words(figures.forgetting([continual("padim", LOWER)], "mvtec_ad"))
  assert "0.642" in said  # (0.8 + 0.5 + 0.625) / 3
  assert "0.133" in said  # (0.1 + 0.3 + 0) / 3


def test_noise_begins_where_the_same_variant_had_none():
  clean = auroc("unsupervised", "padim", [0.95, 0.9])
  rs = [*noisy("padim", [0.9, 0.7], 0.1), *noisy("padim", [0.8, 0.6], 0.2)]
  ticks = [w for w in words(figures.noise([*rs, *clean], "mvtec_ad")) if w in ("0", "0.1", "0.2")]
  assert ticks == ["0", "0.1", "0.2"]
  for other in (
    clean[:1],  # on another set of categories
    auroc("unsupervised", "padim", [0.9, 0.9], own={"size": 448}),
  ):
    assert "0" not in words(figures.noise([*rs, *other], "mvtec_ad"))
  assert figures.noise(rs[:2], "mvtec_ad") is None  # one ratio is no line


def test_other_readings_of_noise_are_not_mixed_in():
  rs = [*noisy("padim", [0.9], 0.1), *noisy("padim", [0.8], 0.2)]
  rs[1]["run"]["setting_kw"] = {"ratio": 0.2, "reading": "of_all", "overlap": False}
  assert figures.noise(rs, "mvtec_ad") is None


def test_views_are_lines_of_their_own():
  said = words(figures.shots(EVERYTHING, "mvtec_ad"))
  assert {"PaDiM", "PaDiM + rotation", "1", "8"} <= set(said)


# ---- accuracy and cost ----


@pytest.mark.parametrize("seed", range(20))
def test_front_is_what_no_other_point_beats(seed):
  rng = np.random.default_rng(seed)
  cost, value = rng.integers(0, 6, 12) / 2, rng.integers(0, 6, 12) / 2  # with ties
  found = tradeoff.front(cost, value)
  for i in range(12):
    beaten = any(
      cost[j] <= cost[i] and value[j] >= value[i] and (cost[j], value[j]) != (cost[i], value[i])
      for j in range(12)
    )
    assert found[i] == (not beaten)


def test_points_are_means_of_what_was_measured():
  rs = [
    line(
      "unsupervised",
      "padim",
      category,
      {"image_auroc": value},
      efficiency={"seconds_one": s, "scoring_bytes": 10, "parameters": 5},
    )
    for category, value, s in [("a", 0.9, 0.1), ("b", 0.7, 0.3)]
  ]
  rs += auroc("unsupervised", "spade", [0.9])  # its cost was not measured
  (point,) = tradeoff.points(rs, "mvtec_ad")
  assert point == ("PaDiM", pytest.approx(0.2), pytest.approx(0.8), 30)
  assert tradeoff.picture(rs, "mvtec_ad") is None  # one point is no trade-off


def test_accuracy_is_that_of_all_runs_whichever_were_costed():
  cost = {"seconds_one": 0.1, "scoring_bytes": 10, "parameters": 5}
  rs = [
    line("unsupervised", "padim", "a", {"image_auroc": 0.9}, efficiency=cost),
    line("unsupervised", "padim", "b", {"image_auroc": 0.7}),
    line("unsupervised", "padim", "b", {"image_auroc": 0.5}, seed=1),
    line("unsupervised", "padim", "a", {"image_auroc": 0.7}, seed=1),
  ]
  (point,) = tradeoff.points(rs, "mvtec_ad")
  assert point == ("PaDiM", pytest.approx(0.1), pytest.approx(0.7), 30)


def test_equal_points_are_drawn_and_named():
  rs = [*costly("padim", 0.03, 0.9), *costly("spade", 0.03, 0.9)]
  said = words(tradeoff.picture(rs, "mvtec_ad"))
  assert {"PaDiM", "SPADE"} <= set(said)
  assert {"20", "50"} & set(said)  # a scale within a decade has numbers


def test_labels_do_not_touch():
  rng = np.random.default_rng(0)
  places, widths = rng.uniform(0, 60, (20, 2)), [float(w) for w in rng.uniform(20, 60, 20)]
  drops = tradeoff._drops(places, widths)
  assert min(drops) == 0
  boxes = [(x, y - d, w) for (x, y), d, w in zip(places, drops, widths, strict=True)]
  for (x, y, w), (a, b, v) in itertools.combinations(boxes, 2):
    assert x >= a + v or a >= x + w or abs(y - b) >= 10


def test_diagram_names_all_methods_with_their_ranks():
  rs = [
    r
    for k, m in enumerate(("padim", "patchcore", "spade", "stpm"))
    for r in auroc("unsupervised", m, [0.9 - k / 10] * 6)
  ]
  said = words(ranks.diagram(ranks.of(rs)))
  # 2.569 x sqrt(4 x 5 / (6 x 6)) = 1.91: neighbours are joined.
  assert "critical difference 1.91" in said
  assert [w for w in said if "." in w][1:] == [
    "PaDiM  1.00",
    "PatchCore  2.00",
    "3.00  SPADE",
    "4.00  STPM",
  ]


def test_ranks_on_too_few_categories_are_drawn_without_a_critical_difference():
  rs = [
    r
    for k, m in enumerate(("padim", "patchcore", "spade"))
    for r in auroc("unsupervised", m, [0.9 - k / 10] * 2)
  ]
  figure = ranks.diagram(ranks.of(rs))
  said = words(figure)
  assert "PaDiM  1.00" in said and not any("critical" in w for w in said)
  assert "cannot be said" in figure.caption and "bar" not in figure.caption


def test_running_does_not_load_matplotlib():
  code = (
    "import sys, imiad_jax.main, imiad_jax.reporting.comparison; print('matplotlib' in sys.modules)"
  )
  done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
  assert done.stdout.strip() == "False"
