"""Data sets: what is drawn, what is read, and every way in which a folder can be wrong."""

import functools
import hashlib
import io
import os
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from imiad_jax.datasets import common
from imiad_jax.datasets.common import Example, pictures
from imiad_jax.datasets.mtd import split
from imiad_jax.datasets.synthetic import defects
from imiad_jax.datasets.synthetic.synthetic_dataset_builder import OBJECTS
from imiad_jax.datasets.synthetic.synthetic_dataset_builder import Builder as Synthetic
from imiad_jax.datasets.variants import objects as variants
from imiad_jax.datasets.variants.variants_dataset_builder import Builder as Variants
from PIL import Image
from sklearn.metrics import roc_auc_score

from imiad_jax.errors import UserError
from tests import layouts

SIX = ("bottle", "capsule", "circuit", "plate", "tray", "woven")
KITS = {**OBJECTS, **variants.OBJECTS}
CRACK = "MT_Crack/Imgs"


def prepare(root, tmp_path, name="mtd"):
  return common.prepare(name, root and str(root), str(tmp_path / "prepared"))


def refuse(root, tmp_path) -> str:
  """Expects prepare to refuse the folder, and to leave nothing but a lock; returns what it says."""
  with pytest.raises(UserError) as error:
    prepare(root, tmp_path)
  left = list((tmp_path / "prepared").glob("*"))
  assert [p for p in left if not p.name.endswith(".lock")] == []
  return str(error.value)


def files(prepared: Path) -> list[str]:
  return sorted(p.relative_to(prepared).as_posix() for p in prepared.rglob("*") if p.is_file())


@pytest.fixture
def tiles(tmp_path) -> Path:
  return layouts.mtd(tmp_path / "mtd")


def file(folder: Path, suffix: str = ".jpg") -> Path:
  return next(folder.glob(f"*{suffix}"))


# ---- synthetic ----


def test_synthetic_lists_what_its_readme_says():
  examples = Synthetic.examples(None)
  assert Synthetic.CATEGORIES == SIX
  assert len({e.name for e in examples}) == len(examples) == 660
  kinds = Counter((e.category, e.split, e.kind) for e in examples)
  for category in SIX:
    logical = category in ("circuit", "tray")
    assert kinds[category, "train", "good"] == 60
    assert kinds[category, "test", "good"] == 20
    assert len(defects.kinds(OBJECTS[category])) == (8 if logical else 5)
    assert all(kinds[category, "test", kind] == 5 for kind in defects.kinds(OBJECTS[category]))


def test_variants_lists_what_its_readme_says():
  kinds = Counter((e.category, e.split, e.kind) for e in Variants.examples(None))
  damage = dict.fromkeys(("bend", "crack", "hole", "scratch", "stain"), 5)
  tested = {"good": 40, "mismatch": 40} | damage
  for category in ("pair", "panel"):
    assert kinds.pop((category, "train", "good")) == 60
    assert {kind: kinds.pop((category, "test", kind)) for kind in tested} == tested
  assert not kinds


@pytest.mark.parametrize("category", sorted(variants.OBJECTS))
def test_a_mismatch_changes_one_end_to_what_it_is_in_another_variant(category):
  kit, rng = variants.OBJECTS[category], np.random.default_rng(0)
  mismatch = dict(kit.mistakes)["mismatch"]

  def ends(plan):
    looks, parts = plan.looks, plan.parts
    return (parts[0].kind, parts[-1].kind) if parts else (looks["lit"], looks["lever"])

  plans = [kit.plan(rng) for _ in range(60)]
  good = {ends(p) for p in plans}
  assert len(good) == 3
  for p in plans:
    left, right = ends(mismatch(rng, p))
    assert (left, right) not in good
    assert left in {a for a, _ in good} and right in {b for _, b in good}
    assert sum(a != b for a, b in zip(ends(p), (left, right), strict=True)) == 1


@pytest.mark.parametrize("category", sorted(KITS))
def test_same_seed_same_bytes(category):
  def draw() -> list[str]:
    defects.picture.cache_clear()
    listed = [*Synthetic.examples(None), *Variants.examples(None)]
    rows = [e for e in listed if e.category == category][58:82:6]
    return [hashlib.sha256(e.image()).hexdigest() for e in rows]

  first = draw()
  assert first == draw()
  assert len(set(first)) == len(first)
  assert not np.array_equal(
    defects.picture(KITS[category], category, "train", "good", 0)[0],
    defects.picture(KITS[category], category, "train", "good", 0, seed=1)[0],
  )


