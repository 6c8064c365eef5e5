"""EfficientAD's networks: the teachers are the originals, and any grid can be predicted."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from imiad_jax import weights
from imiad_jax.backbones import pdn as backbone
from imiad_jax.errors import UserError
from imiad_jax.heads import pdn
from tests.parity import seeded

PARITY = Path(__file__).parent / "parity"
VARIANTS = sorted(backbone.VARIANTS)


def load(variant: str, monkeypatch, tmp_path):
  (tmp_path / "any.pth").touch()
  state = {n: seeded.tensor(n, s) for n, s in backbone._shapes(variant).items()}
  monkeypatch.setattr(weights, "read", lambda _: state)
  return backbone.load(variant, str(tmp_path / "any.pth"))[0]


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_teacher_is_the_original(variant, monkeypatch, tmp_path):
  params = load(variant, monkeypatch, tmp_path)
  apply = jax.jit(backbone.Model(variant).apply)
  with np.load(PARITY / "pdn.npz") as stored:
    for i, image in enumerate(seeded.images()):
      wanted = stored[f"{variant}/{i}/teacher"]
      found = seeded.sample(apply({"params": params}, image)["teacher"])
      assert np.abs(found - wanted).max() / np.abs(wanted).max() < 1e-5


@pytest.mark.parametrize("variant", VARIANTS)
def test_parameters_are_those_of_the_model(variant, monkeypatch, tmp_path):
  params = load(variant, monkeypatch, tmp_path)
  image = jax.ShapeDtypeStruct((1, 256, 256, 3), jnp.float32)
  model = backbone.Model(variant)
  made = jax.eval_shape(model.init, jax.random.key(0), image)["params"]
  assert jax.tree.map(lambda a: (a.shape, a.dtype), params) == jax.tree.map(
    lambda a: (a.shape, a.dtype), made
  )
  assert all(leaf.flags.c_contiguous for leaf in jax.tree.leaves(params))
  stages = jax.eval_shape(model.apply, {"params": made}, image)
  assert {k: v.shape for k, v in stages.items()} == {"teacher": (1, 56, 56, 384)}
  millions = sum(leaf.size for leaf in jax.tree.leaves(made)) / 1e6  # those of the paper's sheet
  assert round(millions, 2) == {"pdn_small": 2.69, "pdn_medium": 8.03}[variant]


def test_a_teacher_refuses_what_it_cannot_take(monkeypatch, tmp_path):
  image = jax.ShapeDtypeStruct((1, 64, 32, 3), jnp.float32)
  with pytest.raises(UserError, match="64 x 32"):
    jax.eval_shape(backbone.Model("pdn_small").init, jax.random.key(0), image)
  monkeypatch.setenv("IMIAD_WEIGHTS", str(tmp_path))
  with pytest.raises(UserError, match=r"EfficientAD/raw/main/models/teacher_small\.pth"):
    backbone.load("pdn_small")
  (tmp_path / "any.pth").touch()
  state = {n: seeded.tensor(n, s) for n, s in backbone._shapes("pdn_medium").items()}
  monkeypatch.setattr(weights, "read", lambda _: state)
  with pytest.raises(UserError, match="unexpected"):
    backbone.load("pdn_small", str(tmp_path / "any.pth"))


def weighed(model, size: int, draw=None, **arguments):
  """Returns a model's compiled function of an image, with weights that are quick to make."""
  draw = draw or np.random.default_rng(0).standard_normal
  image = jax.ShapeDtypeStruct((1, size, size, 3), jnp.float32)
  shapes = jax.eval_shape(lambda key, x: model.init(key, x, **arguments), jax.random.key(0), image)
  params = jax.tree.map(
    lambda a: jnp.asarray(draw(a.shape) * 2 / np.prod(a.shape[:-1]) ** 0.5, a.dtype), shapes
  )
  apply = jax.jit(lambda params, x: model.apply(params, x, **arguments))
  return lambda x: apply(params, x)


