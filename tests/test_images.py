"""CutPaste changes what it says, by what it says, where it says."""

import jax
import jax.numpy as jnp
import numpy as np

from imiad_jax import images

KEYS = jax.random.split(jax.random.key(0), 500)


def picture(h=48, w=64):
  return jnp.asarray(np.random.default_rng(0).random((h, w, 3), np.float32))


def test_rectangles_fit_and_have_the_papers_area_and_aspect():
  h, w, sy, sx, ty, tx = jax.vmap(lambda k: jnp.stack(images.rectangle(k, 224, 200)))(KEYS).T
  area, ratio = h * w / (224 * 200), w / h
  assert 0.018 < area.min() < 0.03 and 0.14 < area.max() < 0.153
  assert ratio.min() > 0.3 * 0.95 and ratio.max() < 1.05 / 0.3
  assert 0.3 < np.mean(np.asarray(ratio) < 1) < 0.7  # as often upright as lying
  for corner, size, limit in [(sy, h, 224), (ty, h, 224), (sx, w, 200), (tx, w, 200)]:
    assert corner.min() == 0 or corner.min() < 10
    assert (corner + size).max() <= limit


def test_pixels_change_only_inside_the_box():
  image = picture()
  pasted, inside = jax.vmap(lambda k: images.cutpaste(k, image))(KEYS[:50])
  changed = np.any(np.asarray(pasted) != np.asarray(image), axis=-1)
  assert not (changed & ~np.asarray(inside)).any()
  assert changed.any(axis=(1, 2)).all()


def test_without_jitter_the_box_holds_the_source_window():
  image = picture()
  for key in KEYS[:20]:
    pasted, _ = images.cutpaste(key, image, strength=0.0)
    h, w, sy, sx, ty, tx = map(int, images.rectangle(jax.random.split(key)[0], 48, 64))
    box, window = pasted[ty : ty + h, tx : tx + w], image[sy : sy + h, sx : sx + w]
    np.testing.assert_array_equal(box, window)


def test_jitter_stays_in_range_and_is_nothing_at_strength_0():
  image = picture()
  many = jax.vmap(lambda k: images.jitter(k, image, 0.4))(KEYS[:20])
  assert 0 <= float(many.min()) and float(many.max()) <= 1
  np.testing.assert_allclose(images.jitter(KEYS[0], image, 0.0), image, atol=1e-5)


def test_hue_keeps_grey_grey():
  grey = jnp.full((4, 4, 3), 0.5)
  turned = images.jitter(KEYS[0], grey, 0.3)
  np.testing.assert_allclose(turned, jnp.broadcast_to(turned[..., :1], turned.shape), atol=1e-4)


def test_rotation_by_right_angles_is_exact_and_nothing_comes_from_outside():
  image = picture(33, 33)
  for quarter in range(-4, 5):
    turned = images.rotate(image, jnp.float32(quarter * np.pi / 2))
    np.testing.assert_array_equal(turned, np.rot90(image, quarter))
  corner = images.rotate(jnp.ones((32, 32, 3)), jnp.float32(np.pi / 4))[0, 0]
  assert not np.asarray(corner).any()


def test_scars_fit_and_are_drawn_at_the_papers_sizes():
  drawn = jax.vmap(lambda k: jnp.stack(images.strip(k, 256, 200)))(KEYS)
  h, w, sy, sx, ty, tx, angle = np.asarray(drawn).T
  scale = 200 / 256
  assert 10 * scale - 0.5 <= h.min() < 11 * scale + 0.5 and h.max() == round(25 * scale)
  assert w.min() == 2 and w.max() in (12, 13)
  assert angle.min() < -0.75 and angle.max() > 0.75 and np.abs(angle).max() <= np.pi / 4
  c, s = np.cos(angle), np.abs(np.sin(angle))
  for corner, size, limit in [
    (sy, h, 256),
    (sx, w, 200),
    (ty, c * h + s * w, 256),
    (tx, s * h + c * w, 200),
  ]:
    assert 0 <= corner.min() < 10 and limit - 10 < (corner + size).max() <= limit


def test_a_scar_changes_as_many_pixels_as_it_has_and_only_where_it_says():
  image = picture(256, 256)
  for key in KEYS[:20]:
    pasted, inside = images.scar(key, image)
    changed = np.any(np.asarray(pasted) != np.asarray(image), axis=-1)
    assert not (changed & ~np.asarray(inside)).any()
    h, w, *_ = images.strip(jax.random.split(key)[0], 256, 256)
    # Pixels are counted by their centres: off by less than half the outline.
    assert abs(int(inside.sum()) - float(h * w)) < float(h + w)


def test_a_scar_is_the_strip_turned_about_its_centre():
  # Colours are coordinates, so that each pasted pixel tells where it is from.
  y, x = np.mgrid[:256, :256].astype(np.float32)
  image = jnp.stack([y, x, 0 * x], -1)
  for key in KEYS[:20]:
    pasted, inside = images.scar(key, image, strength=0.0)
    h, w, sy, sx, ty, tx, angle = map(float, images.strip(jax.random.split(key)[0], 256, 256))
    c, s = np.cos(angle), np.sin(angle)
    at = np.argwhere(np.asarray(inside))
    source = np.asarray(pasted)[tuple(at.T)][:, :2]
    assert (source >= [sy, sx]).all() and (source < [sy + h, sx + w]).all()
    # Turning a source pixel about the strip's centre leads to where it was pasted.
    v, u = (source + 0.5 - [sy + h / 2, sx + w / 2]).T
    to = np.stack([c * v - s * u, s * v + c * u], 1)
    middle = [ty + (c * h + abs(s) * w) / 2, tx + (abs(s) * h + c * w) / 2]
    assert np.abs(to + middle - at - 0.5).max() < 0.75  # half a pixel's diagonal