@pytest.mark.parametrize("category", sorted(KITS))
def test_mask_is_exactly_what_the_defect_changed(category):
  for kind in defects.kinds(KITS[category]):
    image, mask, good = defects.picture(KITS[category], category, "test", kind, 0)
    change = np.abs(image.astype(int) - good).max(axis=-1)
    assert image.shape == (256, 256, 3) and image.dtype == np.uint8
    assert (mask == (change >= defects.LEAST)).all()
    assert 0.0005 <= mask.mean() <= 0.15


@pytest.mark.parametrize("category", ["bottle", "capsule"])
def test_defects_lie_on_the_object(category):
  for kind in defects.kinds(OBJECTS[category]):
    for number in range(3):
      _, mask, _ = defects.picture(OBJECTS[category], category, "test", kind, number)
      assert depth(category, kind, number)[mask].min() > -1  # the blur carries a pixel further


def depth(category: str, kind: str, number: int) -> np.ndarray:
  pose, plan, *_ = defects.chances(category, "test", kind, number, 0)
  kit = OBJECTS[category]
  return kit.paint(kit.pose(pose), kit.plan(plan)).depth


def test_an_average_picture_does_not_solve_it(synthetic_dir):
  builder = common.prepare("synthetic", None, synthetic_dir)
  index = {k: np.asarray(v) for k, v in builder.info.metadata["index"].items()}
  small = []
  for part in ("train", "test"):
    for row in builder.as_data_source(part):
      image = Image.fromarray(row["image"]).resize((64, 64), Image.Resampling.BILINEAR)
      small.append(np.asarray(image, np.float32))
  small = np.stack(small)  # [n,64,64,3]
  worst = []
  for category in SIX:
    train = small[(index["category"] == category) & (index["split"] == "train")]
    tested = (index["category"] == category) & (index["split"] == "test")
    test, label = small[tested], index["label"][tested]
    far = np.abs(test - train.mean(axis=0))
    colour = np.abs(test.mean(axis=(1, 2)) - train.mean(axis=(0, 1, 2))).sum(axis=1)
    scores = far.mean(axis=(1, 2, 3)), far.max(axis=(1, 2, 3)), colour
    worst.append(max(roc_auc_score(label, s) for s in scores))
  assert sum(w < 0.8 for w in worst) >= 5, dict(zip(SIX, worst, strict=True))


def test_what_is_built_is_what_the_index_says(synthetic_dir):
  builder = common.prepare("synthetic", None, synthetic_dir)
  index = builder.info.metadata["index"]
  assert set(index) == {"name", "category", "split", "kind", "label"}
  assert index["split"] == ["train"] * 360 + ["test"] * 300
  assert index["name"][:360] == sorted(index["name"][:360])
  assert index["name"][360:] == sorted(index["name"][360:])
  source = builder.as_data_source("test")
  for row in (0, 7, 123, 299):
    assert source[row]["name"].decode() == index["name"][360 + row]
    assert source[row]["kind"].decode() == index["kind"][360 + row]
    assert source[row]["label"] == index["label"][360 + row]
    assert set(np.unique(source[row]["mask"])) == ({0, 255} if source[row]["label"] else {0})
  assert builder.info.description.startswith("Synthetic industrial pictures")
  assert builder.name == "synthetic"


# ---- magnetic tiles ----


def test_mtd_split_is_the_one_its_script_makes():
  text = (Path(split.__file__).parent / "split.txt").read_text()
  official = split.listed()
  assert "\n".join(split.lines(official)) + "\n" == text
  good = Counter(v for n, v in official.items() if n.startswith(split.GOOD))
  assert good == {"train": 762, "test": 190}
  assert Counter(official.values()) == {"train": 762, "test": 582}


def test_mtd_is_read(tiles, tmp_path):
  builder = prepare(tiles, tmp_path)
  index = builder.info.metadata["index"]
  kinds = Counter(zip(index["split"], index["kind"], strict=True))
  assert kinds == {
    ("train", "good"): 4,
    ("test", "good"): 2,
    **{("test", f.removeprefix("MT_").lower()): 1 for f in layouts.DEFECTS},
  }
  assert set(index["category"]) == {"mtd"}
  for row in builder.as_data_source("test"):
    path = tiles / row["name"].decode()
    assert np.array_equal(row["image"], np.asarray(Image.open(path).convert("RGB")))
    mask = np.asarray(Image.open(path.with_suffix(".png")))
    assert np.array_equal(row["mask"][..., 0], mask)
  assert "Magnetic tile" in builder.info.citation + builder.info.description


