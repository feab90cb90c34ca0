"""Figures and embeddings of every clip, kept by its content, and the tables made of them."""

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from evaluation import (
  adherence,
  anchors,
  distance_stage,
  distances,
  embedding_plugins,
  embeddings,
  families,
  metric_table,
  tonality,
)
from evaluation.metric_table import Column
from models import assets
from models.musicnn import Musicnn
from pipelines.clip_store import Sample
from pipelines.evaluation_clips import Bench
from pipelines.measurements import Measurements

EMBEDDINGS_VERSION = 2
_DECIMALS = 7


@dataclasses.dataclass
class Measured:
  """A clip with what was measured of it.

  Attributes:
    sample: the clip.
    figures: by name.
    points: embedding -> [windows, D].
  """

  sample: Sample
  figures: dict[str, float]
  points: dict[str, np.ndarray]


class Meter:
  """Measures clips one at a time.

  Attributes:
    skipped: plug-ins that cannot run here, as [{'what', 'why'}].
  """

  def __init__(self, bench: Bench, store: Measurements):
    self._bench, self._store = bench, store
    self.skipped: list[dict[str, str]] = []
    self._logmel: np.ndarray | None = None
    self._style: np.ndarray | None = None
    self._musicnn = Musicnn.load(embeddings.MUSICNN)
    self._plugins: dict[str, Callable[[np.ndarray, int], np.ndarray]] = {}
    for plugin in embedding_plugins.PLUGINS:
      try:
        self._plugins[plugin.name] = embedding_plugins.load(plugin, assets.asset_dir())
      except embedding_plugins.WeightsAbsent as error:
        what = f'Distances over {plugin.name} ({plugin.about})'
        self.skipped.append({'what': what, 'why': str(error)})

  def measure(self, clips: Iterable[Sample], on_clip: Callable[[], Any]) -> list[Measured]:
    """All figures and embeddings of clips; audio is read only for what is not known yet."""
    measured = []
    for clip in clips:
      measured.append(self._measure(clip))
      on_clip()
    return measured

  def set_reference(self, measured: Sequence[Measured]):
    """Takes the clips of music A as what closeness is measured to."""
    points = [entry.points for entry in measured if entry.sample.column == anchors.REFERENCE]
    if points:
      self._logmel = np.stack([own['logmel'].mean(0) for own in points])
      self._style = np.mean([own['musiccoca'].mean(0) for own in points], axis=0)

  def distance_from_reference(self, logmel: np.ndarray) -> float:
    """Root mean square z-score of a clip's mean log-mel vector; NaN without a reference."""
    if self._logmel is None:
      return float('nan')
    return families.corpus_distances({'': logmel}, self._logmel)['']

  def add_closeness(self, measured: Sequence[Measured]):
    """Adds 'corpus_distance' and 'style_similarity' to figures."""
    for entry in measured:
      points = entry.points
      entry.figures['corpus_distance'] = self.distance_from_reference(points['logmel'].mean(0))
      if self._style is not None:
        similarity = adherence.cosine(points['musiccoca'].mean(0), self._style)
        entry.figures['style_similarity'] = float(similarity)

  def _measure(self, clip: Sample) -> Measured:
    spec = self._bench.spec
    loaded: list[np.ndarray] = []

    def audio() -> np.ndarray:
      if not loaded:
        loaded.append(clip.new_audio())
      return loaded[0]

    coarse = None if clip.codes is None else clip.codes[:, : spec.context_levels]
    figures = self._store.take(
      ['figures', families.VERSION, clip.digest, spec.chunk_samples],
      lambda: families.measure(audio(), spec.sample_rate, spec.chunk_samples, coarse),
    )
    points = {
      name: np.array(self._store.take(depends, lambda run=run: _rounded(run(audio()))))
      for name, depends, run in self._embeddings(clip)
    }
    if clip.codes is not None and hasattr(self._bench.codec, 'codebooks'):
      points['codec_latents'] = embeddings.codec_latents(
        clip.codes, self._bench.codec.codebooks, spec.frame_rate
      )
    return Measured(clip, dict(figures), points)

  def _embeddings(self, clip: Sample):
    """(name, what it depends on, audio -> points) of each embedding of audio."""
    rate, style = self._bench.spec.sample_rate, self._bench.style
    version = ['embedding', EMBEDDINGS_VERSION, clip.digest]
    yield 'logmel', [*version, 'logmel'], lambda audio: embeddings.logmel(audio, rate)
    yield 'chroma', [*version, 'chroma'], lambda audio: embeddings.chroma(audio, rate)
    yield (
      'musiccoca',
      [*version, 'musiccoca', style.content_hash],
      lambda audio: embeddings.musiccoca(audio, rate, style),
    )
    yield (
      'musicnn',
      [*version, 'musicnn', self._musicnn.content_hash],
      lambda audio: embeddings.musicnn(audio, rate, self._musicnn),
    )
    for name, embed in self._plugins.items():
      yield name, [*version, name], lambda audio, embed=embed: embed(audio, rate)


