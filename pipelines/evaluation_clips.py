"""The clips that a report measures: two sets of music, anchors made of one, what models play.

Music A is the reference, held-out music B is what a perfect model would play; every anchor is made
of the clips of B. Models play in the style of tracks of B, from nothing and on from them.
"""

import collections
import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import numpy as np

from evaluation import anchors, identity
from inference import LiveSession, embed_prompts
from models import weights
from models.spec import LiveMusicSpec
from pipelines.checkpoint_sources import Source
from pipelines.clip_store import ClipStore, Made, Sample
from pipelines.generate import generate_audio, read_prompt_audio
from preprocessing.audio import AudioError
from preprocessing.manifest import Track

_CLIPS_PER_TRACK = 2
# Column of clips that are held against prompts alone.
NEXT_PARTS = 'what follows in B'


@dataclasses.dataclass
class Bench:
  """What all clips are made with; `options` are `evaluation_options.EvaluationOptions`."""

  sources: Sequence[Source]
  codec: Any
  style: Any
  spec: LiveMusicSpec
  data: Any
  options: Any
  store: ClipStore
  problems: list[dict[str, str]]
  # Called after each clip, for a bar.
  on_clip: Callable[[], Any] = lambda: None

  def __post_init__(self):
    # Decoders leave a codec's content hash as it is; what is heard depends on them.
    self.codec_hash = identity.codec_hash(self.codec)
    self._hashes = {
      source.name: weights.tree_hash(jax.tree.map(np.asarray, source.bundle.params))
      for source in self.sources
    }

  def weights_hash(self, source: Source) -> str:
    """Of the parameters of a model."""
    return self._hashes[source.name]


@dataclasses.dataclass(frozen=True)
class Excerpt:
  """A part of a track."""

  track: Track
  start_secs: float
  secs: float


def music_sets(data: Any, options: Any) -> tuple[list[Excerpt], list[Excerpt], str]:
  """Excerpts of music A and of held-out music B, and where A is from, in words.

  B are excerpts of held-out tracks, up to two of each. A are other held-out tracks if there are
  enough for both, else tracks of the training set. Excerpts of a track follow each other around its
  middle: many recordings begin and end softly.
  """
  held_out = data.tracks()
  number = options.num_audio_tracks
  long_enough = [t for t in held_out if t.duration_secs >= options.num_audio_secs]
  tracks = (long_enough or held_out)[:number]
  b = _excerpts(tracks, options.num_audio_clips, options.num_audio_secs)
  rest = [track for track in held_out if track not in tracks]
  others, origin = rest, f'other tracks of the {data.split} split'
  if len(rest) < options.num_reference_clips:
    others = data.tracks('train')
    origin = f'tracks of the training set, as {data.split} has only {len(held_out)}'
  a = _excerpts(others[: options.num_reference_clips], options.num_reference_clips,
                options.num_audio_secs)  # fmt: skip
  return a, b, origin


def _excerpts(tracks: Sequence[Track], number: int, secs: float) -> list[Excerpt]:
  """Up to `number`, a first one of each track, then a second of those that are long enough."""
  fit = [
    max(1, min(_CLIPS_PER_TRACK, math.floor((track.duration_secs + 0.01) / secs)))
    for track in tracks
  ]
  turns = [
    (place, turn)
    for turn in range(_CLIPS_PER_TRACK)
    for place, count in enumerate(fit)
    if turn < count
  ][:number]
  taken = collections.Counter(place for place, _ in turns)
  return [_part(tracks[place], turn, taken[place], secs) for place, turn in turns]


def _part(track: Track, turn: int, count: int, secs: float) -> Excerpt:
  """One of `count` excerpts that follow each other around the middle; all of a shorter track."""
  start = (track.duration_secs - count * secs) / 2 + turn * secs
  return Excerpt(track, round(max(0.0, start), 2), min(secs, track.duration_secs))


def reference_clips(
  bench: Bench, chosen: Sequence[Excerpt], column: str, letter: str
) -> list[Sample]:
  """Excerpts as clips, with their codes; what cannot be read is set aside."""
  clips = []
  for number, excerpt in enumerate(chosen):
    try:
      clips.append(_recording(bench, excerpt, column, f'{letter}{number}'))
    except (AudioError, OSError) as error:
      bench.problems.append({'what': f'Audio of {excerpt.track.title}', 'why': str(error)})
    bench.on_clip()
  return clips


