"""Weight files are read as written, and nothing in them can run, crash or exhaust the reader."""

import io
import json
import os
import pickle
import struct
import zipfile
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from imiad_jax import weights
from imiad_jax.errors import UserError

PARITY = Path(__file__).parent / "parity"
MAGIC = 0x1950A86A20F9469CFC6C


def integer(n: int) -> bytes:
  return pickle.dumps(n, 2)[2:-1]


def text(s: str) -> bytes:
  return b"X" + struct.pack("<I", len(s)) + s.encode()


def pair(values: tuple[int, ...]) -> bytes:
  return b"(" + b"".join(map(integer, values)) + b"t"


def tensor(count=6, offset=0, shape=(2, 3), strides=(3, 1), kind=b"torch\nFloatStorage") -> bytes:
  """The opcodes with which torch.save describes a tensor in the storage "0"."""
  place = b"(" + text("storage") + b"c" + kind + b"\n" + text("0") + text("cpu") + integer(count)
  view = integer(offset) + pair(shape) + pair(strides)
  hooks = b"\x89ccollections\nOrderedDict\n)R"
  return b"ctorch._utils\n_rebuild_tensor_v2\n((" + place[1:] + b"tQ" + view + hooks + b"tR"


def state_dict(**tensors: bytes) -> bytes:
  items = b"".join(text(name) + value for name, value in tensors.items())
  return b"\x80\x02}(" + items + b"u."


VALUES = np.arange(6, dtype=np.float32)


def legacy(tree: bytes, data: bytes = VALUES.tobytes(), little_endian: bool = True) -> bytes:
  system = {"protocol_version": 1001, "little_endian": little_endian}
  head = b"".join(pickle.dumps(x, 2) for x in (MAGIC, 1001, system))
  keys = pickle.dumps(["0"] if data else [], 2)
  return head + tree + keys + (struct.pack("<Q", len(data) // 4) + data if data else b"")


def zipped(tree: bytes, data: bytes = VALUES.tobytes(), **more: bytes) -> bytes:
  stream = io.BytesIO()
  with zipfile.ZipFile(stream, "w") as archive:
    archive.writestr("archive/data.pkl", tree)
    archive.writestr("archive/data/0", data)
    for name, value in more.items():
      archive.writestr(f"archive/{name}", value)
  return stream.getvalue()


def safetensors(header: dict | bytes, data: bytes = b"") -> bytes:
  head = header if isinstance(header, bytes) else json.dumps(header).encode()
  return struct.pack("<Q", len(head)) + head + data


def read(tmp_path: Path, data: bytes) -> dict[str, np.ndarray]:
  file = tmp_path / "weights"
  file.write_bytes(data)
  return weights.read(file)


def refused(tmp_path: Path, data: bytes, why: str) -> None:
  with pytest.raises(UserError, match=why) as caught:
    read(tmp_path, data)
  assert str(tmp_path / "weights") in str(caught.value)


@pytest.mark.parametrize("name", ["legacy.pth", "zip.pth", "zip4.pth"])
def test_files_of_torch(name):
  state = weights.read(PARITY / name)
  np.testing.assert_array_equal(state["0.weight"], np.arange(6).reshape(3, 2, 1, 1))
  np.testing.assert_array_equal(state["strided"], np.arange(24).reshape(4, 6).T[1:, ::2])
  np.testing.assert_array_equal(state["parameter"], [1, 1])
  assert state["1.num_batches_tracked"].shape == ()
  for dtype in ("float16", "bfloat16", "float64", "int64", "uint8"):
    assert state[dtype].dtype == jnp.dtype(dtype)
    np.testing.assert_array_equal(state[dtype].astype(int), np.arange(5))


@pytest.mark.parametrize("form", [legacy, zipped])
def test_files_made_by_hand(form, tmp_path):
  state = read(tmp_path, form(state_dict(a=tensor(), b=tensor(offset=1, shape=(2,), strides=(2,)))))
  np.testing.assert_array_equal(state["a"], VALUES.reshape(2, 3))
  np.testing.assert_array_equal(state["b"], [1, 3])
  assert not state["a"].flags.writeable


def test_checkpoint_around_a_state_dict(tmp_path):
  for key in ("state_dict", "model"):
    tree = b"\x80\x02}(" + text("epoch") + integer(3) + text(key) + state_dict(a=tensor())[2:-1]
    assert list(read(tmp_path, zipped(tree + b"u."))) == ["a"]


def test_safetensors(tmp_path):
  header = {
    "__metadata__": {"format": "pt"},
    "a": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]},
    "b": {"dtype": "BF16", "shape": [2], "data_offsets": [24, 28]},
    "c": {"dtype": "I64", "shape": [], "data_offsets": [28, 36]},
  }
  bf16 = np.array([1.5, -2], jnp.bfloat16)
  state = read(tmp_path, safetensors(header, VALUES.tobytes() + bf16.tobytes() + b"\7" + b"\0" * 7))
  np.testing.assert_array_equal(state["a"], VALUES.reshape(2, 3))
  np.testing.assert_array_equal(state["b"], bf16)
  assert state["c"] == 7


