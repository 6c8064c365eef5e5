"""Perlin noise and masks are DRAEM's, textures vary, folders are read or refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from imiad_jax import textures
from imiad_jax.errors import UserError

KEYS = jax.random.split(jax.random.key(0), 300)


@pytest.fixture(scope="module")
def masks():
  return np.asarray(jax.jit(lambda k: jax.lax.map(lambda k: textures.blots(k, 64, 96), k))(KEYS))


@pytest.mark.parametrize("cells", [(1, 1), (2, 32), (32, 4)])
def test_noise_is_0_at_the_nodes_and_within_1(cells):
  angle = jax.random.uniform(KEYS[0], (33, 33), maxval=2 * np.pi)
  gradients = jnp.stack([jnp.cos(angle), jnp.sin(angle)], -1)
  y, x = jnp.mgrid[:64, :64].astype(jnp.float32) / 64
  noise = np.asarray(textures.perlin(gradients, y * cells[0], x * cells[1]))
  assert (noise[:: 64 // cells[0], :: 64 // cells[1]] == 0).all()
  assert 0.2 < np.abs(noise).max() <= 1


def test_noise_rises_along_the_gradient_of_its_node():
  gradients = jnp.zeros((3, 3, 2)).at[1, 1].set(jnp.array([0.6, 0.8]))
  at = jnp.array([[1.0, 1.01, 1.0]]), jnp.array([[1.0, 1.0, 1.01]])
  noise = textures.perlin(gradients, *at)[0]
  np.testing.assert_allclose(noise, [0, 0.006 * 2**0.5, 0.008 * 2**0.5], rtol=1e-3, atol=1e-7)


def test_masks_cover_what_the_authors_do(masks):
  # 300 draws of the authors' generator: 5.2 % of the pixels, 5 % of the masks empty.
  assert masks.shape == (300, 64, 96) and masks.dtype == bool
  assert 0.035 < masks.mean() < 0.065
  assert 0.01 < (~masks.any(axis=(1, 2))).mean() < 0.12


def test_a_higher_threshold_masks_less_and_within(masks):
  less = np.stack([textures.blots(k, 64, 96, 0.7) for k in KEYS[:8]])
  assert not (less & ~masks[:8]).any() and less.sum() < masks[:8].sum()


def test_every_texture_is_another_and_uses_the_range():
  drawn = np.asarray(jax.jit(lambda k: textures.stack(k, 24, 32, 48))(KEYS[0]))
  assert drawn.shape == (24, 32, 48, 3) and drawn.dtype == np.uint8
  assert len({t.tobytes() for t in drawn}) == 24
  spread = drawn.std(axis=(1, 2)).max(axis=-1)
  assert np.median(spread) > 20 and spread.min() > 2
  assert drawn.min() < 20 and drawn.max() > 235


@pytest.mark.parametrize(
  "field", [textures.clouds, textures.stripes, textures.checkers, textures.cells]
)
def test_fields_fill_the_unit_interval(field):
  many = np.stack([field(k, 32, 48) for k in KEYS[:4]])
  assert many.min() >= 0 and many.max() <= 1 and np.ptp(many) > 0.5


def test_cells_are_those_of_the_nearest_points():
  place_key, value_key = jax.random.split(KEYS[0])
  point, value = jax.random.uniform(place_key, (5, 2)), jax.random.uniform(value_key, (5,))
  drawn = textures.cells(KEYS[0], 16, 16, 5)
  for y, x in [(0, 0), (3, 12), (15, 7)]:
    nearest = np.argmin(np.hypot(y / 16 - point[:, 0], x / 16 - point[:, 1]))
    assert drawn[y, x] == value[nearest]


def test_a_folder_is_read_in_any_depth_and_up_to_so_many(tmp_path):
  for i in range(4):
    place = tmp_path / f"kind{i % 2}"
    place.mkdir(exist_ok=True)
    Image.new("L" if i else "RGB", (10 + i, 7), 40 * i).save(place / f"{i}.png")
  (tmp_path / "labels.txt").touch()
  every = textures.read(str(tmp_path), 8, 6)
  assert every.shape == (4, 6, 6, 3) and every.dtype == np.uint8
  assert sorted(every[:, 0, 0, 0].tolist()) == [0, 40, 80, 120]
  some = textures.read(str(tmp_path), 2, 6)
  assert len(some) == 2 and (some == textures.read(str(tmp_path), 2, 6)).all()


def test_a_folder_without_pictures_or_with_a_broken_one_is_refused(tmp_path):
  with pytest.raises(UserError, match="where no pictures are"):
    textures.read(str(tmp_path / "nowhere"), 8, 6)
  (tmp_path / "broken.jpg").write_bytes(b"no picture")
  with pytest.raises(UserError, match=r"broken\.jpg cannot be read"):
    textures.read(str(tmp_path), 8, 6)
