"""Measures codecs, and others beside them, on one recording after another.

Each measurement is kept under a hash of all that it depends on (`pipelines.measurements`): weights,
samples, depths, versions of programs.
"""

import base64
import dataclasses
import functools
import hashlib
import zlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from tqdm import tqdm

from evaluation import anchors, codec_metrics, codec_stage, codec_verdicts
from evaluation.codec_report import CodecReport
from evaluation.codec_stage import Figures, kbps_of
from evaluation.other_codecs import OTHER_CODECS
from evaluation.page import Clip
from evaluation.token_losses import count_codes
from models.spec import LiveMusicSpec
from pipelines.codec_recordings import Excerpt, read_excerpt
from pipelines.measurements import Measurements

# Part of what a kept measurement depends on: raise it when a measure changes.
_MEASURES_VERSION = 1


@dataclasses.dataclass
class Contender:
  """A codec of the report with what was measured of it so far.

  Attributes:
    name: in the report.
    path: as it was given.
    codec: has `encode`, `decode`, `spec`, `params`, `codebooks`.
    weights: hash of all weights, decoder included.
    depths: RVQ levels that it is decoded with.
    figures: of each recording, by depth.
    counts: [levels, codebook_size] of the codes.
  """

  name: str
  path: str
  codec: Any
  weights: str
  depths: list[int]
  figures: dict[int, list[Figures]]
  counts: np.ndarray | None = None

  @property
  def rates(self) -> list[float]:
    """kbit/s of each depth."""
    return [kbps_of(depth, self.codec.spec) for depth in self.depths]


@dataclasses.dataclass(frozen=True)
class _Place:
  """A measured excerpt, without its audio."""

  excerpt: Excerpt
  secs: float
  digest: str


