"""How near outputs come to a catalog, all as the codec plays it, with anchors for each figure.

What a model plays has gone through the codec with the levels that the model predicts, and that
moves an embedding: held-out gamelan, which the bundled codec has not heard either, has a cosine of
0.96 to its catalog as it is, 0.08 after 16 levels of the codec, and 0.97 if both have gone through
them. So outputs are laid beside the catalog's own tokens, decoded.
"""

import dataclasses
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from evaluation import adherence, anchors, bootstrap, signal_health
from evaluation import likeness as sound
from models.spec import LiveMusicSpec

NUM_EXCERPTS = 16
COSINE, SOUND, LOUDNESS = 'style_cosine', 'sound_distance', 'loudness_lufs'
HELD_OUT, OTHER, NOISE = 'held-out catalog', 'other music', 'white noise'
# Best first; what a figure must put in this order to be believed.
_ORDER = (HELD_OUT, OTHER, NOISE)
LOWER_IS_BETTER = {COSINE: False, SOUND: True}
# The demo composer's styles lie far apart.
_OTHER_STYLES = ('house', 'jazz swing', 'church organ', 'chiptune')


@dataclasses.dataclass(frozen=True)
class Measured:
  """Figures of N clips.

  Attributes:
    embeddings: float32 [N, style_dim].
    figures: float64 [N] by name: the cosine to the catalog's mean, the distance of the sound
      (`evaluation.likeness.sound_distances`), the loudness in LUFS.
  """

  embeddings: np.ndarray
  figures: dict[str, np.ndarray]

  def means(self) -> dict[str, float]:
    return {name: float(values.mean()) for name, values in self.figures.items()}