def test_good_tiles_that_are_not_listed_are_learnt(tiles, tmp_path, caplog):
  shutil.copy(file(tiles / "MT_Free/Imgs"), tiles / "MT_Free/Imgs/ours.jpg")
  index = prepare(tiles, tmp_path).info.metadata["index"]
  assert index["split"][index["name"].index("MT_Free/Imgs/ours.jpg")] == "train"
  assert "1 unknown: MT_Free/Imgs/ours" in caplog.text
  assert "mtd       test/fray      32        1" in caplog.text


def test_odd_names_and_strays_do_no_harm(tiles, tmp_path):
  folder = tiles / CRACK
  pair = file(folder)
  for suffix in (".jpg", ".png"):
    shutil.copy(pair.with_suffix(suffix), folder / f"größer 裂 2{suffix}")
    pair.with_suffix(suffix).rename(folder / f"UPPER{suffix.upper()}")
  for stray in ("Thumbs.db", ".DS_Store", "README", "._hidden.jpg", "notes.txt"):
    (folder / stray).write_bytes(b"x")
  (folder / "folder.jpg").mkdir()
  (folder / "loop").symlink_to(tiles, target_is_directory=True)
  names = prepare(tiles, tmp_path).info.metadata["index"]["name"]
  cracks = [n for n in names if n.startswith(CRACK)]
  assert cracks == [f"{CRACK}/UPPER.JPG", f"{CRACK}/größer 裂 2.jpg"]


def test_a_file_that_links_to_itself_is_named(tiles, tmp_path):
  (tiles / CRACK / "self.jpg").symlink_to(tiles / CRACK / "self.jpg")
  assert f"'{CRACK}/self.jpg' cannot be read" in refuse(tiles, tmp_path)


def test_missing_mask(tiles, tmp_path):
  mask = file(tiles / CRACK, ".png")
  mask.unlink()
  said = refuse(tiles, tmp_path)
  assert str(mask.with_suffix(".jpg")) in said and '"crack"' in said and "no mask" in said


def test_mask_of_another_size(tiles, tmp_path):
  mask = file(tiles / CRACK, ".png")
  Image.new("L", (7, 9)).save(mask)
  said = refuse(tiles, tmp_path)
  assert str(mask) in said and "7 x 9" in said and "20 x 38" in said


@pytest.mark.parametrize("suffix", [".jpg", ".png"])
def test_truncated_file(tiles, tmp_path, suffix):
  broken = file(tiles / CRACK, suffix)
  broken.write_bytes(broken.read_bytes()[:-30])
  said = refuse(tiles, tmp_path)
  assert str(broken) in said and "not a readable image" in said


def test_empty_file(tiles, tmp_path):
  broken = file(tiles / CRACK)
  broken.write_bytes(b"")
  said = refuse(tiles, tmp_path)
  assert str(broken) in said and "empty file" in said


def test_no_good_images(tiles, tmp_path):
  shutil.rmtree(tiles / "MT_Free")
  said = refuse(tiles, tmp_path)
  assert 'Category "mtd"' in said and "no good training images" in said


def test_no_test_images(tmp_path):
  root = layouts.mtd(tmp_path / "mtd", train=2, test=0)
  for folder in layouts.DEFECTS:
    shutil.rmtree(root / folder)
  assert "no test images" in refuse(root, tmp_path)


def test_wrong_folder(tmp_path):
  (tmp_path / "photos").mkdir()
  for name in ("a.jpg", "b.jpg", "sub"):
    (tmp_path / "photos" / name).touch()
  said = refuse(tmp_path / "photos", tmp_path)
  assert "holds: a.jpg, b.jpg, sub. Expected: MT_Blowhole/Imgs" in said
  assert "github.com/abin24" in said
  assert not (tmp_path / "prepared").exists()