class Bench:
  """Measures every contender and the other codecs on one excerpt after another.

  Attributes:
    spec: sample rate and channels that all share.
    store: where measurements are kept.
    versions: of the programs of the other codecs; '' where they are absent.
    places: the excerpts measured so far.
  """

  def __init__(
    self, contenders: Sequence[Contender], store: Measurements, options: Any
  ):
    self.spec: LiveMusicSpec = contenders[0].codec.spec
    self.places: list[_Place] = []
    self.store = store
    self._contenders, self._options = contenders, options
    self._rates = sorted({rate for contender in contenders for rate in contender.rates})
    self.versions = {name: other.version() for name, other in OTHER_CODECS.items()}
    self._others, self._noise = codec_stage.OtherResults(), []

  def measure(self, excerpts: Iterator[Excerpt], number: int):
    """Takes up to `number` excerpts, with a progress bar of one step a codec and excerpt."""
    total = number * (len(self._contenders) + 1)
    with tqdm(total=total, desc='measure', unit='excerpt') as bar:
      for excerpt in excerpts:
        digest = _digest(excerpt.audio)
        reference = codec_metrics.Reference(excerpt.audio, self.spec.sample_rate)
        for contender in self._contenders:
          self._measure_codec(contender, reference, digest, excerpt.beginning)
          bar.update()
        self._measure_others(reference, digest)
        bar.update()
        secs = len(excerpt.audio) / self.spec.sample_rate
        empty = excerpt.audio[:0]
        kept = dataclasses.replace(excerpt, audio=empty, beginning=empty)
        self.places.append(_Place(kept, secs, digest))

  def _measure_codec(
    self,
    contender: Contender,
    reference: codec_metrics.Reference,
    digest: str,
    beginning: np.ndarray,
  ):
    codec = contender.codec
    depends = ['codec', _MEASURES_VERSION, contender.weights, digest, contender.depths]
    figures = self.store.take(
      depends,
      lambda: {
        str(depth): values
        for depth, _, values in codec_stage.reconstruct(
          codec, reference, np.asarray(codec.encode(reference.audio)), contender.depths
        )
      },
    )
    for depth in contender.depths:
      contender.figures[depth].append(figures[str(depth)])
    packed = self.store.take(
      ['codes', contender.weights, _digest(beginning)],
      lambda: _pack(np.asarray(codec.encode(beginning))),
    )
    contender.counts = count_codes(_unpack(packed), codec.spec.codebook_size, contender.counts)

  def _measure_others(self, reference: codec_metrics.Reference, digest: str):
    for name in OTHER_CODECS:
      for kbps in self._rates:
        measure = functools.partial(self._measure_other, reference, digest, name, kbps)
        self._others.take(name, kbps, measure)
    seed = self._options.seed
    noise = self.store.take(
      ['noise', _MEASURES_VERSION, seed, digest],
      lambda: reference.compare(anchors.noise_like(reference.audio, seed)),
    )
    self._noise.append(noise)

  def _measure_other(
    self, reference: codec_metrics.Reference, digest: str, name: str, kbps: float
  ) -> Figures:
    depends = ['other', _MEASURES_VERSION, name, kbps, self.versions[name], digest]
    return self.store.take(depends, lambda: codec_stage.round_trip(reference, name, kbps)[1])

  def fill(self, report: CodecReport):
    """Turns what was measured into the report's figures."""
    seed = self._options.seed
    report.num_tracks = len(self.places)
    report.others = [*self._others.rows(seed), codec_stage.noise_row(self._noise, seed)]
    report.skipped += self._others.skipped()
    for contender in self._contenders:
      rows = codec_stage.depth_rows(contender.figures, contender.codec.spec, seed)
      report.codecs.append(
        {
          'name': contender.name,
          'weights': contender.weights,
          'depths': rows,
          'misordered': codec_verdicts.misordered(rows, contender.figures, seed),
          'use': _use(contender.counts),
        }
      )
      report.comparisons += self._comparisons(contender)
    report.files = list(self._file_rows())

  def _comparisons(self, contender: Contender) -> Iterator[dict[str, Any]]:
    """Rows against the first codec and against other codecs of the same rate."""
    first = self._contenders[0]
    for depth, kbps in zip(contender.depths, contender.rates):
      own = contender.figures[depth]
      against = {
        codec_stage.other_name(*key): values
        for key, values in self._others.figures.items()
        if key[1] == kbps
      }
      if contender is not first and kbps in first.rates:
        same = first.depths[first.rates.index(kbps)]
        against = {f'{first.name} at {same} levels': first.figures[same]} | against
      for name, theirs in against.items():
        compared = codec_verdicts.compare(own, theirs, self._options.seed)
        row = {'codec': contender.name, 'levels': depth, 'kbps': kbps, 'against': name}
        yield row | compared

  def _file_rows(self) -> Iterator[dict[str, Any]]:
    """A row for each track, codec and rate."""
    for index, place in enumerate(self.places):
      recording = place.excerpt.recording
      about = {
        'track': recording.title,
        'path': recording.path,
        'start_secs': round(place.excerpt.start_secs, 3),
        'secs': round(place.secs, 3),
      }
      for contender in self._contenders:
        for depth, kbps in zip(contender.depths, contender.rates):
          own = {'codec': contender.name, 'levels': depth, 'kbps': kbps, 'file_kbps': ''}
          yield about | own | contender.figures[depth][index]
      for (name, kbps), figures in self._others.figures.items():
        yield about | {'codec': name, 'levels': '', 'kbps': kbps} | figures[index]
      noise = {'codec': codec_stage.NOISE, 'levels': '', 'kbps': ''}
      yield about | noise | self._noise[index]

  def listen(self) -> list[Clip]:
    """Clips of some recordings, worst first, by the first codec's mel distance at its deepest."""
    first, clips = self._contenders[0], []
    distances = [values['mel_distance_db'] for values in first.figures[first.depths[-1]]]
    order = np.argsort(distances)[::-1]
    number = min(self._options.num_listen, len(order))
    chosen = order[np.unique(np.round(np.linspace(0, len(order) - 1, number)).astype(int))]
    versions = sum(len(contender.depths) for contender in self._contenders)
    total = len(chosen) * (1 + versions + len(self._others.figures))
    with tqdm(total=total, desc='listen', unit='clip') as bar:
      for place, index in enumerate(chosen):
        rank = {0: 'worst', number - 1: 'best'}.get(place, 'between') if number > 1 else 'one'
        for clip in self._clips(index, f't{place}', rank):
          clips.append(clip)
          bar.update()
    return clips

  def _clips(self, index: int, key: str, rank: str) -> Iterator[Clip]:
    """The original, every codec at every depth, and the other codecs."""
    recording, options = self.places[index].excerpt.recording, self._options
    excerpt = read_excerpt(
      recording, self.spec, options.excerpt_secs, options.start_secs, options.excerpt_secs
    )
    group = f'{recording.title} ({rank})'

    def clip(name: str, title: str, audio: np.ndarray, figures: Figures | None) -> Clip:
      caption = 'as it is'
      if figures:
        mel, sdr = figures['mel_distance_db'], figures['si_sdr_db']
        caption = f'mel distance {mel:.2f} dB, SI-SDR {sdr:.1f} dB'.replace(' -', ' −')
      return Clip(
        f'{key}_{name}', group, title, caption, audio, self.spec.sample_rate, figures=figures or {}
      )

    yield clip('original', 'Original', excerpt.audio, None)
    reference = codec_metrics.Reference(excerpt.audio, self.spec.sample_rate)
    for number, contender in enumerate(self._contenders):
      codes = np.asarray(contender.codec.encode(excerpt.audio))
      for depth, audio, figures in codec_stage.reconstruct(
        contender.codec, reference, codes, contender.depths
      ):
        own = f'{contender.name}, ' if len(self._contenders) > 1 else ''
        title = f'{own}{depth} levels ({kbps_of(depth, contender.codec.spec):g} kbit/s)'
        yield clip(f'c{number}_{depth}', title, audio, figures)
    for name, kbps in self._others.figures:
      audio, figures = codec_stage.round_trip(reference, name, kbps)
      label = f'{name.lower()}_{kbps:g}'.replace('.', '_')
      yield clip(label, codec_stage.other_name(name, kbps), audio, figures)


def _use(counts: np.ndarray) -> dict[str, Any]:
  """What a report says of code counts [levels, codebook_size]."""
  use = codec_metrics.codebook_use(counts)
  num_frames, size = int(counts[0].sum()), counts.shape[1]
  return {
    'num_frames': num_frames,
    'most_bits': float(np.log2(size)),
    'chance_share': codec_metrics.unseen_by_chance(num_frames, size),
    'entropy_bits': use['entropy_bits'].tolist(),
    'unused_share': use['unused_share'].tolist(),
  }


def _digest(audio: np.ndarray) -> str:
  return hashlib.sha256(np.ascontiguousarray(audio)).hexdigest()[:24]


def _pack(codes: np.ndarray) -> dict[str, Any]:
  """Codes [frames, levels] as JSON values."""
  content = zlib.compress(codes.astype('<u2').tobytes())
  return {'shape': list(codes.shape), 'codes': base64.b64encode(content).decode('ascii')}


def _unpack(packed: dict[str, Any]) -> np.ndarray:
  content = zlib.decompress(base64.b64decode(packed['codes']))
  return np.frombuffer(content, '<u2').reshape(packed['shape']).astype(np.int32)
