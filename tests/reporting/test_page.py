"""The page: whole without a network, every link leads somewhere, nothing of a run is lost."""

import base64
import html.parser
import io
import pathlib
import re

import numpy as np
import pytest
from PIL import Image

from imiad_jax import evidence, records
from imiad_jax.reporting import charts, comparison, exhibits, page, pictures, runs
from imiad_jax.types import Run

PUBLISHED = pathlib.Path(__file__).parents[2] / "results" / "published"
VOID = {"meta", "link", "img", "input", "br", "path", "rect", "polyline", "use", "circle", "line"}


def record(method, category="bottle", seed=0, setting="unsupervised", **more) -> dict:
  run = Run("synthetic", (category,), setting, {}, method, {"size": 64}, seed)
  versions = {"method": "1", "setting": "1"}
  row = {"learnt": 0, "task": category, "seconds": {"learn": 1.0, "score": 2.0}}
  row |= {"image_auroc": 0.9 - 0.01 * seed, "image_ap": 0.8, "image_threshold": 0.5}
  out = {"id": records.run_id(run, versions), "run": run._asdict(), "versions": versions}
  return out | {"rows": [row], "seconds": 3.0, "time": "2026-01-01T00:00:00Z"} | more


def drawn(localises=True, seed=0, category="bottle") -> evidence.Test:
  """Evidence of 4 good images and 2 of each of two kinds, of which one is told wrong."""
  kind = np.array(["good"] * 4 + ["hole"] * 2 + ["bend<b>"] * 2)
  label = (kind != "good").astype(int)
  name = np.array([f"{category}/{k}/{i}.png" for i, k in enumerate(kind)])
  score = np.array([0.1, 0.2, 0.3, 0.4, 0.6, 0.3, 0.8, 0.9], np.float32)
  rng, shape = np.random.default_rng(seed), (8, evidence.SIDE, evidence.SIDE)
  mask = np.zeros(shape, bool)
  mask[4:, 20:40, 30:50] = True
  points = evidence.curve(rng.random(50), rng.random(20) + 0.3, np.ones(20))
  image = rng.integers(0, 255, (*shape, 3)).astype(np.uint8)
  maps = rng.random(shape if localises else (0, *shape[1:]))
  points = points if localises else np.zeros((0, 4))
  return evidence.Test(category, name, kind, label, score, points, np.arange(8), image, mask, maps)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  """A folder of results: three methods with evidence, one without, one that failed, one old."""
  root = str(tmp_path_factory.mktemp("results"))
  kept = [record("padim"), record("patchcore", seed=1), record("cutpaste")]
  others = [record("spade", "woven"), record("stpm", error="scores are <not> finite")]
  del others[1]["rows"]
  old = record("padim", versions={"method": "0"}, id="0ld0ld0ld0ld")
  for r in [*kept, *others, old]:
    records.append(records.path(root, Run(**r["run"])), r)
  for r in kept:
    run = Run(**r["run"])
    tests = [drawn(localises=run.method != "cutpaste", seed=run.seed)]
    evidence.write(evidence.path(root, run, r["id"]), tests)
  return root


@pytest.fixture(scope="module", params=["drawn", "published"])
def text(folder, request) -> str:
  """A page of drawn lines, and that of the lines we publish."""
  root = folder if request.param == "drawn" else str(PUBLISHED)
  return page.render(list(records.read_all(root)), root)


class Reader(html.parser.HTMLParser):
  """Collects elements, and complains about what is not closed in order."""

  def __init__(self, text: str):
    super().__init__()
    self.elements: list[tuple[str, dict]] = []
    self.open: list[str] = []
    self.feed(text)
    self.close()
    assert not self.open

  def handle_starttag(self, tag, attrs):
    assert len(dict(attrs)) == len(attrs), f"an attribute twice: {attrs}"
    self.elements.append((tag, dict(attrs)))
    if tag not in VOID:
      self.open.append(tag)

  def handle_startendtag(self, tag, attrs):
    self.elements.append((tag, dict(attrs)))

  def handle_endtag(self, tag):
    if tag not in VOID:
      assert self.open.pop() == tag, f"</{tag}> closes another element"

  def values(self, name: str) -> list[str]:
    return [attrs[name] for _, attrs in self.elements if name in attrs]


# ---- the page ----


def test_it_is_well_formed_and_its_ids_are_unique(text):
  ids = Reader(text).values("id")
  assert len(ids) == len(set(ids)) > 10


def test_every_link_leads_to_something_on_the_page(text):
  read = Reader(text)
  links = [link for link in read.values("href") if not link.startswith("data:")]
  assert len(links) > 10 and {link[0] for link in links} == {"#"}
  assert {link[1:] for link in links} <= set(read.values("id"))


def test_nothing_is_fetched(text):
  read = Reader(text)
  assert {uri.split(",")[0] for uri in read.values("src")} <= {"data:image/webp;base64"}
  assert not [tag for tag, attrs in read.elements if tag == "link" and attrs["href"] != "data:,"]
  for name, said in [attr for _, attrs in read.elements for attr in attrs.items()]:
    assert name == "xmlns" or "://" not in (said or ""), (name, said)
  assert not re.search(r"@import|url\((?!#)|fetch\(|XMLHttp|import\(", text)


def test_every_picture_says_what_it_is(text):
  found = [attrs for tag, attrs in Reader(text).elements if tag == "img" or "role" in attrs]
  assert found and all(attrs.get("alt") or attrs.get("aria-label") for attrs in found)


@pytest.fixture(scope="module")
def drawn_page(folder) -> str:
  return page.render(list(records.read_all(folder)), folder)


