"""The ten operations against Pillow, where Pillow has them, and against what they promise."""

import colorsys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageOps

from imiad_jax import distortions

KEYS = jax.random.split(jax.random.key(0), 40)


def bytes_image(h=24, w=32):
  rng = np.random.default_rng(0)
  coarse = np.kron(rng.integers(30, 200, (h // 8, w // 8, 3)), np.ones((8, 8, 1)))
  return (coarse + rng.integers(0, 40, (h, w, 3))).astype(np.uint8)


def both(ours, theirs, *args):
  """The largest difference in levels."""
  image = bytes_image()
  got = 255 * np.asarray(ours(jnp.asarray(image, jnp.float32) / 255, *args))
  return np.abs(got - np.asarray(theirs(Image.fromarray(image)))).max()


def test_equalisation_is_pillows():
  assert both(lambda x: distortions.equalise(KEYS[0], x), ImageOps.equalize) < 1e-3


@pytest.mark.parametrize("cutoff", [0, 7, 20])
def test_autocontrast_is_pillows(cutoff):
  def pillow(x):
    return ImageOps.autocontrast(x, cutoff)

  assert both(distortions.contrasted, pillow, jnp.int32(cutoff)) <= 1.001  # it cuts fractions off


@pytest.mark.parametrize("bits", [1, 3, 8])
def test_posterisation_is_pillows(bits):
  wanted = both(distortions.posterised, lambda x: ImageOps.posterize(x, bits), jnp.int32(bits))
  assert wanted < 1e-3


def test_solarisation_and_negative_are_pillows():
  def pillow(x):
    return ImageOps.solarize(x, 100)

  assert both(distortions.solarised, pillow, jnp.float32(100 / 255)) < 1e-3
  assert both(lambda x: distortions.invert(KEYS[0], x), ImageOps.invert) < 1e-3


@pytest.mark.parametrize("factor", [0.1, 1.0, 1.9])
def test_sharpness_is_pillows(factor):
  def pillow(x):
    return ImageEnhance.Sharpness(x).enhance(factor)

  assert both(distortions.sharpened, pillow, jnp.float32(factor)) < 1.6  # it rounds twice


def test_hue_and_saturation_are_those_of_hsv():
  image = bytes_image(8, 8) / np.float32(255)
  got = np.asarray(distortions.shifted(jnp.asarray(image), jnp.float32(0.15), jnp.float32(-0.1)))
  for given, found in zip(image.reshape(-1, 3), got.reshape(-1, 3), strict=True):
    h, s, v = colorsys.rgb_to_hsv(*given.tolist())
    wanted = colorsys.hsv_to_rgb((h + 0.15) % 1, max(s - 0.1, 0), v)
    np.testing.assert_allclose(found, wanted, atol=1e-5)


def test_brightness_changes_all_channels_alike_and_gamma_each():
  image = jnp.asarray(bytes_image(), jnp.float32) / 255 * 0.5 + 0.25
  change = np.asarray(distortions.brightness(KEYS[0], image) - image)
  np.testing.assert_allclose(change[..., 0], change[..., 2], atol=1e-6)
  power = np.log(np.asarray(distortions.gamma(KEYS[0], image))) / np.log(image)
  assert np.ptp(power, axis=(0, 1)).max() < 1e-4 and np.ptp(power[0, 0]) > 0.05
  assert power.min() >= 0.5 and power.max() <= 2.0001


@pytest.mark.parametrize("operation", distortions.ALL, ids=lambda f: f.__name__)
def test_each_stays_in_range_and_does_something(operation):
  image = jnp.asarray(bytes_image(), jnp.float32) / 255
  many = np.asarray(jax.vmap(lambda k: operation(k, image))(KEYS))
  assert many.shape == (40, *image.shape) and many.dtype == np.float32
  assert many.min() >= 0 and many.max() <= 1 + 1e-6
  assert np.abs(many - image).max() > 0.05
  flat = operation(KEYS[1], jnp.full((8, 8, 3), 0.4))  # a histogram of one level
  assert np.isfinite(flat).all()


def test_three_different_ones_are_applied(monkeypatch):
  def mark(i):
    return lambda key, x: x + 2.0**i

  monkeypatch.setattr(distortions, "ALL", [mark(i) for i in range(10)])
  marks = [int(distortions.distort(k, jnp.zeros((1, 1, 3)))[0, 0, 0]) for k in KEYS]
  assert {bin(m).count("1") for m in marks} == {3}
  assert np.bitwise_or.reduce(marks) == 1023
