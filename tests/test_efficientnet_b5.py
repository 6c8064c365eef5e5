"""EfficientNet-B5: the same activations as efficientnet_pytorch's, from a file of its form."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from imiad_jax import plugins, weights
from imiad_jax.backbones import efficientnet_b5
from imiad_jax.errors import UserError
from tests.parity import seeded

VARIANT = "efficientnet_b5"
STORED = Path(__file__).parent / "parity" / "efficientnet_b5.npz"
SHAPE = (76, 116)  # as in the script that made the file


def seeded_state() -> dict[str, np.ndarray]:
  """A state dict of a random network under efficientnet_pytorch's names."""
  shapes = {"_fc.weight": (1000, 2048), "_fc.bias": (1000,)}
  for layer in efficientnet_b5._layers():
    h, w, i, o = layer.kernel
    shapes[f"{layer.conv}.weight"] = (o, i, h, w)
    for name in ("weight", "bias", "running_mean", "running_var"):
      shapes[f"{layer.norm}.{name}"] = (o,)
    shapes[f"{layer.norm}.num_batches_tracked"] = ()
  for _, name, i, o in efficientnet_b5._squeezes():
    shapes |= {f"{name}.weight": (o, i, 1, 1), f"{name}.bias": (o,)}
  return {name: seeded.tensor(name, shape) for name, shape in shapes.items()}


@pytest.fixture(scope="module")
def state():
  return seeded_state()


@pytest.fixture
def load(monkeypatch, tmp_path):
  """Loads a state dict as if it were read from a file."""

  def load(state):
    (tmp_path / "any.pth").touch()
    monkeypatch.setattr(weights, "read", lambda _: state)
    return efficientnet_b5.load(VARIANT, str(tmp_path / "any.pth"))[0]

  return load


@pytest.mark.slow
def test_it_is_the_original(state, load):
  params = load(state)
  model = efficientnet_b5.Model(VARIANT)
  (image,) = seeded.images((SHAPE,))
  stages = jax.jit(lambda p, image: model.apply({"params": p}, image))(params, image)
  names = {"stem", "layer1", "layer2", "layer3", "block35", "layer4", "embedding", "logits"}
  assert set(stages) == names
  with np.load(STORED) as stored:
    for stage, activation in stages.items():
      assert activation.shape == tuple(stored[f"{stage}/shape"]), stage
      wanted = stored[stage]
      error = np.abs(seeded.sample(activation) - wanted).max() / np.abs(wanted).max()
      assert error < 1e-5, (stage, error)


def test_parameters_are_those_of_the_model(state, load):
  params = load(state)
  image = jax.ShapeDtypeStruct((1, 64, 64, 3), jnp.float32)
  made = jax.eval_shape(efficientnet_b5.Model(VARIANT).init, jax.random.key(0), image)["params"]
  assert jax.tree.map(lambda a: (a.shape, a.dtype), params) == jax.tree.map(
    lambda a: (a.shape, a.dtype), made
  )
  assert all(type(a) is np.ndarray and a.flags.c_contiguous for a in jax.tree.leaves(params))
  # Folded, the two trained numbers of each channel of a batch norm are one bias.
  channels = sum(layer.kernel[-1] for layer in efficientnet_b5._layers())
  with np.load(STORED) as stored:
    assert sum(a.size for a in jax.tree.leaves(params)) == stored["parameters"] - channels


def test_block_35_has_304_channels_at_stride_32_and_the_next_has_512():
  model = plugins.backbone(VARIANT).Model(VARIANT)
  image = jax.ShapeDtypeStruct((1, 768, 384, 3), jnp.float32)
  shapes = jax.eval_shape(model.init_with_output, jax.random.key(0), image)[0]
  assert shapes["block35"].shape == (1, 24, 12, 304)
  assert shapes["layer4"].shape == (1, 24, 12, 512)
  numbered = efficientnet_b5._numbered()
  assert len(numbered) == 39
  assert [numbered[i][-1] for i in (35, 36)] == [304, 512]


def test_a_file_of_another_model_is_refused(state, load):
  with pytest.raises(UserError, match=r"1 missing \(_blocks\.7\._se_reduce\.bias\)"):
    load({name: a for name, a in state.items() if name != "_blocks.7._se_reduce.bias"})
  with pytest.raises(UserError, match=r"1 unexpected \(_blocks\.39\._bn0\.bias\)"):
    load(state | {"_blocks.39._bn0.bias": np.zeros(3, np.float32)})


def test_missing_weights_say_what_to_put_where(monkeypatch, tmp_path):
  monkeypatch.setenv("IMIAD_WEIGHTS", str(tmp_path))
  with pytest.raises(UserError, match=r"releases/download/1\.0/efficientnet-b5-b6417697\.pth"):
    efficientnet_b5.load(VARIANT)
