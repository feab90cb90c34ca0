"""Measures a style model on a catalog and writes the style report; or writes its embeddings.

The stages, in order: load the models and read three windows of each work; embed; retrieval, tags
and tokens; probes, on the embeddings, on a language model's encoder states and on plain log-mel
statistics; the map; write.
"""

import contextlib
import dataclasses
import datetime
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from tqdm import tqdm

from evaluation import identity, style_map, style_stage, style_verdicts
from evaluation.style_report import StyleReport, write_style_report
from models import folder_lock
from models.musiccoca import MusicCoCa
from pipelines.style_clips import Catalog, find_tracks, one_a_work, read_clips
from pipelines.style_features import ContextEncoder, encoder_states, log_mel_statistics, speed
from preprocessing import outputs

_PROMPTS = ('{}', '{} music', 'music with {}')
_STAGES = ('load', 'embed', 'retrieval, tags, tokens', 'probes', 'map', 'report')


@dataclasses.dataclass(frozen=True)
class StyleReportOptions:
  """How much is measured.

  Attributes:
    num_works: works, one track of each; None for all.
    num_encoder_works: works whose clips also go through codec and language model, which takes far
      longer; 0 for none.
    num_map_works: points of the map, at most.
    measure_speed: time a text and ten seconds of audio.
    seed: of the choice of works.

  Raises:
    ValueError: a number is out of range.
  """

  num_works: int | None = 256
  num_encoder_works: int = 128
  num_map_works: int = 1500
  measure_speed: bool = True
  seed: int = 0

  def __post_init__(self):
    for name, least in (('num_works', 2), ('num_encoder_works', 0), ('num_map_works', 0)):
      value = getattr(self, name)
      if value is not None and value < least:
        raise ValueError(f'{name}={value} must be at least {least}.')


def evaluate_style(
  style_model: str,
  data_dir: str,
  output_dir: str,
  *,
  depthformer: str | None = 'tiny',
  split: str | None = None,
  options: StyleReportOptions | None = None,
  operative_config: Callable[[], str] | None = None,
  title: str = 'A style model, measured',
) -> StyleReport:
  """Runs all stages and writes `output_dir`/report.html, report.json, works.csv.

  Args:
    style_model: a bundled or released name, or a file.
    data_dir: a manifest, a folder with one, or a demo corpus.
    output_dir: made if it does not exist.
    depthformer: a language model whose encoder states are probed, as `models.bundle` finds it; None
      for none.
    split: of a manifest; None takes 'test', or 'validation' where no test track is; 'all' takes
      every track.
    options: how much is measured.
    operative_config: gives the gin text that the report shows.
    title: of the report.

  Raises:
    FileNotFoundError: the model or the data are not there.
    ValueError: there is nothing to measure, or fewer than two works can be read.
  """
  options = options or StyleReportOptions()
  report = StyleReport(title, datetime.datetime.now(datetime.UTC).strftime('%Y-%m-%d %H:%M UTC'))
  report.operative_config = operative_config() if operative_config else ''
  stage = _stages(report.stage_secs)
  outputs.check_folder(output_dir)
  with folder_lock.locked(output_dir, 'report'):
    with stage('load'):
      model = MusicCoCa.load(style_model)
      encoder = None
      if depthformer is not None and options.num_encoder_works:
        encoder = ContextEncoder.load(depthformer)
      tracks, split = find_tracks(data_dir, split)
      chosen = one_a_work(tracks, options.num_works, options.seed)
      with tqdm(total=len(chosen), desc='audio', unit='track') as bar:
        catalog = read_clips(chosen, model.spec, bar.update)
      if len(catalog.tracks) < 2:
        raise ValueError(f'{data_dir} has one readable work; retrieval needs at least two.')
      report.skipped += catalog.problems
    with stage('embed'):
      places = ('middle', 'first', 'last')
      audio = {name: model.embed_clips(getattr(catalog, name)) for name in places}
      text = model.embed_text(catalog.captions)
    with stage('retrieval, tags, tokens'):
      _retrieve(report, catalog, audio, text)
      _tag(report, model, catalog, audio['middle'])
      tokens = (model.tokenize(audio['middle']), model.tokenize(text))
      report.tokens = style_stage.token_rows(model.codebooks, audio['middle'], text, *tokens)
      if options.measure_speed:
        report.speed = speed(model)
    with stage('probes'):
      _probe(report, model, catalog, audio, encoder, options)
    with stage('map'):
      report.map = _map(catalog, audio['middle'], options)
    report.identity = _identity(model, style_model, data_dir, split, catalog)
    report.protocol = _protocol(options, catalog)
    report.limits = style_verdicts.limits(report)
    report.summary = style_verdicts.summary(report)
    with stage('report'):
      page = write_style_report(report, output_dir)
    print(f'{page} ({page.stat().st_size / 1e6:.1f} MB)')
    for line in report.summary:
      print(f'  {line["text"]}')
    return report