def net(kind: str = "small", cells: int | None = None, size: int = 64):
  return weighed(pdn.PDN(kind, 8, 3, cells), size)


def noise(size: int) -> jax.Array:
  return jnp.asarray(np.random.default_rng(0).normal(size=(1, size, size, 3)), jnp.float32)


@pytest.mark.parametrize("kind", pdn.KINDS)
def test_a_shift_by_four_pixels_shifts_a_pdn_by_a_cell(kind):
  x, apply = noise(68), net(kind)
  moved, still = apply(x[:, 4:, 4:]), apply(x[:, :-4, :-4])
  np.testing.assert_allclose(moved[:, :-1, :-1], still[:, 1:, 1:], atol=1e-4)


@pytest.mark.parametrize("kind", pdn.KINDS)
def test_a_cell_of_a_pdn_sees_33_pixels(kind):
  x, apply = noise(64), net(kind)
  top = 4 * 3  # of the cell (3, 3)
  last = top + pdn.FIELD - 1
  seen = np.zeros((64, 64), bool)
  seen[top : last + 1, top : last + 1] = True
  inside = jnp.where(seen[None, ..., None], x, 0)
  before = apply(x)
  np.testing.assert_allclose(apply(inside)[0, 3, 3], before[0, 3, 3], atol=1e-4)
  for corner in (top, last):
    assert np.abs(apply(x.at[0, corner, corner].add(99.0)) - before)[0, 3, 3].max() > 1e-3


@pytest.mark.parametrize(
  ("size", "cells", "stride", "margins"),
  [
    (256, 56, 4, (4, 4)),  # the teacher's
    (128, 24, 4, (4, 4)),
    (256, 64, 4, (0, 0)),
    (256, 32, 8, (0, 0)),
    (224, 14, 16, (0, 0)),
    (64, 2, 32, (0, 0)),
    (64, 1, 64, (0, 0)),
    (75, 19, 4, (0, 0)),  # rounded up
    (64, 32, 2, (0, 0)),
  ],
)
def test_a_pdn_predicts_any_grid(size, cells, stride, margins):
  assert pdn.stride(size, cells) == stride and pdn.margins(size, cells) == margins
  model = pdn.PDN("small", 4, 3, cells)
  x = jax.ShapeDtypeStruct((1, size, size, 3), jnp.float32)
  made, _ = jax.eval_shape(model.init_with_output, jax.random.key(0), x)
  assert made.shape == (1, cells, cells, 3)


@pytest.mark.parametrize(("size", "cells"), [(64, 16), (64, 8), (64, 4)])
def test_cells_of_another_grid_look_at_their_own_pixels(size, cells):
  x = jnp.zeros((1, size, size, 3))
  apply = weighed(pdn.PDN("small", 1, 1, cells), size, np.ones)  # the nearer, the more
  pixels, middle = size // cells, cells // 2
  at = middle * pixels  # the cell (middle, middle) covers [at, at + pixels)
  pushed = x.at[0, at : at + pixels, at : at + pixels].add(1.0)
  change = np.abs(apply(pushed) - apply(x)).sum(-1)[0]
  assert np.unravel_index(np.argmax(change), change.shape) == (middle, middle)


def test_the_original_has_no_margin_of_zeros():
  x = noise(128)
  np.testing.assert_array_equal(net(size=128)(x), net(cells=24, size=128)(x))


@pytest.mark.parametrize(("size", "cells"), [(64, 16), (32, 4), (75, 9)])
def test_an_auto_encoder_predicts_a_grid_from_the_whole_image(size, cells):
  x = noise(size)
  apply = weighed(pdn.AutoEncoder(5, cells, width=16), size, train=False)
  assert apply(x).shape == (1, cells, cells, 5)
  changed = np.abs(apply(x.at[0, 0, 0].add(100.0)) - apply(x)).max(-1) > 0
  assert changed.mean() > 0.8  # a cell whose ReLUs are all off sees nothing