def test_every_run_is_there_and_what_it_says_is_no_markup(drawn_page, folder):
  text = drawn_page
  for r in records.read_all(folder):
    assert f'id="run-{r["id"]}"' in text
  assert "scores are &lt;not&gt; finite" in text and "<not>" not in text
  assert "bend&lt;b&gt;" in text and "bend<b>" not in text
  assert "1 that are of an earlier version" in text


def test_what_has_no_evidence_says_which_command_makes_it(drawn_page):
  said = html.unescape(drawn_page)
  command = "python -m imiad_jax.main --config=configs/default.py:method=spade,dataset=synthetic"
  assert f'{command} --config.categories="(\'woven\',)" --config.seeds="(0,)"' in said


def test_a_folder_without_evidence_or_any_number_still_has_a_page(tmp_path):
  failed = record("padim", error="no memory")
  del failed["rows"]
  for rs in ([record("padim")], [failed]):
    Reader(page.render(rs, str(tmp_path)))
    assert "No run kept pictures" in page.render(rs, str(tmp_path))


def test_the_rows_of_a_method_stay_together():
  kinds = ["ours", "paper", "difference", "ours", "ours", "paper"]
  labels = ["a", "a", "a", "b", "c", "c"]
  rows = [
    comparison.Row(name, kind, [])  # type: ignore[arg-type]
    for name, kind in zip(labels, kinds, strict=True)
  ]
  assert [[row.label for row in group] for group in page.grouped(rows)] == [
    ["a", "a", "a"],
    ["b"],
    ["c", "c"],
  ]


def test_commands_in_a_sentence_are_code_and_the_rest_is_text():
  said = "Of <5>: python -m imiad_jax.main --config=a.py:quick --config.x, or b: not python -m x."
  assert page.coded(said) == (
    "Of &lt;5&gt;: <code>python -m imiad_jax.main --config=a.py:quick --config.x</code>, or b: "
    "not python -m x."
  )
  assert page.coded("As python -m imiad_jax.main --config=configs/a.py.").endswith("a.py</code>.")


# ---- what a run's evidence says ----


def test_confusion_counts_a_score_at_the_threshold_as_detected():
  found = charts.confusion(drawn(), 0.3)
  assert (found.passed, found.detected) == ((2, 0), (2, 4))
  assert found.f1 == "0.800"  # 2 * 4 / (2 * 4 + 2 + 0)
  found = charts.confusion(drawn(), 0.5)
  assert (found.passed, found.detected, found.f1) == ((4, 1), (0, 3), "0.857")


def test_a_histogram_counts_every_image():
  found = charts.histogram(drawn(), 0.5)
  unit = charts.HEIGHT / found.most
  for which, count in (("normal", 4), ("anomalous", 4)):
    assert sum(getattr(bar, which) for bar in found.bars) == pytest.approx(count * unit)
  assert found.threshold == pytest.approx(charts.WIDTH / 2)  # 0.5 lies between 0.1 and 0.9
  assert charts.histogram(drawn()._replace(score=np.ones(8, np.float32)), None).most == 4


def test_curves_begin_and_end_where_they_should():
  roc, pr, pro = charts.curves(drawn())
  assert [line.name for line in roc.lines] == ["images", "pixels"]
  for line in roc.lines:
    points = line.points.split()
    assert points[0] == f"0.0,{charts.HEIGHT:.1f}" and points[-1] == f"{charts.WIDTH:.1f},0.0"
  assert len(pr.lines) == 2 and pro.end == "0.3"
  assert pro.lines[0].points.split()[-1].startswith(f"{charts.WIDTH:.1f},")
  assert [len(c.lines) for c in charts.curves(drawn(localises=False))] == [1, 1]
  assert charts.curves(drawn(localises=False)._replace(label=np.zeros(8, int))) == []


def test_the_worst_misses_of_a_run_are_marked_where_the_threshold_tells_them_wrong():
  (seen,) = runs.section(record("padim"), [drawn()]).seen
  said = [(miss.said, miss.missed, len(miss.pictures)) for miss in seen.misses]
  assert said == [
    ("hole, 0.3", True, 3),
    ("hole, 0.6", False, 3),
    ("good, 0.4", False, 3),
    ("good, 0.3", False, 3),
  ]


# ---- the gallery ----


def test_the_gallery_has_an_image_a_line_and_a_method_a_column_worst_first():
  kept = [
    (record("padim"), [drawn()]),
    (record("patchcore"), [drawn(seed=1)]),
    (record("padim", seed=1), [drawn(seed=2)]),  # of several seeds the first
    (record("cutpaste"), [drawn(localises=False)]),
    (record("padim", "woven"), [drawn(category="woven")]),
  ]
  read = {r["id"]: tests for r, tests in kept}
  bottle, woven = exhibits.exhibits([r for r, _ in kept], lambda r: read[r["id"]])
  assert bottle.title == "synthetic / bottle, unsupervised" and "woven" in woven.title
  assert [method for _, method in bottle.columns] == ["padim", "patchcore", "cutpaste"]
  assert [line.kind for line in bottle.lines[:1]] == ["hole"]  # 0.3 lies above one and a half of 4
  first = bottle.lines[0]
  assert [p.missed for p in first.pictures] == [True] * 3
  assert [bool(p.uri) for p in first.pictures] == [True, True, False]
  assert first.pictures[0].said == "0.3; above 62% of the good ones"
  assert len(bottle.lines) == 6  # two of each kind


def test_ground_truth_is_bright_where_the_defect_is_alone():
  test = drawn()._replace(image=np.full((8, evidence.SIDE, evidence.SIDE, 3), 200, np.uint8))
  uri = pictures.truth(test, 5)
  with Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2]))) as picture:
    shown = np.asarray(picture.convert("RGB")).astype(int)
  assert np.abs(shown[25:35, 35:45] - 200).mean() < 8  # it is compressed
  assert np.abs(shown[60:] - 100).mean() < 8