def test_no_folder(tmp_path):
  assert "does not exist" in refuse(tmp_path / "nowhere", tmp_path)
  assert "needs a folder and none was given" in refuse(None, tmp_path)
  (tmp_path / "file").touch()
  assert "is a file" in refuse(tmp_path / "file", tmp_path)


# ---- building ----


def test_built_once_and_anew_when_the_folder_changes(tiles, tmp_path, monkeypatch):
  first = prepare(tiles, tmp_path)
  before = files(tmp_path / "prepared")
  with monkeypatch.context() as m:
    m.setattr(common, "_build", lambda *a: pytest.fail("built again"))
    again = prepare(tiles, tmp_path)
  assert again.data_dir == first.data_dir
  assert again.info.metadata == first.info.metadata
  assert files(tmp_path / "prepared") == before
  file(tiles / "MT_Free/Imgs").unlink()
  changed = prepare(tiles, tmp_path)
  assert changed.info.metadata["fingerprint"] != first.info.metadata["fingerprint"]
  assert len(changed.as_data_source("train")) == 3
  assert len(first.as_data_source("train")) == 4


def test_rebuilt_when_a_part_was_deleted(tiles, tmp_path):
  builder = prepare(tiles, tmp_path)
  next(Path(builder.data_dir).glob("*test*")).unlink()
  assert len(prepare(tiles, tmp_path).as_data_source("test")) == 7


BUILD = """
import os, sys
from imiad_jax.datasets import common
from imiad_jax.datasets.common import pictures
encode, calls = pictures.encode, []
def dying(*args):
  calls.append(args)
  if len(calls) == int(sys.argv[3]):
    os.kill(os.getpid(), 9)
  return encode(*args)
pictures.encode = dying
print(len(common.prepare("mtd", sys.argv[1], sys.argv[2]).as_data_source("test")))
"""


def build_elsewhere(root: Path, tmp_path: Path, die_at: int) -> subprocess.Popen:
  command = [sys.executable, "-c", BUILD, str(root), str(tmp_path / "prepared"), str(die_at)]
  return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)


def test_a_killed_build_is_no_obstacle(tiles, tmp_path):
  killed = build_elsewhere(tiles, tmp_path, die_at=6)
  killed.communicate()
  assert killed.returncode == -9
  assert any("incomplete" in name for name in files(tmp_path / "prepared"))
  assert len(prepare(tiles, tmp_path).as_data_source("test")) == 7
  assert not any("incomplete" in name for name in files(tmp_path / "prepared"))


def test_two_builds_at_once(tiles, tmp_path):
  both = [build_elsewhere(tiles, tmp_path, die_at=-1) for _ in range(2)]
  assert [p.communicate()[0].strip() for p in both] == ["7", "7"]
  assert len([n for n in files(tmp_path / "prepared") if n.endswith("dataset_info.json")]) == 1


def test_a_prepared_dir_that_cannot_be_written(tiles, tmp_path):
  (tmp_path / "prepared").write_text("a file in its place")
  with pytest.raises(UserError, match=r"Nothing can be written in .*another prepared_dir"):
    prepare(tiles, tmp_path)


def test_a_full_disk_is_said_before_the_work(tiles, tmp_path, monkeypatch):
  usage = shutil.disk_usage(tmp_path)._replace(free=100)
  monkeypatch.setattr(common.shutil, "disk_usage", lambda folder: usage)
  assert "0 MB left" in refuse(tiles, tmp_path)


@pytest.mark.parametrize("error", [OSError, RuntimeError])  # from Python, from array_record
def test_a_disk_that_fills_up_meanwhile(tiles, tmp_path, monkeypatch, error):
  def full(*args):
    raise error("write() failed: No space left on device")

  monkeypatch.setattr(pictures, "encode", full)
  assert "No space left on device. Free some space" in refuse(tiles, tmp_path)


def test_fingerprint_knows_the_files_not_their_order():
  a = Example("a.png", "c", "train", "good", b"12", None)
  b = Example("b.png", "c", "test", "hole", b"123", b"1")
  print_ = functools.partial(common.fingerprint, version="1.0.0")
  assert print_([a, b]) == print_([b, a])
  assert len(print_([a])) == 12
  others = (
    a._replace(image=b"1"), a._replace(split="test"), a._replace(kind="hole"),
    a._replace(name="z.png"), a._replace(mask=b"1"),
  )  # fmt: skip
  assert len({print_([x]) for x in (a, *others)}) == 6
  assert print_([a]) != common.fingerprint([a], "1.0.1")


