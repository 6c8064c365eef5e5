"""What a run keeps: exact curves, the same pictures for every method, a file whole or absent."""

import numpy as np
import pytest

from imiad_jax import data, engine, evidence, features, metrics
from imiad_jax.errors import UserError
from imiad_jax.types import Index, Run, Scores

RUN = Run("synthetic", ("bottle", "woven"), "unsupervised", {}, "any", {"size": 64}, 0)


class Drawn(features.Store):
  """A store of two categories, each with 6 good images and 3 of two kinds of defect."""

  def __init__(self):
    kind = np.tile(np.repeat(["bend", "good", "hole"], [3, 6, 3]), 2)
    category = np.repeat(["bottle", "woven"], 12)
    name = np.array([f"{c}/{k}/{i}" for i, (c, k) in enumerate(zip(category, kind, strict=True))])
    split = np.full(24, "test")
    self.index = Index(name, category, split, kind, (kind != "good").astype(int))

  def pixels(self, rows, size) -> data.Pixels:
    image = np.tile(np.arange(size, dtype=np.uint8)[:, None, None], (len(rows), 1, size, 3))
    region = np.zeros((len(rows), size, size), np.uint8)
    for k, row in enumerate(rows):
      if self.index.label[row]:
        region[k, 5 : 9 + row, 10:30] = 1
        region[k, 50:60, 50 : 51 + row] = 2
    return data.Pixels(image + rows.astype(np.uint8)[:, None, None, None], region)


@pytest.fixture
def store() -> Drawn:
  return Drawn()


def outcome(store, category="bottle", seed=0, localises=True) -> engine.Outcome:
  """An outcome of drawn scores, higher where there is a defect."""
  rng, rows = np.random.default_rng(seed), store.index.rows(category, "test")
  maps = rng.random((len(rows), 8, 8)).repeat(8, axis=1).repeat(8, axis=2)
  maps = maps + 0.5 * (store.pixels(rows, 64).region > 0) + 1e-3 * rng.random(maps.shape)
  image = (rng.random(len(rows)) + store.index.label[rows]).astype(np.float32)
  scores = Scores(image, maps.astype(np.float32) if localises else None)
  return engine.Outcome(0, 0, category, rows, {}, scores, {}, True)


# ---- curves ----


@pytest.mark.parametrize("ties", [1, 5, 1000])
@pytest.mark.parametrize("n", [1, 7, 3000])
def test_each_point_of_a_curve_is_that_of_a_threshold(n, ties):
  rng = np.random.default_rng(n)
  normal = (rng.random(n) * ties).round(0 if ties < 1000 else 3)
  anomalous = (rng.random(n + 3) * ties + 0.3).round(0 if ties < 1000 else 3)
  weight = rng.random(n + 3)
  points = evidence.curve(normal, anomalous, weight)
  by_count = {
    (
      (normal >= t).mean(),
      (anomalous >= t).mean(),
      (anomalous >= t).sum() / ((anomalous >= t).sum() + (normal >= t).sum()),
      (weight @ (anomalous >= t) / weight.sum()).round(9),
    )
    for t in np.unique([*normal, *anomalous])
  }
  found = {(*point[:3], point[3].round(9)) for point in points}
  assert found <= by_count and len(points) <= 200
  assert len(found) == len(by_count) or len(by_count) > 100
  assert (np.diff(points[:, :2], axis=0) >= 0).all() and points[-1, :2].tolist() == [1, 1]


def test_a_curve_of_one_class_has_no_points():
  some, none = np.ones(3), np.zeros(0)
  assert evidence.curve(some, none, none).shape == (0, 4)
  assert evidence.curve(none, some, some).shape == (0, 4)


def test_thinned_curves_have_the_areas_that_are_measured(store):
  one = outcome(store)
  region = store.pixels(one.rows, 64).region
  said = metrics.pixel(one.scores.pixel, region, np.ones(len(region), bool))
  x, recall, _, overlap = evidence.of(one, store, RUN).curve.T
  x = np.concatenate([[0], x])
  assert np.trapezoid(np.concatenate([[0], recall]), x) == pytest.approx(said["auroc"], abs=1e-3)
  overlap = np.interp(np.linspace(0, 0.3, 10_001), x, np.concatenate([[0], overlap]))
  assert overlap.mean() == pytest.approx(said["pro"], abs=2e-3)