def _recording(bench: Bench, excerpt: Excerpt, column: str, key: str) -> Sample:
  track = excerpt.track

  def make() -> Made:
    audio = bench.data.read_excerpt(track, excerpt.start_secs, excerpt.secs)
    if len(audio) < bench.spec.chunk_samples:
      raise OSError('shorter than a chunk')
    codes = np.asarray(bench.codec.encode(audio))[:, : bench.spec.target_levels]
    return Made(audio, codes, {'start_secs': excerpt.start_secs, 'samples': len(audio)})

  depends = ['recording', track.sha256, excerpt.start_secs, excerpt.secs, bench.codec_hash,
             bench.spec.target_levels, bench.data.levelling]  # fmt: skip
  return bench.store.take(
    depends, make, key=key, column=column, kind='anchor', source='recording',
    track_id=track.track_id, title=_title(track),
  )  # fmt: skip


def anchor_clips(bench: Bench, music: Sequence[Sample]) -> Iterator[Sample]:
  """B made worse: through the codec at full and at coarse depth, degraded, random codes."""
  spec, seed = bench.spec, bench.options.seed
  for number, clip in enumerate(music):
    described = {
      'kind': 'anchor', 'source': 'recording', 'track_id': clip.track_id, 'title': clip.title
    }  # fmt: skip
    for levels in dict.fromkeys((spec.target_levels, spec.context_levels)):
      yield bench.store.take(
        ['decoded', clip.digest, bench.codec_hash, levels],
        lambda clip=clip, levels=levels: Made(_decoded(bench, clip, levels), clip.codes),
        key=f'd{number}_{levels}', column=anchors.codec_name(levels), **described,
      )  # fmt: skip
      bench.on_clip()
    names = [anchors.LOOPED, anchors.DAMAGED, anchors.NOISY, anchors.WHITE_NOISE]
    if clip.facts['samples'] >= 2 * spec.chunk_samples:
      names.append(anchors.SHUFFLED)
    for place, name in enumerate(names):
      yield bench.store.take(
        ['degraded', clip.digest, name, seed + number],
        lambda clip=clip, name=name, number=number: _degraded(bench, clip, name, seed + number),
        key=f'x{number}_{place}', column=name, **described,
      )  # fmt: skip
      bench.on_clip()
    frames = len(clip.codes)
    yield bench.store.take(
      ['random', bench.codec_hash, frames, seed + number, spec.target_levels],
      lambda frames=frames, number=number: _random(bench, frames, seed + number),
      key=f'y{number}', column=anchors.RANDOM_CODES, **described,
    )  # fmt: skip
    bench.on_clip()


NUM_ANCHORS = 8


def _decoded(bench: Bench, clip: Sample, levels: int) -> np.ndarray:
  return np.asarray(bench.codec.decode(clip.codes[:, :levels]), np.float32)


def _degraded(bench: Bench, clip: Sample, name: str, seed: int) -> Made:
  spec = bench.spec
  audio = clip.audio()
  made = anchors.degradations(audio, spec.sample_rate, spec.chunk_samples, seed)[name]
  codes = None
  if name == anchors.LOOPED:
    codes = anchors.looped(clip.codes, spec.chunk_frames)
  return Made(made, codes)


def _random(bench: Bench, frames: int, seed: int) -> Made:
  codes = anchors.random_codes(frames, bench.spec, seed)
  return Made(np.asarray(bench.codec.decode(codes), np.float32), codes)


@dataclasses.dataclass(frozen=True)
class Prompt:
  """A style to play in.

  Attributes:
    label: what the reader sees.
    embedding: float32 [style_dim].
    track_id: the held-out track that it describes, or ''.
    is_sound: whether it was made of that track's first clip, and not of a text.
  """

  label: str
  embedding: np.ndarray
  track_id: str
  is_sound: bool = False

  @property
  def content(self) -> list[str]:
    """What names it in hashes; embeddings differ in their last digits from run to run."""
    return [self.label, self.track_id]


def choose_prompts(bench: Bench, music: Sequence[Sample]) -> list[Prompt]:
  """The texts asked for; without any, captions of the tracks of B, or their sound."""
  options, style = bench.options, bench.style
  if options.prompts:
    return [
      Prompt(text, embed_prompts([text], style), '') for text in options.prompts
    ]
  captions = {track.track_id: track.caption for track in bench.data.tracks()}
  prompts, seen = [], set()
  for clip in music:
    if len(prompts) == options.num_prompts or clip.track_id in seen:
      continue
    seen.add(clip.track_id)
    caption = captions.get(clip.track_id, '')
    if caption:
      vector = np.asarray(style.embed_text([caption]))[0]
    else:
      vector = np.asarray(style.embed_audio(clip.audio(), bench.spec.sample_rate))
    label = caption or f'the sound of {clip.title}'
    prompts.append(Prompt(label, vector, clip.track_id, is_sound=not caption))
  return prompts


