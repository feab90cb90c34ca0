"""Feeds the style model's training with 10 s crops and caption variants."""

import copy
import dataclasses
import functools
import pathlib
from collections.abc import Callable, Sequence

import jax
import numpy as np

from models.musiccoca import frontend
from models.musiccoca.config import MusicCoCaConfig
from models.musiccoca.vocabulary import TextVocabulary, train_vocabulary
from models.spec import LiveMusicSpec
from pipelines.audio_content import audio_content
from preprocessing.audio import read_audio
from preprocessing.captions import CaptionFacts, caption_variant, tempo_and_key, whole_caption
from preprocessing.composer_styles import style_named
from preprocessing.demo_corpus import CORPUS_FILE, read_corpus
from preprocessing.manifest import MANIFEST_FILE, Track, read_manifest

_BLOCK_FRAMES = 1000


@dataclasses.dataclass(frozen=True)
class StyleTrack:
  """An audio file and what is known of it.

  Attributes:
    path: of the file.
    facts: for its captions.
    duration_secs: of the audio.
    work: names what it is a recording of.
    composed: by the demo's composer, so that the facts are the truth.
  """

  path: str
  facts: CaptionFacts
  duration_secs: float
  work: str = ''
  composed: bool = False


def style_tracks(
  source: str | pathlib.Path, split: str | None = 'train', *, with_facts: bool = True
) -> list[StyleTrack]:
  """The tracks of which something is known: caption, genre or tags.

  Args:
    source: a manifest.jsonl, a folder that holds one (prepare.py writes it), or a demo corpus.
    split: of a manifest; None for all. A demo corpus has no splits.
    with_facts: False gives tracks of which nothing is known, too.

  Raises:
    FileNotFoundError: `source` has neither manifest.jsonl nor corpus.json.
    ValueError: nothing is known of any track of the split.
  """
  source = pathlib.Path(source)
  manifest = source / MANIFEST_FILE if source.is_dir() else source
  if manifest.is_file():
    tracks = [
      StyleTrack(track.path, manifest_facts(track), track.duration_secs, track.work)
      for track in read_manifest(manifest)
      if split in (None, track.split)
    ]
  elif (source / CORPUS_FILE).is_file():
    tracks = [
      StyleTrack(
        str(source / work.path),
        CaptionFacts(
          work.caption, (style_named(work.style).label,), work.instruments, work.bpm, work.key
        ),
        work.duration_secs,
        work.work_id,
        composed=True,
      )
      for work in read_corpus(source)
    ]
  else:
    raise FileNotFoundError(
      f'{source} has neither {MANIFEST_FILE} nor {CORPUS_FILE}: make the first with prepare.py.'
    )
  tracks = [track for track in tracks if not (with_facts and track.facts.is_empty)]
  if not tracks:
    where = f'split {split!r} of {source}' if manifest.is_file() else str(source)
    raise ValueError(f'No track of {where} has a caption, a genre or tags to learn from.')
  return tracks


def manifest_facts(track: Track) -> CaptionFacts:
  """What a line of a manifest says that a caption may say."""
  bpm, key = tempo_and_key(track.caption)
  return CaptionFacts(
    caption=track.caption,
    styles=(track.genre,) if track.genre else (),
    instruments=tuple(track.tags),
    bpm=bpm,
    key=key,
    vocal=track.vocal,
    tradition=track.tradition,
  )


