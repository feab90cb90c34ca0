"""How much a report measures: options, and what a time budget makes of them."""

import dataclasses
import math
import re
from typing import Any

from inference import SamplingOptions
from inference.prompts import lone_prompt
from inference.sampling import check_seed

_LEAST = {
  'num_examples': 1, 'batch_size': 1, 'max_training_records': 1, 'num_audio_tracks': 0,
  'num_audio_clips': 0, 'num_reference_clips': 0, 'num_prompts': 0, 'num_seeds': 1,
  'num_continuations': 0, 'stream_secs': 0, 'num_transitions': 0, 'num_memory_probes': 0,
  'num_live_chunks': 0,
}  # fmt: skip
_UNITS = {'s': 1, 'sec': 1, 'secs': 1, 'min': 60, 'm': 60, 'h': 3600}


@dataclasses.dataclass(frozen=True)
class EvaluationOptions:
  """How much is measured; the defaults take about two CPU-minutes for one `tiny` model.

  Attributes:
    num_examples: held-out excerpts whose tokens are scored.
    batch_size: excerpts at a time.
    max_training_records: records of the training set that the unigram counts at most.
    context_secs: lengths of context that are compared, on half of the excerpts.
    num_audio_tracks: held-out tracks that are heard.
    num_audio_clips: clips of them, music B; up to two of each track.
    num_reference_clips: clips of other music, music A.
    num_audio_secs: seconds of each generated and reference clip.
    codec_depths: RVQ levels that are compared.
    prompts: texts to generate from; none takes captions of held-out tracks.
    num_prompts: how many of those.
    num_seeds: draws from each prompt.
    num_continuations: held-out recordings that each model continues.
    stream_secs: length of the one long stream whose drift is looked at; 0 leaves it out.
    num_transitions: pairs of prompts that a stream turns from one into the other.
    num_memory_probes: places of training tracks, and of held-out ones, that are continued.
    num_live_chunks: chunks that are timed.
    shrinkage: of covariances in Frechet distances: None, or 'ledoit_wolf', declared in the table.
    temperature, top_k, guidance_weight: of sampling; None takes the defaults of inference.
    seed: of excerpts, sampling and bootstrap.

  Raises:
    ValueError: a number is out of range, or a prompt cannot be used.
  """

  num_examples: int = 48
  batch_size: int = 8
  max_training_records: int = 5000
  context_secs: tuple[float, ...] = (0, 2, 5, 10)
  num_audio_tracks: int = 4
  num_audio_clips: int = 6
  num_reference_clips: int = 8
  num_audio_secs: float = 10.0
  codec_depths: tuple[int, ...] = (4, 16, 64)
  prompts: tuple[str, ...] = ()
  num_prompts: int = 3
  num_seeds: int = 2
  num_continuations: int = 2
  stream_secs: float = 60.0
  num_transitions: int = 1
  num_memory_probes: int = 6
  num_live_chunks: int = 10
  shrinkage: str | None = None
  temperature: float | None = None
  top_k: int | None = None
  guidance_weight: float | None = None
  seed: int = 0

  def __post_init__(self):
    for name, least in _LEAST.items():
      if not least <= getattr(self, name) < math.inf:
        raise ValueError(f'{name}={getattr(self, name)} must be a number of at least {least}.')
    if not 0 < self.num_audio_secs < math.inf:
      raise ValueError(f'num_audio_secs={self.num_audio_secs} is not a number above 0.')
    if min(self.codec_depths, default=0) < 1:
      raise ValueError(f'codec_depths={self.codec_depths}: name at least one, of 1 level or more.')
    if isinstance(self.prompts, str):
      raise ValueError(f'prompts={self.prompts!r} is one text; write ({self.prompts!r},).')
    if not all(text.strip() for text in self.prompts):
      raise ValueError(f'prompts={self.prompts} has an empty text.')
    for text in self.prompts:
      # An audio file's name would not tell kept measurements that its content has changed.
      if lone_prompt(text, 'prompts').kind != 'text':
        raise ValueError(f'prompts={text!r} is an audio file; the prompts of a report are texts.')
    for seed in (self.seed, self.seed + self.num_seeds - 1):
      check_seed(seed)
    if self.shrinkage not in (None, 'ledoit_wolf'):
      raise ValueError(f"shrinkage={self.shrinkage!r} is not None or 'ledoit_wolf'.")
    _ = self.sampling  # Raises where an option is out of range.

  @property
  def sampling(self) -> SamplingOptions:
    """The sampling options, defaults filled in."""
    names = ('temperature', 'top_k', 'guidance_weight')
    given = {name: getattr(self, name) for name in names}
    return SamplingOptions(**{name: value for name, value in given.items() if value is not None})


def parse_secs(text: str) -> float:
  """Seconds of '90', '90s', '2min', '1.5h'.

  Raises:
    ValueError: it is no time above 0.
  """
  match = re.fullmatch(r'\s*([0-9.]+)\s*([a-z]*)\s*', str(text))
  try:
    secs = float(match[1]) * _UNITS[match[2] or 's']
  except (TypeError, ValueError, KeyError):
    secs = 0.0
  if not 0 < secs < math.inf:
    raise ValueError(f'budget={text!r} is no time such as 90s, 2min or 1h.')
  return secs


