"""VGG-16: the same activations as torchvision's, from its file, of which the end is not read."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from imiad_jax import weights
from imiad_jax.backbones import vgg
from imiad_jax.errors import UserError
from tests.parity import seeded

STORED = Path(__file__).parent / "parity" / "vgg.npz"
SHAPE = (76, 116)  # as in the script that made the file


@pytest.fixture(scope="module")
def stored():
  with np.load(STORED) as file:
    return dict(file)


@pytest.fixture(scope="module")
def state(stored):
  """A state dict of torchvision's form; the end of it takes no memory."""
  shapes = {n.removeprefix("file/"): tuple(s) for n, s in stored.items() if n.startswith("file/")}
  blank = np.zeros(1, np.float32)
  return {
    n: seeded.tensor(n, s) if n.startswith("features") else np.broadcast_to(blank, s)
    for n, s in shapes.items()
  }


@pytest.fixture
def load(monkeypatch, tmp_path):
  """Loads a state dict as if it were read from a file."""

  def load(state):
    (tmp_path / "any.pth").touch()
    monkeypatch.setattr(weights, "read", lambda _: state)
    return vgg.load("vgg16", str(tmp_path / "any.pth"))[0]

  return load


def test_it_is_the_original(state, load, stored):
  model = vgg.Model("vgg16")
  (image,) = seeded.images((SHAPE,))
  stages = jax.jit(lambda p, x: model.apply({"params": p}, x))(load(state), image)
  assert set(stages) == {"stem", "layer1", "layer2", "layer3", "layer4", "embedding"}
  np.testing.assert_allclose(stages["embedding"], stages["layer4"].mean((1, 2)), rtol=1e-5)
  for stage in stages.keys() - {"embedding"}:
    assert stages[stage].shape == tuple(stored[f"{stage}/shape"]), stage
    error = np.abs(seeded.sample(stages[stage]) - stored[stage]).max()
    assert error < 1e-5 * np.abs(stored[stage]).max(), (stage, error)


def test_parameters_are_those_of_the_model(state, load):
  params = load(state)
  image = jax.ShapeDtypeStruct((1, 64, 64, 3), jnp.float32)
  made = jax.eval_shape(vgg.Model("vgg16").init, jax.random.key(0), image)["params"]
  assert jax.tree.map(lambda a: (a.shape, a.dtype), params) == jax.tree.map(
    lambda a: (a.shape, a.dtype), made
  )
  assert all(type(a) is np.ndarray and a.flags.c_contiguous for a in jax.tree.leaves(params))
  assert sum(a.size for a in jax.tree.leaves(params)) == 14_714_688  # of all 138 million


def test_timms_copy_and_a_file_without_end_are_read_alike(state, load):
  convolutions = {n: a for n, a in state.items() if n.startswith("features")}
  names = {
    "pre_logits.fc1": (4096, 512, 7, 7),
    "pre_logits.fc2": (4096, 4096, 1, 1),
    "head.fc": (1000, 4096),
  }
  blank = np.zeros(1, np.float32)
  end = {f"{n}.weight": np.broadcast_to(blank, s) for n, s in names.items()}
  end |= {f"{n}.bias": np.broadcast_to(blank, s[:1]) for n, s in names.items()}
  for form in (convolutions, convolutions | end):
    jax.tree.map(np.testing.assert_array_equal, load(form), load(state))


def test_a_file_of_another_model_is_refused(state, load):
  with pytest.raises(UserError, match=r"1 missing \(features\.28\.bias\)"):
    load({n: a for n, a in state.items() if n != "features.28.bias"})
  with pytest.raises(UserError, match=r"1 missing \(classifier\.3\.weight\)"):
    load({n: a for n, a in state.items() if n != "classifier.3.weight"})
  with pytest.raises(UserError, match=r"1 unexpected \(features\.30\.weight\)"):  # vgg19 has it
    load(state | {"features.30.weight": np.zeros((512, 512, 3, 3), np.float32)})


def test_missing_weights_say_what_to_put_where(monkeypatch, tmp_path):
  monkeypatch.setenv("IMIAD_WEIGHTS", str(tmp_path))
  with pytest.raises(UserError, match=r"download\.pytorch\.org/models/vgg16-397923af\.pth"):
    vgg.load("vgg16")