# ---- pictures ----


def test_first_of_each_kind_comes_before_any_second():
  kinds = ["hole", "bend", "bend", "good", "bend", "good", "good"]
  assert evidence.first_of_each(kinds).tolist() == [3, 1, 0, 5, 2]
  assert evidence.first_of_each([]).tolist() == []


def test_worst_misses():
  score, label = np.array([0.1, 0.9, 0.3, 0.5, 0.7]), np.array([0, 1, 0, 1, 0])
  assert evidence.worst(score, label, 1).tolist() == [3, 4]
  assert evidence.worst(score, label, 9).tolist() == [3, 1, 4, 2, 0]


def test_pictures_are_the_same_for_every_method_but_for_the_misses(store):
  one, other = (evidence.of(outcome(store, seed=seed), store, RUN) for seed in (0, 1))
  first = evidence.first_of_each(one.kind.tolist()).tolist()
  assert one.shown[: len(first)].tolist() == other.shown[: len(first)].tolist() == first
  np.testing.assert_array_equal(one.image[: len(first)], other.image[: len(first)])
  wrong = {*evidence.worst(one.score, one.label, 2).tolist()}
  assert {*one.shown.tolist()} == {*first} | wrong and len(one.shown) == len({*one.shown.tolist()})


def test_many_categories_have_fewer_pictures_each(store):
  many = RUN._replace(categories=tuple("abcdefghijkl"))
  assert len(evidence.of(outcome(store), store, many).shown) <= 4 + 4


# ---- the file ----


@pytest.fixture
def file(tmp_path):
  return evidence.path(str(tmp_path), RUN, "0123456789ab")


def test_it_reads_back(file, store):
  tests = [evidence.of(outcome(store, c, k), store, RUN) for k, c in enumerate(RUN.categories)]
  evidence.write(file, tests)
  assert list(file.parent.iterdir()) == [file] and file.stat().st_size < 30_000
  assert file.relative_to(file.parents[3]).as_posix() == (
    "unsupervised/synthetic/evidence/any-0123456789ab.npz"
  )
  read = evidence.read(file)
  assert [test.category for test in read] == ["bottle", "woven"]
  maps = np.concatenate([test.map for test in tests])
  low, high = np.percentile(maps, 1), maps.max()  # one scale for both
  for before, after in zip(tests, read, strict=True):
    for name in ("name", "kind", "label", "score", "shown", "mask"):
      np.testing.assert_array_equal(getattr(after, name), getattr(before, name))
    np.testing.assert_allclose(after.curve, before.curve, atol=1e-7)
    assert after.image.shape == before.image.shape
    assert np.abs(after.image.astype(int) - before.image).mean() < 4  # JPEG
    assert np.abs(after.map - np.clip((before.map - low) / (high - low), 0, 1)).mean() < 0.03


def test_a_method_that_does_not_localise_has_neither_maps_nor_curves_of_pixels(file, store):
  evidence.write(file, [evidence.of(outcome(store, localises=False), store, RUN)])
  (test,) = evidence.read(file)
  assert test.map.shape == (0, 96, 96) and test.curve.shape == (0, 4) and len(test.image) > 4


def test_what_cannot_be_written_leaves_what_was_there(file, store, monkeypatch):
  test = evidence.of(outcome(store), store, RUN)
  evidence.write(file, [test])
  before = file.read_bytes()

  def half(f, **arrays):
    f.write(b"half of it")
    raise OSError("No space left on device")

  monkeypatch.setattr(np, "savez_compressed", half)
  with pytest.raises(OSError, match="No space left"):
    evidence.write(file, [test])
  assert list(file.parent.iterdir()) == [file] and file.read_bytes() == before


def test_nothing_is_read_where_there_is_no_file(file):
  assert evidence.read(file) == []


@pytest.mark.parametrize("content", [b"", b"PK broken", b"\x93NUMPY"])
def test_a_broken_file_is_named(file, content):
  file.parent.mkdir(parents=True)
  file.write_bytes(content)
  with pytest.raises(UserError, match=r"any-0123456789ab.npz\" is no evidence of a run"):
    evidence.read(file)