def _rounded(points: np.ndarray) -> list[list[float]]:
  return np.round(np.asarray(points, np.float64), _DECIMALS).tolist()


def columns_of(measured: Sequence[Measured], names: Sequence[str]) -> dict[str, list[Measured]]:
  """Clips by column: music A and B, the models, then the anchors from mild to strong."""
  by_name: dict[str, list[Measured]] = {}
  for entry in measured:
    by_name.setdefault(entry.sample.column, []).append(entry)
  first = [anchors.REFERENCE, anchors.CORPUS, *names]
  ordered = [name for name in first if name in by_name]
  return {name: by_name[name] for name in (*ordered, *[n for n in by_name if n not in ordered])}


def family_tables(columns: dict[str, list[Measured]], seed: int) -> list[dict[str, Any]]:
  """The sections of clip figures: [{'key', 'title', 'about', 'columns', 'rows'}]."""
  tables = []
  for family in families.FAMILIES:
    built = metric_table.build(
      family.metrics,
      [
        Column(
          name,
          entries[0].sample.kind,
          [entry.figures for entry in entries],
          [track_of(entry) for entry in entries],
        )
        for name, entries in columns.items()
      ],
      anchors.REFERENCE,
      seed=seed,
    )
    tables.append({'key': family.key, 'title': family.title, 'about': family.about, **built})
  return tables


def track_of(entry: Measured) -> str:
  """What the bootstrap draws: the track that a clip goes back to, else its prompt."""
  return entry.sample.track_id or entry.sample.title


def distance_tables(
  columns: dict[str, list[Measured]], *, shrinkage: str | None, seed: int
) -> tuple[list[dict[str, Any]], list[dict[str, str]]]:
  """Tables of distances from music A over each embedding, and what could not be measured."""
  if anchors.REFERENCE not in columns:
    return [], [{'what': 'Distances of distributions', 'why': 'no reference music can be read'}]
  tables, skipped = [], []
  for name in columns[anchors.REFERENCE][0].points:
    points = {
      column: (
        np.concatenate([entry.points[name] for entry in known]),
        [track_of(entry) for entry in known for _ in entry.points[name]],
      )
      for column, entries in columns.items()
      if (known := [entry for entry in entries if name in entry.points])
    }
    kinds = {column: columns[column][0].sample.kind for column in points}
    try:
      table = distance_stage.measure(name, points, kinds, shrinkage=shrinkage, seed=seed)
    except distances.TooFewError as error:
      skipped.append({'what': f'Distances over {name}', 'why': str(error)})
      continue
    skipped += table.pop('skipped')
    if table['rows']:
      tables.append(table)
  return tables, skipped


def sample_rows(measured: Sequence[Measured], slices: dict[str, dict[str, str]]) -> list[dict]:
  """One row a clip for the sample table and the CSV."""
  rows = []
  for entry in measured:
    sample, figures = entry.sample, dict(entry.figures)
    key = figures.pop('key', float('nan'))
    rows.append({
      'key': sample.key, 'column': sample.column, 'kind': sample.kind, 'source': sample.source,
      'track_id': sample.track_id, 'title': sample.title, 'seed': sample.facts.get('seed'),
      **slices.get(sample.track_id, {}), **figures,
      'musical_key': tonality.key_name(int(key)) if np.isfinite(key) else '',
    })  # fmt: skip
  return rows