class StyleFeed:
  """Batches of log-mel crops with caption variants; a pure function of (seed, step).

  Each epoch goes through the tracks once in a new order, with a new crop and a new caption. A small
  corpus is kept in memory: whole tracks are analysed when first needed and stay as float16 log-mels
  (25 kB per second). Of a large one each crop is read from its file.
  """

  def __init__(
    self,
    tracks: Sequence[StyleTrack],
    vocabulary: TextVocabulary,
    config: MusicCoCaConfig,
    *,
    batch_size: int,
    seed: int,
    spec: LiveMusicSpec | None = None,
    text_length: int | None = None,
    cut_probability: float = 0.1,
    same_genre_run: int = 1,
    max_cached_tracks: int = 2000,
    mel_matrix: np.ndarray | None = None,
    second_clips: bool = False,
    teacher: Callable[[int, float, float], np.ndarray] | None = None,
  ):
    """Sets up the feed; reads no audio yet.

    Args:
      tracks: what to train on, such as `style_tracks` gives.
      vocabulary: of the text tower.
      config: of the front end.
      batch_size: clips per batch.
      seed: of order, crops and captions.
      spec: rates and window.
      text_length: ids per text in a batch (a shorter text tower input trains faster); None for
        `config.max_text_length`.
      cut_probability: of a clip whose end is silence, as the last window of a file has it.
      same_genre_run: tracks of one genre that follow each other, if it has as many: negatives that
        a genre's name alone does not tell apart. 1 mixes all.
      max_cached_tracks: log-mels kept in memory; of more tracks than these, none is.
      mel_matrix: power spectrum -> mel bands of the model that is trained, where it has its own;
        None for the one that `config` defines.
      second_clips: batches also hold another clip of each track.
      teacher: (index of a track, start and length of a window in seconds) -> what was heard in it.

    Raises:
      ValueError: no tracks, or one without caption, style and instruments; a run of none; a mel
        matrix of other sizes than the front end's.
    """
    shape = (config.fft_length // 2 + 1, config.mel_bins)
    if mel_matrix is not None and mel_matrix.shape != shape:
      raise ValueError(f'The mel matrix has shape {mel_matrix.shape}, the front end needs {shape}.')
    if same_genre_run < 1:
      raise ValueError(f'same_genre_run={same_genre_run} must be at least 1.')
    if not tracks:
      raise ValueError('There are no tracks to train the style model on.')
    for track in tracks:
      if track.facts.is_empty:
        raise ValueError(f'{track.path} has neither caption nor style nor instruments.')
    self.tracks = tuple(tracks)
    self.content = audio_content(track.path for track in tracks)
    self.vocabulary = vocabulary
    self.config = config
    self.mel_matrix = mel_matrix
    self.batch_size = batch_size
    self.seed = seed
    self.spec = spec or LiveMusicSpec()
    self.text_length = min(text_length or config.max_text_length, config.max_text_length)
    self.cut_probability = cut_probability
    self.clip_frames = config.num_frames(
      self.spec.style_window_secs * self.spec.style_sample_rate
    )
    self.same_genre_run = same_genre_run
    self._second_clips, self._teacher = second_clips, teacher
    self._keeps_tracks = len(tracks) <= max_cached_tracks
    self.track_log_mel = functools.lru_cache(max_cached_tracks)(self._track_log_mel)
    self._shard = (0, 1)
    self._order = functools.lru_cache(2)(self._epoch_order)

  def shard(self, index: int, count: int) -> 'StyleFeed':
    """The feed of rows `index`, `index + count`, ... of each batch, for one of several processes.

    Raises:
      ValueError: `count` does not divide the batch.
    """
    if self.batch_size % count:
      raise ValueError(f'A batch of {self.batch_size} cannot be shared by {count} readers evenly.')
    part = copy.copy(self)
    part._shard = (index, count)
    return part

  def batch(self, step: int) -> dict[str, np.ndarray]:
    """Batch number `step`.

    Returns:
      'log_mel' [B, frames, bands] float16, 'text_ids' and 'text_paddings' [B, T]; where they were
      asked for, 'other_log_mel' like 'log_mel' and 'teacher' [B, K] float32.
    """
    first, number = step * self.batch_size, len(self.tracks)
    index, count = self._shard
    clips, texts, others, heard = [], [], [], []
    for position in range(first + index, first + self.batch_size, count):
      epoch, place = divmod(position, number)
      track = int(self._order(epoch)[place])
      rng = np.random.default_rng([self.seed, epoch, track])
      clip, start_secs = self._crop(track, rng)
      clips.append(clip)
      texts.append(caption_variant(self.tracks[track].facts, rng))
      if self._teacher:
        heard.append(self._teacher(track, start_secs, self.spec.style_window_secs))
      if self._second_clips:
        others.append(self._crop(track, rng)[0])
    ids, paddings = self.vocabulary.encode(texts)
    batch = {
      'log_mel': np.stack(clips),
      'text_ids': ids[:, : self.text_length],
      'text_paddings': paddings[:, : self.text_length],
    }
    if others:
      batch['other_log_mel'] = np.stack(others)
    if heard:
      batch['teacher'] = np.stack(heard)
    return batch

  def _epoch_order(self, epoch: int) -> np.ndarray:
    """Every track once: runs of one genre each, in random order."""
    rng = np.random.default_rng([self.seed, epoch])
    order = rng.permutation(len(self.tracks))
    if self.same_genre_run == 1:
      return order
    by_genre: dict[str, list[int]] = {}
    for track in order.tolist():
      by_genre.setdefault(next(iter(self.tracks[track].facts.styles), ''), []).append(track)
    length = self.same_genre_run
    runs = [own[i : i + length] for own in by_genre.values() for i in range(0, len(own), length)]
    return np.concatenate([runs[i] for i in rng.permutation(len(runs))])

  def _crop(self, track: int, rng: np.random.Generator) -> tuple[np.ndarray, float]:
    """A random window of a track and where it starts, in s; now and then its end is silence."""
    length, start_draw = self.clip_frames, rng.random()
    cut = int(rng.integers(length // 4, length)) if rng.random() < self.cut_probability else length
    if self._keeps_tracks:
      log_mel = self.track_log_mel(track)
      start = int(start_draw * (max(len(log_mel) - length, 0) + 1))
      start_secs = start * self.config.hop_length / self.spec.style_sample_rate
      return self.window(log_mel[: start + cut], start), start_secs
    duration, secs = self.tracks[track].duration_secs, self.spec.style_window_secs
    start_secs = start_draw * max(duration - secs, 0.0)
    return self.window(self._read_window(track, start_secs)[:cut], 0), start_secs

  def _read_window(self, track: int, start: float) -> np.ndarray:
    """The window from `start` seconds on, read from the track's file alone."""
    rate, secs = self.spec.style_sample_rate, self.spec.style_window_secs
    path = self.tracks[track].path
    audio = read_audio(path, sample_rate=rate, channels=1, start=start, duration=secs)[:, 0]
    return self._analyse(audio)[: self.clip_frames]

  def window(self, log_mel: np.ndarray, start: int) -> np.ndarray:
    """`clip_frames` of a track's log-mel [frames, bands] from frame `start`, then silence."""
    clip = log_mel[start : start + self.clip_frames]
    silence = np.float16(np.log(self.config.log_floor))
    missing = self.clip_frames - len(clip)
    return np.pad(clip, [(0, missing), (0, 0)], constant_values=silence)

  def _track_log_mel(self, index: int) -> np.ndarray:
    """Log-mel of a whole track, float16 [frames, bands]."""
    rate = self.spec.style_sample_rate
    return self._analyse(read_audio(self.tracks[index].path, sample_rate=rate, channels=1)[:, 0])

  def _analyse(self, audio: np.ndarray) -> np.ndarray:
    """Samples -> float16 [frames, bands], in blocks of equal size (one compilation)."""
    rate, config = self.spec.style_sample_rate, self.config
    count = max((len(audio) - config.frame_length) // config.hop_length + 1, 0)
    block = (_BLOCK_FRAMES - 1) * config.hop_length + config.frame_length
    parts = [np.zeros([0, config.mel_bins], np.float16)]
    for first in range(0, count, _BLOCK_FRAMES):
      # One sample more on the left: pre-emphasis looks back.
      start = first * config.hop_length
      samples = np.zeros([block + 1], np.float32)
      piece = audio[max(start - 1, 0) : start + block]
      offset = 1 if start == 0 else 0
      samples[offset : offset + len(piece)] = piece
      part = _block_log_mel(samples, self.mel_matrix, config, rate)
      parts.append(np.asarray(part)[: count - first])
    return np.concatenate(parts)


@functools.partial(jax.jit, static_argnums=(2, 3))
def _block_log_mel(
  samples: jax.Array, mel_matrix: jax.Array | None, config: MusicCoCaConfig, sample_rate: int
) -> jax.Array:
  """Samples with the one before the first -> float16 [_BLOCK_FRAMES, bands]."""
  emphasized = samples[1:] - config.pre_emphasis * samples[:-1]
  values = frontend.log_mel_of_emphasized(
    emphasized, config, sample_rate, _BLOCK_FRAMES, mel_matrix
  )
  return values.astype('float16')


def caption_vocabulary(
  tracks: Sequence[StyleTrack], config: MusicCoCaConfig, *, seed: int, variants: int = 8
) -> TextVocabulary:
  """A SentencePiece vocabulary of the tracks' captions and variants of them."""
  texts = []
  for index, track in enumerate(tracks):
    texts.append(whole_caption(track.facts))
    rng = np.random.default_rng([seed, index])
    texts.extend(caption_variant(track.facts, rng) for _ in range(variants))
  return train_vocabulary(texts, config.vocab_size, config.max_text_length)
