"""musicnn in use: audio in, tag probabilities and features out; NumPy in and out."""

import dataclasses
import functools
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import soxr

from models import weights
from models.musicnn import frontend, network

# Bundled weights: trained on the Million Song Dataset, and on MagnaTagATune.
NAMES = ('msd', 'mtt')
KIND = 'musicnn'
_BUNDLED = pathlib.Path(__file__).parent / 'bundled'


@dataclasses.dataclass(frozen=True)
class Heard:
  """What the network makes of a recording, a row for each patch of 3 s.

  Attributes:
    pooled: float32 [patches, features], normalised maximum and mean over time of each channel that
      depends on the input: 424 of 'msd', 754 of 'mtt'.
    penultimate: float32 [patches, 200], the layer before the tags.
    probabilities: float32 [patches, tags], each in 0..1; they do not add up to 1.
  """

  pooled: np.ndarray
  penultimate: np.ndarray
  probabilities: np.ndarray


class Musicnn:
  """One network with its tags.

  Attributes:
    params: tree of `network.shapes`, float32.
    tags: name of each output, in the spelling of its data set.
    card: what describes the weights: source, licence, data.
  """

  def __init__(self, params: network.Params, tags: tuple[str, ...], card: dict[str, Any]):
    """Wraps weights; they are rounded to float16, in which they are saved, and compute in float32.

    Args:
      params: tree of `network.shapes`.
      tags: name of each output.
      card: saved with the weights.

    Raises:
      ValueError: the tree is not that of the published size for these tags; names what differs.
    """
    flat = weights.flatten(params)
    expected = network.shapes(len(tags))
    if {name: value.shape for name, value in flat.items()} != expected:
      wrong = sorted(
        name for name in {*flat, *expected}
        if name not in flat or flat[name].shape != expected.get(name)
      )
      raise ValueError(f'{wrong} are not the parameters of a musicnn with {len(tags)} tags.')
    self.tags, self.card = tuple(tags), dict(card)
    self.params = weights.unflatten(
      {name: np.asarray(value, np.float16).astype(np.float32) for name, value in flat.items()}
    )
    self._live = network.live_channels(self.params)
    self._pruned = jax.tree.map(jnp.asarray, network.pruned(self.params))

  @classmethod
  def load(cls, name_or_path: str | pathlib.Path = 'msd') -> 'Musicnn':
    """Loads bundled weights by name (`NAMES`), or a .safetensors file that `save` wrote.

    Raises:
      FileNotFoundError: neither a name nor a file.
      ValueError: the file is damaged, or not a musicnn.
    """
    path = pathlib.Path(name_or_path).expanduser()
    if path.suffix != '.safetensors':
      if str(name_or_path) not in NAMES:
        raise FileNotFoundError(
          f'{str(name_or_path)!r} is neither a bundled musicnn ({list(NAMES)}) nor a '
          '.safetensors file.'
        )
      path = _BUNDLED / f'{name_or_path}.safetensors'
    params, metadata = weights.load(path)
    if metadata.get('kind') != KIND:
      raise ValueError(f'{path} holds {metadata.get("kind", "something else")}, not a musicnn.')
    return cls(params, tuple(metadata['tags']), metadata['card'])

  def save(self, path: str | pathlib.Path) -> pathlib.Path:
    """Writes weights, tags and card to one .safetensors file, in float16."""
    metadata = {'kind': KIND, 'tags': list(self.tags), 'card': self.card}
    return weights.save(path, self.params, metadata)

  @functools.cached_property
  def content_hash(self) -> str:
    """Identity of the weights: 16 hex digits."""
    return weights.tree_hash(self.params)

  def hear(self, audio: np.ndarray, sample_rate: int) -> Heard:
    """Runs the network over patches of 3 s, side by side; the rest is left out.

    Args:
      audio: [n] or [n, channels] float, full scale 1; channels are averaged.
      sample_rate: Hz; other rates than 16 kHz are resampled.

    Raises:
      ValueError: the audio is not of such a shape, has no samples, or one that is not finite.
    """
    audio = np.asarray(audio, np.float32)
    if audio.ndim not in (1, 2):
      raise ValueError(f'Audio of shape {audio.shape} is not [n] or [n, channels].')
    if not np.isfinite(audio).all():
      raise ValueError(f'{np.sum(~np.isfinite(audio))} samples of the audio are not finite.')
    # A product: NumPy's mean over so short an axis takes ten times as long.
    mono = audio
    if audio.ndim == 2:
      mono = audio @ np.full(audio.shape[1], 1 / audio.shape[1], np.float32)
    if sample_rate != frontend.SAMPLE_RATE:
      mono = soxr.resample(mono, sample_rate, frontend.SAMPLE_RATE)
    # One patch at a time: nothing is compiled twice, whatever the length.
    found = [_run(self._pruned, patch[None]) for patch in frontend.patches(mono)]
    rows = {name: np.concatenate([one[name] for one in found]) for name in found[0]}
    return Heard(rows['pooled'][:, self._live], rows['penultimate'], rows['probabilities'])


@jax.jit
def _run(params: network.Params, log_mels: jax.Array) -> dict[str, jax.Array]:
  found = network.features(params, log_mels)
  return {**found, 'probabilities': jax.nn.sigmoid(found['logits'])}