def _stages(seconds: dict[str, float]) -> Callable[[str], Any]:
  """A context for each stage that prints its number and keeps its seconds."""

  @contextlib.contextmanager
  def stage(name: str) -> Iterator[None]:
    print(f'[{_STAGES.index(name) + 1}/{len(_STAGES)}] {name}', flush=True)
    start = time.perf_counter()
    yield
    seconds[name] = round(time.perf_counter() - start, 1)

  return stage


def _retrieve(
  report: StyleReport, catalog: Catalog, audio: dict[str, np.ndarray], text: np.ndarray
) -> None:
  captions, genres = catalog.captions, catalog.genres
  report.retrieval, ranks = style_stage.retrieval_rows(audio['middle'], text, captions)
  report.works = [
    {
      'track': track.path,
      'work': work,
      'genre': genre,
      'caption': caption,
      'text_to_audio_rank': int(ranks['text_to_audio'][row]),
      'audio_to_text_rank': int(ranks['audio_to_text'][row]),
    }
    for row, (track, work, genre, caption) in enumerate(
      zip(catalog.tracks, catalog.works, genres, captions, strict=True)
    )
  ]
  rows = np.flatnonzero(catalog.pairs)
  if len(rows) < 2:
    report.skipped.append({
      'what': 'Clip to its own work', 'why': 'no two works last for two windows'
    })  # fmt: skip
    return
  row, own = style_stage.same_work_row(audio['first'][rows], audio['last'][rows])
  report.retrieval.append(row)
  for place, rank in zip(rows, own, strict=True):
    report.works[place]['same_work_rank'] = int(rank)


def _prompts(model: Any, names: list[str]) -> dict[str, np.ndarray]:
  """The mean direction of some ways to say each name."""
  texts = [form.format(name) for name in names for form in _PROMPTS]
  embedded = model.embed_text(texts).reshape(len(names), len(_PROMPTS), -1)
  unit = embedded / np.maximum(np.linalg.norm(embedded, axis=-1, keepdims=True), 1e-12)
  return dict(zip(names, unit.mean(1), strict=True))


def _tag(report: StyleReport, model: Any, catalog: Catalog, audio: np.ndarray) -> None:
  genres = catalog.genres
  known = [row for row, genre in enumerate(genres) if genre]
  report.zero_shot = {'genre': None, 'instruments': None}
  if len({genres[row] for row in known}) > 1:
    own = [genres[row] for row in known]
    found, guesses = style_stage.zero_shot_genre(
      audio[known], _prompts(model, sorted(set(own))), own
    )
    report.zero_shot['genre'] = found
    for row, guess in zip(known, guesses, strict=True):
      report.works[row]['zero_shot_genre'] = guess
  table = style_stage.tag_table([track.facts.instruments for track in catalog.tracks])
  if table:
    report.zero_shot['instruments'] = style_stage.zero_shot_tags(
      audio, _prompts(model, list(table)), table
    )
  else:
    report.skipped.append({'what': 'Tags by text', 'why': 'no tag is shared by enough works'})
  if not any(report.zero_shot.values()):
    report.zero_shot = {}


