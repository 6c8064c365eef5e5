"""Views are made from the image itself, are the same for a seed, and are what their names say."""

import numpy as np
import pytest

from imiad_jax import views


def images(n=3, size=40):
  rng = np.random.default_rng(0)
  small = rng.integers(60, 200, (n, size // 4, size // 4, 3), np.uint8)
  return small.repeat(4, 1).repeat(4, 2)


@pytest.mark.parametrize("kind", views.KINDS)
def test_the_images_come_first_then_four_views_of_each(kind):
  x = images()
  out = views.add(x, kind, seed=0)
  assert out.shape == (views.copies(kind) * 3, 40, 40, 3) and out.dtype == np.uint8
  np.testing.assert_array_equal(out[:3], x)
  np.testing.assert_array_equal(out, views.add(x, kind, seed=0))
  # An image's views do not depend on those beside it: nothing piles up.
  np.testing.assert_array_equal(out[0::3], views.add(x[:1], kind, seed=0))
  assert all((view != x[i % 3]).any() for i, view in enumerate(out[3:12]))


def test_no_view_is_one_copy():
  assert views.copies("none") == 1


def test_rotation_turns_by_fifths_of_a_circle():
  x = np.zeros((1, 41, 41, 3), np.uint8)
  x[0, 20, 35] = 255  # to the right of the centre, at radius 15
  for k, view in enumerate(views.add(x, "rotation", 0)[1:], start=1):
    y, z = np.unravel_index(view[..., 0].argmax(), (41, 41))
    angle = 2 * np.pi * k / 5
    assert np.hypot(z - (20 + 15 * np.cos(angle)), y - (20 - 15 * np.sin(angle))) < 1.5


def test_scale_shrinks_to_half():
  x = np.full((1, 40, 40, 3), 200, np.uint8)
  areas = [(v > 0).mean() for v in views.add(x, "scale", 0)[1:, ..., 0]]
  np.testing.assert_allclose(areas, [0.875**2, 0.75**2, 0.625**2, 0.25], atol=0.03)


def test_flips_are_exact():
  x = images(1)
  out = views.add(x, "flip", 0)
  np.testing.assert_array_equal(out[1], x[0, :, ::-1])
  np.testing.assert_array_equal(out[2], x[0, ::-1])
  np.testing.assert_array_equal(out[3], x[0, ::-1, ::-1])


def test_translation_shifts_by_at_most_its_share():
  x = np.full((30, 40, 40, 3), 200, np.uint8)
  out = views.add(x, "translate", 1).reshape(5, 30, 40, 40, 3)[..., 0] > 0
  lost = [1 - out[k].any(axis=1).mean(-1).min() for k in range(1, 5)]  # columns that are black
  assert all(v <= 0.125 * k + 0.02 for k, v in enumerate(lost, start=1)) and lost[3] > 0.3


def test_perspective_keeps_the_middle_and_blackens_the_rim():
  x = np.full((20, 40, 40, 3), 200, np.uint8)
  out = views.add(x, "perspective", 0)[20:]
  assert (out[:, 20, 20] > 190).all() and (out[:, 0, 0, 0] == 0).mean() > 0.5