class CatalogLikeness:
  """Lays clips beside a catalog.

  Attributes:
    anchors: column -> what is measured of it.
    wrong: figure -> neighbouring anchors that it puts the wrong way round; such a figure cannot be
      believed on this catalog.
  """

  def __init__(
    self,
    training: Sequence[np.ndarray],
    held_out: Sequence[np.ndarray],
    other: Sequence[np.ndarray],
    style: Any,
    sample_rate: int,
  ):
    """Measures the catalog and the anchors.

    Args:
      training: clips [samples, channels] of the catalog's training tracks, decoded from tokens.
      held_out: of its held-out tracks, likewise.
      other: of other music, likewise; may be empty.
      style: the style model.
      sample_rate: of all clips.

    Raises:
      ValueError: there are fewer than two clips of the training tracks.
    """
    self._style, self._rate = style, sample_rate
    embeddings, self._sounds = self._look_at(training)
    self._mean = embeddings.mean(axis=0)
    noise = [anchors.noise_like(clip, seed) for seed, clip in enumerate(held_out)]
    columns = {HELD_OUT: held_out, OTHER: other, NOISE: noise}
    self.anchors = {name: self.measure(clips) for name, clips in columns.items() if len(clips)}
    self.wrong = {
      figure: anchors.misordered(
        {name: found.means()[figure] for name, found in self.anchors.items()}, _ORDER,
        lower_is_better=lower,
      )
      for figure, lower in LOWER_IS_BETTER.items()
    }  # fmt: skip

  @classmethod
  def of(
    cls, data_dir: str | pathlib.Path, split: str, spec: LiveMusicSpec, codec: Any, style: Any,
    *, number: int = NUM_EXCERPTS,
  ) -> 'CatalogLikeness':  # fmt: skip
    """Of a prepared catalog.

    Args:
      data_dir: what prepare.py wrote.
      split: held out, such as 'validation'.
      spec: token layout.
      codec: of the tokens.
      style: the style model.
      number: of excerpts of each split at most.
    """
    training, held_out = (
      decoded_excerpts(data_dir, name, spec, codec, number) for name in ('train', split)
    )
    return cls(training, held_out, other_music(spec, codec), style, spec.sample_rate)

  def measure(self, clips: Sequence[np.ndarray]) -> Measured:
    """Figures of clips [samples, channels] of 4 s or more each."""
    embeddings, sounds = self._look_at(clips)
    loudness = [signal_health.loudness_lufs(clip, self._rate) for clip in clips]
    return Measured(embeddings, {
      COSINE: np.asarray(adherence.cosine(embeddings, self._mean), np.float64),
      SOUND: sound.sound_distances(sounds, self._sounds),
      LOUDNESS: np.maximum(np.asarray(loudness, np.float64), sound.SILENCE_LUFS),
    })  # fmt: skip

  def _look_at(self, clips: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    embeddings = [self._style.embed_audio(clip, self._rate) for clip in clips]
    sounds = [sound.sound_figures(clip, self._rate) for clip in clips]
    return np.stack(embeddings).astype(np.float32), np.stack(sounds)


def decoded_excerpts(
  data_dir: str | pathlib.Path,
  split: str,
  spec: LiveMusicSpec,
  codec: Any,
  number: int = NUM_EXCERPTS,
) -> list[np.ndarray]:
  """Excerpts of a prepared catalog, decoded from their tokens.

  Args:
    data_dir: prepared, with records of `split`.
    split: of the data.
    spec: token layout; as many levels are decoded as a model predicts.
    codec: of the tokens.
    number: of excerpts at most, each from the middle of a record; records evenly spread.

  Returns:
    float32 [samples, channels] each, of 10 s or what the record has.
  """
  from preprocessing.records import read_split
  from tasks.source import find_token_folder

  clips = [tokens.acoustic_tokens for tokens, _ in read_split(find_token_folder(data_dir), split)]
  frames = round(spec.style_window_secs * spec.frame_rate)
  found = []
  for clip in clips[:: max(1, -(-len(clips) // number))]:
    start = max(0, (len(clip) - frames) // 2)
    codes = np.asarray(clip[start : start + frames, : spec.target_levels], np.int32)
    found.append(np.asarray(codec.decode(codes), np.float32))
  return found


def other_music(spec: LiveMusicSpec, codec: Any, seed: int = 0) -> list[np.ndarray]:
  """Music that is no catalog of anybody's: four works of the demo's composer, through the codec."""
  from preprocessing import composer, synthesizer

  secs = float(spec.style_window_secs)
  works = [
    synthesizer.render(composer.compose(name, seed, secs), spec.sample_rate)
    for name in _OTHER_STYLES
  ]
  samples = round(secs * spec.sample_rate)
  clips = np.stack([np.pad(work, [(0, samples), (0, 0)])[:samples] for work in works])
  codes = np.asarray(codec.encode(clips.astype(np.float32), spec.target_levels))
  return [np.asarray(codec.decode(rows), np.float32) for rows in codes]


def style_figures(
  likeness: CatalogLikeness, before: Measured, after: Measured, seed: int
) -> dict[str, Any]:
  """The `style` of a `TuningReport`.

  Args:
    likeness: to the catalog.
    before: what the base plays.
    after: what the tuned model plays, of the same prompts with the same random numbers.
    seed: of the bootstrap over outputs.
  """
  catalog = likeness.anchors[HELD_OUT].means()
  rows = {}
  for name in (COSINE, SOUND, LOUDNESS):
    first, last = before.figures[name], after.figures[name]
    _, low, high = bootstrap.mean_interval(last - first, seed=seed)
    rows[name] = {
      'before': float(first.mean()), 'after': float(last.mean()), 'low': float(low),
      'high': float(high), 'catalog': catalog[name],
      'anchors': {column: found.means()[name] for column, found in likeness.anchors.items()},
      'wrong': [list(pair) for pair in likeness.wrong.get(name, ())],
    }  # fmt: skip
  cosine = rows[COSINE]
  names = ('before', 'after', 'low', 'high', 'catalog')
  return {
    **{name: cosine[name] for name in names}, 'num_clips': len(before.embeddings), 'figures': rows,
  }  # fmt: skip


def spread(vectors: Sequence[np.ndarray] | np.ndarray) -> float:
  """Mean of 1 - cosine over all pairs of [N, D]; 0 for a single one."""
  vectors = np.asarray(vectors)
  first, second = np.triu_indices(len(vectors), 1)
  if not len(first):
    return 0.0
  return float(1 - adherence.cosine(vectors[first], vectors[second]).mean())


def in_words(anchors_of: Mapping[str, Measured]) -> str:
  """The anchors in one line."""
  return '; '.join(
    f'{name}: cosine {found.means()[COSINE]:.2f}, sound {found.means()[SOUND]:.2f}, '
    f'{found.means()[LOUDNESS]:.1f} LUFS'
    for name, found in anchors_of.items()
  )