def test_npz(tmp_path):
  stream = io.BytesIO()
  np.savez(stream, **{"Transformer/a": VALUES.reshape(2, 3), "b": np.asfortranarray(np.eye(2))})
  state = read(tmp_path, stream.getvalue())
  np.testing.assert_array_equal(state["Transformer/a"], VALUES.reshape(2, 3))
  np.testing.assert_array_equal(state["b"], np.eye(2))


class Attack:
  def __init__(self, sentinel: Path):
    self.sentinel = sentinel

  def __reduce__(self):
    return os.mkdir, (str(self.sentinel),)


@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
@pytest.mark.parametrize("form", [legacy, zipped, lambda tree: tree])
def test_malicious_pickle_is_refused_by_name_and_not_run(form, protocol, tmp_path):
  sentinel = tmp_path / "sentinel"
  refused(tmp_path, form(pickle.dumps({"a": Attack(sentinel)}, protocol)), "mkdir|opcode")
  assert not sentinel.exists()


def test_refusal_names_the_global_and_what_to_do(tmp_path):
  with pytest.raises(UserError, match=f"global {os.mkdir.__module__}.mkdir.*state_dict"):
    read(tmp_path, zipped(pickle.dumps(Attack(tmp_path / "sentinel"), 2)))


@pytest.mark.parametrize("form", [legacy, zipped])
@pytest.mark.parametrize(
  "claim, why",
  [
    ({"count": 7}, "should have 7"),
    ({"count": 2**40}, "should have"),
    ({"shape": (2, 4)}, "claims the shape"),
    ({"shape": (10**9, 10**9), "strides": (0, 0)}, "claims the shape"),
    ({"offset": 1}, "strides|buffer"),
    ({"offset": -1}, "below zero"),
    ({"strides": (4, 1)}, "strides|buffer"),
    ({"strides": (3, -1)}, "below zero"),
    ({"strides": (3,)}, "strides"),
    ({"kind": b"torch\nLongStorage"}, "should have|cut"),
    ({"kind": b"torch\nQInt8Storage"}, "torch.QInt8Storage"),
  ],
)
def test_claims_that_do_not_fit_the_bytes(form, claim, why, tmp_path):
  refused(tmp_path, form(state_dict(a=tensor(**claim))), why)


@pytest.mark.parametrize(
  "tree, why",
  [
    (b"\x80\x02}(" + integer(1) + integer(2) + b"u.", "no tensor"),
    (b"\x80\x02]}(" + b")K\x01u.", "not plain"),
    (b"\x80\x02].", "no state dict"),
    (b"\x80\x02t.", "read"),
    (b"\x80\x02(K\x01(\x86.", "put down"),
    (b"\x80\x02K\x01r\xff\xff\xff\xff.", "no state dict"),  # a memo of 2**32 places
    (b"\x80\x04\x8e" + b"\xff" * 7 + b"\x7f.", "read"),  # 2**63 bytes to come
    (b"\x80\x02]q\x00h\x00a.", "no state dict"),  # contains itself
    (b"\x80\x02ccollections\nOrderedDict\nK\x01\x85R.", "no state dict needs"),
  ],
)
def test_pickles_that_are_no_state_dict(tree, why, tmp_path):
  refused(tmp_path, zipped(tree), why)


def test_archives_that_are_refused(tmp_path):
  tree = state_dict(a=tensor())
  refused(tmp_path, zipped(tree, **{"../evil": b""}), r"\.\.")
  refused(tmp_path, zipped(tree, byteorder=b"big"), "big-endian")
  refused(tmp_path, legacy(tree, little_endian=False), "big-endian")
  refused(tmp_path, zipped(tree, **{"more/data.pkl": tree}), "neither PyTorch's nor NumPy's")
  bomb = io.BytesIO()
  with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as archive:
    archive.writestr("archive/data.pkl", bytes(10**7))
  refused(tmp_path, bomb.getvalue(), "compressed")
  missing = io.BytesIO()
  with zipfile.ZipFile(missing, "w") as archive:
    archive.writestr("archive/data.pkl", tree)
  refused(tmp_path, missing.getvalue(), "data/0")