def test_two_examples_of_one_name():
  a = Example("a.png", "c", "test", "good", b"12", None)
  with pytest.raises(UserError, match=r'Two images are named "a\.png"'):
    common.checked(Synthetic, [a, a])


# ---- pictures ----


def stored(picture: Image.Image, suffix: str = "PNG") -> bytes:
  out = io.BytesIO()
  picture.save(out, suffix)
  return out.getvalue()


def read(data: bytes) -> np.ndarray:
  return np.asarray(Image.open(io.BytesIO(data)))


GREY = np.arange(12, dtype=np.uint8).reshape(3, 4) * 20
COLOUR = np.stack([GREY, 255 - GREY, GREY // 2], axis=-1)
ALPHA = np.where(GREY > 100, 0, 255).astype(np.uint8)[..., None]


@pytest.mark.parametrize(
  ("picture", "expected"),
  [
    (Image.fromarray(GREY), GREY),
    (Image.fromarray(COLOUR), COLOUR),
    (Image.fromarray(np.concatenate([COLOUR, ALPHA], -1)), COLOUR),
    (Image.fromarray(np.concatenate([GREY[..., None], ALPHA], -1)), GREY),
    (Image.fromarray(GREY > 100), np.where(GREY > 100, 255, 0)),
    (Image.fromarray(GREY.astype(np.uint16) * 257), GREY),
    (Image.fromarray(GREY.astype(np.int32) * 257), GREY),
    (Image.fromarray(COLOUR).quantize(12), COLOUR),
  ],
  ids=["L", "RGB", "RGBA", "LA", "1", "I;16", "I", "P"],
)
def test_every_mode_becomes_rgb(picture, expected):
  suffix = "TIFF" if picture.mode == "I" else "PNG"
  image, mask, defective = pictures.encode("a", stored(picture, suffix), None)
  expected = expected if expected.ndim == 3 else np.repeat(expected[..., None], 3, -1)
  assert np.array_equal(read(image), expected)
  assert not read(mask).any() and read(mask).shape == GREY.shape and not defective


def test_plain_rgb_keeps_its_bytes():
  for suffix in ("PNG", "JPEG"):
    data = stored(Image.fromarray(COLOUR), suffix)
    assert pictures.encode("a", data, None)[0] == data


@pytest.mark.parametrize("mode", ["L", "1", "P", "RGB", "RGBA", "LA", "I;16"])
def test_every_mode_becomes_a_mask(mode):
  region = GREY > 100
  faint = region.astype(np.uint8)  # 1 of 255 is a region too
  if mode == "P":
    mask = Image.fromarray(faint, "L").convert("P")
    mask.putpalette([0] * 768)  # the index counts, not its colour
  elif mode == "RGBA":
    mask = Image.fromarray(np.stack([0 * faint, faint, 0 * faint, 0 * faint + 255], -1))
  elif mode == "LA":
    mask = Image.fromarray(np.stack([faint, 0 * faint + 255], -1))
  elif mode == "RGB":
    mask = Image.fromarray(np.stack([0 * faint, 0 * faint, faint], -1))
  else:
    mask = Image.fromarray(
      {"L": faint, "1": region, "I;16": faint.astype(np.uint16)}[mode],
    )
  assert mask.mode == mode
  _, out, defective = pictures.encode("a", stored(Image.fromarray(GREY)), stored(mask))
  assert np.array_equal(read(out), np.where(region, 255, 0)) and defective


@pytest.mark.data
def test_real_magnetic_tiles(tmp_path):
  builder = prepare(os.environ["IMIAD_MTD"], tmp_path)
  assert len(builder.as_data_source("train")) == 762
  assert len(builder.as_data_source("test")) == 582
  kinds = Counter(builder.info.metadata["index"]["kind"])
  assert kinds == dict(good=952, blowhole=115, **{"break": 85}, crack=57, fray=32, uneven=103)


def test_faded_masks_are_cut_where_the_builder_says():
  faded = np.linspace(0, 255, GREY.size).astype(np.uint8).reshape(GREY.shape)
  for above in (0, 127):
    image, mask = stored(Image.fromarray(GREY)), stored(Image.fromarray(faded))
    out = read(pictures.encode("a", image, mask, above)[1])
    np.testing.assert_array_equal(out > 0, faded > above)
