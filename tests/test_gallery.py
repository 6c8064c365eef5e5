"""The picture of a run: which images, where the outline goes, a file that is whole or absent."""

import numpy as np
import pytest
from PIL import Image

from imiad_jax import data, engine, features, gallery
from imiad_jax.types import Scores

LABEL = np.array([0, 1, 0, 1, 1, 0, 1, 1])
SCORE = np.array([0.1, 0.9, 0.3, 0.5, 0.7, 0.2, 0.8, 0.6], np.float32)


@pytest.mark.parametrize(
  ("count", "rows"),
  [
    (4, [3, 4, 1, 2]),  # a quarter normal, the highest; anomalous: lowest, middle, highest
    (1, [2]),
    (2, [3, 2]),
    (8, [3, 7, 4, 6, 1, 2, 5]),  # 2 of 3 normal ones, and no more than 5 anomalous ones
    (80, [3, 7, 4, 6, 1, 2, 5, 0]),
  ],
)
def test_choice(count, rows):
  assert gallery.choose(SCORE, LABEL, count).tolist() == rows


def test_choice_of_one_kind_alone():
  ones, zeros = np.ones(5, int), np.zeros(5, int)
  assert gallery.choose(SCORE[:5], ones, 3).tolist() == [0, 3, 1]
  assert gallery.choose(SCORE[:5], zeros, 8).tolist() == [1, 4]
  assert gallery.choose(SCORE[:0], zeros[:0], 8).tolist() == []


@pytest.mark.parametrize("n", range(1, 40))
def test_choice_repeats_nothing(n):
  rng = np.random.default_rng(n)
  score, label = rng.random(n).astype(np.float32), rng.integers(0, 2, n)
  for count in (1, 2, 5, 8, 30):
    rows = gallery.choose(score, label, count)
    assert len(set(rows.tolist())) == len(rows) <= count


def test_heat_grows_brighter_with_the_score_and_stops_at_both_ends():
  score = np.linspace(-1, 2, 97, dtype=np.float32)[None]  # 33 of them within [0, 1]
  luma = gallery.heat(score, 0.0, 1.0)[0] @ [0.299, 0.587, 0.114]
  inside = (score[0] >= 0) & (score[0] <= 1)
  assert (np.diff(luma[inside]) > 0).all()
  assert set(luma[score[0] < 0]) == {luma.min()} and set(luma[score[0] > 1]) == {luma.max()}


def test_heat_of_a_constant_map_is_dark():
  assert (
    np.ptp(gallery.heat(np.ones((4, 5), np.float32), 1.0, 1.0).reshape(-1, 3), axis=0).max() == 0
  )


def test_outline_is_just_outside_the_mask():
  image, mask = np.full((9, 12, 3), 7, np.uint8), np.zeros((9, 12), bool)
  mask[3:6, 4:8] = True
  mask[0, 0] = True  # at the edge there is nothing outside
  changed = (gallery.outline(image, mask) != image).any(axis=-1)
  border = np.zeros_like(mask)
  border[2, 4:8] = border[6, 4:8] = border[3:6, 3] = border[3:6, 8] = True
  border[0, 1] = border[1, 0] = True
  np.testing.assert_array_equal(changed, border)


# ---- the file ----


@pytest.fixture
def seen(synthetic_dir):
  """Returns a function that makes (outcomes, store) of two tasks with 6 test images each."""
  index, source = data.open("synthetic", None, synthetic_dir)

  def make(pixel: bool, size: int = 32):
    rng, outcomes = np.random.default_rng(0), []
    for category in ("bottle", "woven"):
      rows = index.rows(category, "test")[::8]
      maps = rng.random((len(rows), size, size), np.float32) if pixel else None
      scores = Scores(rng.random(len(rows), np.float32), maps)
      outcomes.append(engine.Outcome(1, 0, category, rows, {}, scores, {}, True))
    return outcomes, features.Store(index, source)

  return make


@pytest.mark.parametrize(("pixel", "columns"), [(False, 2), (True, 3)])
def test_a_picture_has_a_row_an_image_and_a_column_a_view(tmp_path, seen, pixel, columns):
  file = tmp_path / "new" / "folder" / "a.png"
  outcomes, store = seen(pixel)
  gallery.write(file, outcomes, store, 32, 4)
  assert list(file.parent.iterdir()) == [file]
  with Image.open(file) as page:
    page.load()
  assert (page.format, page.mode) == ("PNG", "RGB")
  # Views of 32 with gaps of 4; each row has 14 more for its text.
  assert page.size == (columns * 36 + 4, 4 * (32 + 14 + 4) + 4)
  rows = np.concatenate([o.rows for o in outcomes])
  score = np.concatenate([o.scores.image for o in outcomes])
  first = rows[gallery.choose(score, store.index.label[rows], 4)[:1]]
  shown = np.asarray(page)[4 + 14 : 4 + 14 + 32, 4 : 4 + 32]
  np.testing.assert_array_equal(shown, store.pixels(first, 32).image[0])


def test_a_picture_that_cannot_be_saved_leaves_what_was_there(tmp_path, seen, monkeypatch):
  file = tmp_path / "a.png"
  gallery.write(file, *seen(True), 32, 4)
  before = file.read_bytes()

  def half(self, path, **kwargs):
    path.write_bytes(b"half of it")
    raise OSError("No space left on device")

  monkeypatch.setattr(Image.Image, "save", half)
  with pytest.raises(OSError, match="No space left"):
    gallery.write(file, *seen(False), 32, 4)
  assert list(tmp_path.iterdir()) == [file]
  assert file.read_bytes() == before