@pytest.mark.parametrize(
  "entry",
  [
    {"dtype": "F32", "shape": [7], "data_offsets": [0, 24]},
    {"dtype": "F32", "shape": [10**12], "data_offsets": [0, 4 * 10**12]},
    {"dtype": "F32", "shape": [1], "data_offsets": [-4, 0]},
    {"dtype": "F32", "shape": [-1, -6], "data_offsets": [0, 24]},
    {"dtype": "F32", "shape": [10**12, [1, 2]], "data_offsets": [0, 24]},
    {"dtype": "F32", "shape": [6], "data_offsets": [24, 0]},
    {"dtype": "F4", "shape": [6], "data_offsets": [0, 24]},
    {"dtype": "F32", "shape": [6]},
    [],
  ],
)
def test_safetensors_that_are_refused(entry, tmp_path):
  refused(tmp_path, safetensors({"a": entry}, VALUES.tobytes()), "cannot be read")


def test_safetensors_whose_header_is_broken(tmp_path):
  refused(tmp_path, safetensors(b"{" * 100_000), "cannot be read")
  refused(tmp_path, struct.pack("<Q", 2**60) + b"{}", "cut short")
  refused(tmp_path, safetensors(b'{"a": 1'), "cannot be read")


def test_npz_with_objects_is_refused(tmp_path):
  stream = io.BytesIO()
  np.savez(stream, a=np.array([Attack(tmp_path / "sentinel")], object))
  refused(tmp_path, stream.getvalue(), "objects")
  assert not (tmp_path / "sentinel").exists()


GOOD = [(PARITY / name).read_bytes() for name in ("legacy.pth", "zip.pth")]
GOOD.append(
  safetensors({"a": {"dtype": "F32", "shape": [6], "data_offsets": [0, 24]}}, VALUES.tobytes())
)
ONCE = {"deadline": None, "suppress_health_check": [HealthCheck.function_scoped_fixture]}


@settings(max_examples=100, **ONCE)
@given(
  st.binary(max_size=200), st.sampled_from([b"", b"\x80\x02", b"PK\x03\x04", b"\x02" + b"\0" * 7])
)
def test_random_bytes_are_refused(tmp_path, data, start):
  with pytest.raises(UserError):
    read(tmp_path, start + data)


@settings(max_examples=100, **ONCE)
@given(st.sampled_from(GOOD), st.data())
def test_truncated_files_are_refused(tmp_path, data, draw):
  with pytest.raises(UserError):
    read(tmp_path, data[: draw.draw(st.integers(0, len(data) - 1))])


@settings(max_examples=200, **ONCE)
@given(st.sampled_from(GOOD), st.data())
def test_damaged_files_are_read_or_refused(tmp_path, data, draw):
  damaged = bytearray(data)
  for _ in range(draw.draw(st.integers(1, 3))):
    damaged[draw.draw(st.integers(0, len(data) - 1))] = draw.draw(st.integers(0, 255))
  try:
    read(tmp_path, bytes(damaged))
  except UserError:
    pass


def test_files_that_are_not_there(tmp_path):
  for function in (weights.read, weights.sha256):
    with pytest.raises(UserError, match="cannot be opened"):
      function(tmp_path / "none")
    with pytest.raises(UserError, match="cannot be opened"):
      function(tmp_path)


def test_sha256(tmp_path):
  (tmp_path / "a").write_bytes(b"abc")  # the example of FIPS 180-2
  assert weights.sha256(tmp_path / "a").startswith("ba7816bf8f01cfea414140de5dae2223")


def test_check_lists_what_is_wrong():
  state = {"a": np.zeros(2), "x": np.zeros(1), "bn.num_batches_tracked": np.zeros(())}
  weights.check({"a": np.zeros(2)}, {"a": (2,), "head": (3,)}, ["head"], "file")
  with pytest.raises(UserError) as caught:
    weights.check(state, {"a": (3,), **{f"m{i}": () for i in range(5)}}, (), "some/file")
  said = str(caught.value)
  assert "some/file" in said and "5 missing (m0; m1; m2; ...)" in said
  assert "1 unexpected (x)" in said and "a (2,), not (3,)" in said
  assert "num_batches_tracked" not in said
