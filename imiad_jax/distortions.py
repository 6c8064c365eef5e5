"""The ten operations by which DRAEM turns one texture into many, as imgaug and Pillow define them.

Each is a pure function of a key and one image [h,w,3] float32 in [0,1]. Where they speak of grey
levels these are the 256 of an image of bytes; where they do not, nothing is rounded. What differs
from imgaug 0.4: brightness is luma and not the like of a colour space drawn each time, it is
multiplied before it is added to; rotation takes the nearest pixel.
"""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from imiad_jax import images

Image = Float[Array, "h w 3"]


def gamma(key: Array, image: Image) -> Image:
  """Raises each channel to a power of its own, U(0.5, 2)."""
  return image ** jax.random.uniform(key, (3,), minval=0.5, maxval=2.0)


def brightness(key: Array, image: Image) -> Image:
  """Multiplies luma by U(0.8, 1.2) and adds U(-30, 30) levels to it, colour differences kept."""
  times_key, add_key = jax.random.split(key)
  times = jax.random.uniform(times_key, minval=0.8, maxval=1.2)
  add = jax.random.uniform(add_key, minval=-30, maxval=30) / 255
  luma = (image @ images.GREY)[..., None]
  return jnp.clip(image + (times - 1) * luma + add, 0, 1)


def sharpened(image: Image, factor: Float[Array, ""]) -> Image:
  """Pillow's sharpness: 0 is smoothed by [1 1 1; 1 5 1; 1 1 1] / 13 but for the edge, 1 is not."""
  h, w, _ = image.shape
  around = sum(image[i : h - 2 + i, j : w - 2 + j] for i in range(3) for j in range(3))
  smooth = image.at[1:-1, 1:-1].set((around + 4 * image[1:-1, 1:-1]) / 13)
  return jnp.clip(smooth + factor * (image - smooth), 0, 1)


def sharpness(key: Array, image: Image) -> Image:
  """Pillow's sharpness by U(0.1, 1.9)."""
  return sharpened(image, jax.random.uniform(key, minval=0.1, maxval=1.9))


def hue_saturation(key: Array, image: Image) -> Image:
  """Adds U(-50, 50) / 255 turns to the hue and as much, drawn anew, to the saturation, of HSV."""
  turn, add = jax.random.uniform(key, (2,), minval=-50, maxval=50) / 255
  return shifted(image, turn, add)


def shifted(image: Image, turn: Float[Array, ""], add: Float[Array, ""]) -> Image:
  """Adds `turn` of a circle to the hue and `add` to the saturation of HSV."""
  red, green, blue = jnp.moveaxis(image, -1, 0)
  value = jnp.max(image, axis=-1)
  chroma = value - jnp.min(image, axis=-1)
  safe = jnp.where(chroma == 0, 1, chroma)
  sector = jnp.where(
    value == red,
    (green - blue) / safe,
    jnp.where(value == green, 2 + (blue - red) / safe, 4 + (red - green) / safe),
  )
  saturation = jnp.clip(chroma / jnp.where(value == 0, 1, value) + add, 0, 1)
  k = (jnp.array([5.0, 3.0, 1.0]) + sector[..., None] + 6 * turn) % 6
  dip = jnp.clip(jnp.minimum(k, 4 - k), 0, 1)
  return value[..., None] * (1 - saturation[..., None] * dip)


def solarised(image: Image, threshold: Float[Array, ""]) -> Image:
  """Inverts what is at or above the threshold."""
  return jnp.where(image < threshold, image, 1 - image)


def solarise(key: Array, image: Image) -> Image:
  """In one of two cases inverts what is at or above a level of 32..128."""
  coin_key, level_key = jax.random.split(key)
  threshold = jax.random.randint(level_key, (), 32, 129) / 255
  return jnp.where(jax.random.bernoulli(coin_key), solarised(image, threshold), image)


def posterised(image: Image, bits: Int[Array, ""]) -> Image:
  """Keeps the first `bits` of the eight bits of each level."""
  step = 2 ** (8 - bits)
  return _levels(image) // step * step / 255


def posterise(key: Array, image: Image) -> Image:
  """Keeps the first 1 to 8 bits of each level."""
  return posterised(image, jax.random.randint(key, (), 1, 9))


def invert(key: Array, image: Image) -> Image:
  """Returns the negative."""
  del key
  return 1 - image


def contrasted(image: Image, cutoff: Int[Array, ""]) -> Image:
  """Pillow's autocontrast: stretches each channel but for `cutoff` percent at each end."""
  h, w, _ = image.shape
  count = _histogram(image)
  cut = h * w * cutoff // 100
  low = jnp.argmax(jnp.cumsum(count, axis=1) > cut, axis=1)
  high = 255 - jnp.argmax(jnp.cumsum(count[:, ::-1], axis=1) > cut, axis=1)
  scale = 255 / jnp.maximum(high - low, 1)
  stretched = jnp.clip((255 * image - low) * scale, 0, 255) / 255
  return jnp.where(high > low, stretched, image)


def autocontrast(key: Array, image: Image) -> Image:
  """Pillow's autocontrast with a cutoff of 0 to 20 percent."""
  return contrasted(image, jax.random.randint(key, (), 0, 21))


def equalise(key: Array, image: Image) -> Image:
  """Pillow's equalisation of each channel's histogram."""
  del key
  count = _histogram(image)  # [3,256]
  below = jnp.cumsum(count, axis=1) - count
  last = 255 - jnp.argmax(count[:, ::-1] > 0, axis=1)  # the highest level there is
  step = (jnp.sum(count, axis=1) - count[jnp.arange(3), last]) // 255
  table = jnp.minimum((step[:, None] // 2 + below) // jnp.maximum(step, 1)[:, None], 255)
  table = jnp.where(step[:, None] > 0, table, jnp.arange(256))
  return table[jnp.arange(3), _levels(image)] / 255


def turn(key: Array, image: Image) -> Image:
  """Turns the image by U(-45, 45) degrees; the corners become black."""
  quarter = math.pi / 4
  return images.rotate(image, jax.random.uniform(key, minval=-quarter, maxval=quarter))


ALL = (
  *(gamma, brightness, sharpness, hue_saturation, solarise),
  *(posterise, invert, autocontrast, equalise, turn),
)


def distort(key: Array, image: Image, n: int = 3) -> Image:
  """Applies n of the ten to an image, no two alike, one after the other."""
  choice_key, key = jax.random.split(key)
  chosen = jax.random.choice(choice_key, len(ALL), (n,), replace=False)

  def one(x: Array, at: tuple[Array, Array]) -> tuple[Array, None]:
    which, key = at
    return jax.lax.switch(which, ALL, key, x), None

  return jax.lax.scan(one, image, (chosen, jax.random.split(key, n)))[0]


def _levels(image: Image) -> Int[Array, "h w 3"]:
  return jnp.round(255 * image).astype(jnp.int32)


def _histogram(image: Image) -> Int[Array, "3 256"]:
  level = _levels(image)
  return jnp.zeros((3, 256), jnp.int32).at[jnp.arange(3), level].add(1)