def next_parts(
  bench: Bench, chosen: Sequence[Excerpt], music: Sequence[Sample], prompts: Sequence[Prompt]
) -> list[Sample]:
  """What follows the first clip of B in the track of each prompt, where enough follows.

  Args:
    bench: what clips are made with.
    chosen: excerpts that `music` was made of.
    music: clips of B.
    prompts: whose tracks are wanted.
  """
  wanted = {prompt.track_id for prompt in prompts}
  first = {clip.key for clip in first_of_each(music)}
  known = {clip.track_id: clip for clip in reversed(music) if clip.key not in first}
  following = []
  for excerpt in {one.track.track_id: one for one in reversed(chosen)}.values():
    track, end = excerpt.track, round(excerpt.start_secs + excerpt.secs, 2)
    if track.track_id in wanted - set(known) and track.duration_secs - end >= excerpt.secs:
      following.append(Excerpt(track, end, excerpt.secs))
  made = reference_clips(bench, following, NEXT_PARTS, 'n')
  return [clip for clip in (*known.values(), *made) if clip.track_id in wanted]


def open_session(source: Source, bench: Bench, seed: int) -> LiveSession:
  """A session of a model with the sampling of the report."""
  sampling = bench.options.sampling
  return LiveSession(
    source.bundle, bench.codec, bench.style, temperature=sampling.temperature,
    top_k=sampling.top_k, guidance_weight=sampling.guidance_weight, seed=seed,
    read_audio=read_prompt_audio,
  )  # fmt: skip


def played_clips(
  bench: Bench, number: int, prompts: Sequence[Prompt], music: Sequence[Sample]
) -> Iterator[Sample]:
  """What model `number` plays: from each prompt with each seed, and on from clips of B."""
  source, options = bench.sources[number], bench.options
  depends = [bench.weights_hash(source), bench.codec_hash,
             dataclasses.asdict(options.sampling), options.num_audio_secs]  # fmt: skip
  described = {'column': source.name, 'kind': 'model'}
  for place, prompt in enumerate(prompts):
    for draw in range(options.num_seeds):
      seed = options.seed + draw
      yield bench.store.take(
        ['prompt', *depends, *prompt.content, bench.style.content_hash, seed],
        lambda prompt=prompt, seed=seed: _play(bench, source, prompt.embedding, seed),
        key=f'm{number}_p{place}_s{draw}', source='prompt', track_id=prompt.track_id,
        title=prompt.label, **described,
      )  # fmt: skip
      bench.on_clip()
  for place, clip in enumerate(first_of_each(music)[: options.num_continuations]):
    yield bench.store.take(
      ['continuation', *depends, clip.digest, options.seed],
      lambda clip=clip: _continue(bench, source, clip),
      key=f'm{number}_c{place}', source='continuation', track_id=clip.track_id,
      title=clip.title, **described,
    )  # fmt: skip
    bench.on_clip()


def first_of_each(music: Sequence[Sample]) -> list[Sample]:
  """The first clip of every track."""
  return list({clip.track_id: clip for clip in reversed(music)}.values())[::-1]


def _continue(bench: Bench, source: Source, clip: Sample) -> Made:
  audio = clip.audio()
  style = bench.style.embed_audio(audio, bench.spec.sample_rate)
  return _play(bench, source, style, bench.options.seed, audio)


def _play(
  bench: Bench, source: Source, style: np.ndarray, seed: int, given: np.ndarray | None = None
) -> Made:
  session = open_session(source, bench, seed)
  secs = bench.options.num_audio_secs
  codes: list[np.ndarray] = []
  run = generate_audio(
    session, np.asarray(style, np.float32), secs, continue_from=given,
    on_chunk=lambda: codes.append(session.state.context[-bench.spec.chunk_frames :]),
  )  # fmt: skip
  facts = {'given_samples': round(run.given_secs * bench.spec.sample_rate), 'seed': seed}
  return Made(run.audio, np.concatenate(codes), facts)


def _title(track: Track) -> str:
  return f'{track.title} ({track.artist})' if track.artist else track.title