def _probe(
  report: StyleReport,
  model: Any,
  catalog: Catalog,
  audio: dict[str, np.ndarray],
  encoder: ContextEncoder | None,
  options: StyleReportOptions,
) -> None:
  """Probes two clips of each work; the encoder's on as many works as `num_encoder_works`."""
  clips = np.concatenate([catalog.first, catalog.last])
  features = {
    'embedding': np.concatenate([audio['first'], audio['last']]),
    # Released models that run as they are do not show their front end.
    'log-mel statistics': log_mel_statistics(
      clips, model.spec, getattr(model, 'config', None), getattr(model, 'mel_matrix', None)
    ),
  }
  _add_probes(report, features, catalog, np.arange(len(catalog.tracks)))
  if encoder is None:
    report.skipped.append({'what': 'Probes of encoder states', 'why': 'not asked for'})
    return
  order = np.random.default_rng(options.seed).permutation(len(catalog.tracks))
  rows = np.sort(order[: options.num_encoder_works])
  both = np.concatenate([rows, rows + len(catalog.tracks)])
  with tqdm(total=len(both), desc='encoder states', unit='clip') as bar:
    states = encoder_states(encoder, [catalog.tracks[row] for row in rows], bar.update)
  name = f'{encoder.name} encoder ({len(rows)} works)'
  smaller = {name: states}
  if len(rows) < len(catalog.tracks):
    smaller[f'embedding ({len(rows)} works)'] = features['embedding'][both]
  _add_probes(report, smaller, catalog, rows)


def _add_probes(
  report: StyleReport, features: dict[str, np.ndarray], catalog: Catalog, rows: np.ndarray
) -> None:
  tracks = [catalog.tracks[row] for row in rows]
  table = style_stage.tag_table([track.facts.instruments for track in tracks])
  labels = {
    'instruments': {tag: np.tile(has, 2) for tag, has in table.items()},
    'genre': [catalog.genres[row] for row in rows] * 2,
    'tempo': [track.facts.bpm for track in tracks] * 2,
    'key': [style_stage.tonic_of(track.facts.key) for track in tracks] * 2,
  }
  found, skipped = style_stage.probe_rows(
    features, labels, [catalog.works[row] for row in rows] * 2
  )
  report.probes += found
  report.skipped += [line for line in skipped if line not in report.skipped]


def _map(catalog: Catalog, audio: np.ndarray, options: StyleReportOptions) -> dict[str, Any] | None:
  rows = np.arange(len(audio))[: options.num_map_works]
  if len(rows) < 2:
    return None
  return {
    'points': np.round(style_map.two_dimensions(audio[rows], seed=options.seed), 4).tolist(),
    'labels': [catalog.genres[row] for row in rows],
    'names': [catalog.captions[row] for row in rows],
  }


def _identity(
  model: Any, style_model: str, data_dir: str, split: str, catalog: Catalog
) -> list[dict[str, Any]]:
  rows = [['Path', style_model], ['Hash', model.content_hash]]
  if hasattr(model, 'params'):
    rows += identity.parameters(model.params)
  captions = catalog.captions
  data = [
    ['Path', str(data_dir)],
    ['Split', split],
    ['Works', str(len(catalog.tracks))],
    ['Distinct captions', str(len(set(captions)))],
  ]
  return [
    {'title': 'Style model', 'rows': rows},
    {'title': 'Data', 'rows': data},
    {'title': 'Software', 'rows': identity.software()},
    {'title': 'Hardware', 'rows': identity.hardware()},
  ]


def _protocol(options: StyleReportOptions, catalog: Catalog) -> list[list[str]]:
  return [
    ['Works', f'{len(catalog.tracks)}, one track of each'],
    ['Clips', 'the middle window for retrieval and tags, the first and the last for probes'],
    ['Own work', f'{int(catalog.pairs.sum())} works whose first and last windows do not overlap'],
    ['Prompts of a tag', ', '.join(_PROMPTS).replace('{}', '…')],
    ['Probes', 'ridge on one-hot targets, 5 folds over works'],
    ['Intervals', '95 %, bootstrap over works'],
    ['Seed', str(options.seed)],
  ]