@dataclasses.dataclass(frozen=True)
class Costs:
  """Seconds that parts of a report take on this machine, measured after compilation.

  Attributes:
    excerpt: to score one excerpt once.
    chunk: to play one chunk.
    clip: to measure one clip of `num_audio_secs`, anchors and decoding included.
    decoding: to encode or decode one second with the codec.
    fixed: what is left to do however little is measured (drawing the page, ...).
  """

  excerpt: float
  chunk: float
  clip: float
  decoding: float
  fixed: float


# Smallest and largest share of the default counts that a budget picks.
_SHARES = (0.1, 16.0)
_SCALED = ('num_examples', 'num_audio_clips', 'num_reference_clips', 'num_continuations',
           'num_memory_probes', 'stream_secs')  # fmt: skip
_FEWEST = {'num_examples': 8, 'num_audio_clips': 2, 'num_reference_clips': 4,
           'num_continuations': 1, 'num_memory_probes': 2, 'stream_secs': 0}  # fmt: skip
_MOST = {'stream_secs': 300.0, 'num_live_chunks': 100, 'num_memory_probes': 48,
         'num_reference_clips': 64, 'num_audio_clips': 48}  # fmt: skip


def expected_secs(
  options: EvaluationOptions, costs: Costs, num_models: int, chunk_secs: float, num_anchors: int
) -> float:
  """How long a report with these options takes, by the costs of its parts."""
  rows = options.num_examples * (1 + (len(options.context_secs) + 2) / 2)
  played = options.num_prompts * options.num_seeds + options.num_continuations
  chunks = played * math.ceil(options.num_audio_secs / chunk_secs)
  chunks += options.stream_secs / chunk_secs + 12 * options.num_transitions
  chunks += 2 * options.num_memory_probes + options.num_live_chunks
  clips = options.num_audio_clips * (1 + num_anchors) + options.num_reference_clips
  depths = len(options.codec_depths)
  codec = options.num_audio_tracks * options.num_audio_secs * (2 + depths)
  # Comparing a decoding with its original costs about what a clip costs; Opus and MP3 are two more.
  clips += options.num_audio_tracks * (3 * depths + 1)
  return (
    costs.fixed
    + num_models * (rows * costs.excerpt + chunks * costs.chunk + played * costs.clip)
    + clips * costs.clip
    + codec * costs.decoding
  )


def scaled(options: EvaluationOptions, share: float) -> EvaluationOptions:
  """Options with a share of the samples; each count keeps its least and its most."""
  values: dict[str, Any] = {}
  for name in _SCALED:
    value = getattr(options, name) * share
    value = max(_FEWEST[name], min(value, _MOST.get(name, math.inf)))
    values[name] = float(value) if name == 'stream_secs' else round(value)
  if values['stream_secs'] < 20:  # Too short to drift.
    values['stream_secs'] = 0.0
  values['num_audio_tracks'] = max(2, round(options.num_audio_tracks * share))
  values['num_prompts'] = max(2, round(options.num_prompts * math.sqrt(share)))
  values['num_seeds'] = max(1, min(4, round(options.num_seeds * math.sqrt(share))))
  values['num_transitions'] = int(share > 0.3) * max(1, round(options.num_transitions * share / 2))
  values['num_live_chunks'] = round(min(100, max(5, options.num_live_chunks * share)))
  return dataclasses.replace(options, **values)


def fit_budget(
  options: EvaluationOptions,
  costs: Costs,
  secs_left: float,
  *,
  num_models: int,
  chunk_secs: float,
  num_anchors: int,
) -> tuple[EvaluationOptions, float]:
  """The largest report that ends within the time, and the share of the usual counts it has.

  The smallest report is chosen where even that takes longer.
  """
  low, high = (math.log(share) for share in _SHARES)

  def secs(position: float) -> float:
    tried = scaled(options, math.exp(position))
    return expected_secs(tried, costs, num_models, chunk_secs, num_anchors)

  for _ in range(30):
    middle = (low + high) / 2
    low, high = (middle, high) if secs(middle) <= secs_left else (low, middle)
  share = math.exp(low)
  return scaled(options, share), share


def budget_sentences(
  budget_secs: float, share: float, options: EvaluationOptions, before: EvaluationOptions,
  expected: float,
) -> list[str]:
  """What a budget means, for the reader."""
  ratio = math.sqrt(before.num_examples / options.num_examples)
  direction = 'wider' if ratio > 1 else 'narrower'
  factor = ratio if ratio > 1 else 1 / ratio
  lines = [
    f'A budget of {budget_secs:.0f} s allows {options.num_examples} excerpts (usually '
    f'{before.num_examples}), {options.num_audio_clips} clips of music, {options.num_prompts} '
    f'prompts with {options.num_seeds} draws, a stream of {options.stream_secs:.0f} s; about '
    f'{expected:.0f} s are left to go.'
  ]
  if abs(ratio - 1) > 0.03:
    lines.append(f'Intervals of the token losses become about {factor:.1f} times {direction}.')
  if share <= _SHARES[0] * 1.01 and expected > budget_secs:
    lines.append('This is the smallest report there is; it takes longer than the budget.')
  return lines
