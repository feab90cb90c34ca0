"""Measures a tuned model beside its base: losses, sound, style, memorization; writes the report."""

import contextlib
import datetime
import functools
import pathlib
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
from tqdm import tqdm

from evaluation import bootstrap, identity, signal_health, token_losses, tuning_report
from evaluation import excerpts as excerpts_lib
from evaluation.page import Clip
from evaluation.token_scoring import score_tokens
from evaluation.tuning_report import TuningReport
from inference import LiveSession
from models import folder_marker
from models.bundle import Bundle, load_bundle
from pipelines import catalog_likeness, finetune_choice, finetune_feed
from pipelines.catalog_likeness import HELD_OUT, CatalogLikeness
from pipelines.checkpoint_sources import Source
from pipelines.finetune_choice import HELD_OUT_LOSS, Choice
from pipelines.finetune_gate import Gate
from pipelines.generate import Generation, generate_audio, num_chunks, read_prompt_audio
from pipelines.prepared_data import PreparedData

BEFORE, AFTER = 'before tuning', 'after tuning'
_DEMO_SECS, _TAKES = 10.0, 2
_NUM_EXAMPLES, _BATCH_SIZE = 24, 8


class Judge:
  """Everything that is measured once a run has ended."""

  def __init__(
    self, source: Source, bundle_dir: pathlib.Path, data_dir: pathlib.Path, gate: Gate,
    *, seed: int = 0, demo_secs: float = _DEMO_SECS, takes: int = _TAKES, codec: Any = None,
    style: Any = None,
  ):  # fmt: skip
    """Loads the models.

    Args:
      source: the base.
      bundle_dir: the tuned model.
      data_dir: the prepared catalog.
      gate: with its thresholds.
      seed: of excerpts and sampling.
      demo_secs: length of each clip.
      takes: of each preset by each model; the first is heard, all are measured.
      codec: of the tokens; None loads the base's.
      style: the style model; None loads the base's.
    """
    from models.musiccoca import MusicCoCa
    from models.spectrostream import SpectroStream

    self._models = {BEFORE: source.bundle, AFTER: load_bundle(bundle_dir)}
    self._source, self._data_dir, self._gate = source, data_dir, gate
    self._data = PreparedData.open(data_dir, source.bundle.spec)
    self._codec = codec or SpectroStream.load(source.bundle.codec_name)
    self._style = style or MusicCoCa.load(source.bundle.style_name)
    self._seed, self._secs, self._takes = seed, demo_secs, takes
    self._stage_secs: dict[str, float] = {}

  def report(
    self, choice: Choice, run_dir: pathlib.Path, protocol: list[list[str]], config: str = ''
  ) -> TuningReport:
    """Measures all; prints each stage with its seconds.

    Args:
      choice: what was kept.
      run_dir: of the run.
      protocol: [[name, value]] of the run, for the report.
      config: gin text.
    """
    now = datetime.datetime.now(datetime.UTC).strftime('%Y-%m-%d %H:%M UTC')
    report = TuningReport(f'{self._source.name}, tuned', now, protocol=protocol)
    report.operative_config, report.curves = config, choice.curves
    report.kept_step = choice.step
    report.output = finetune_choice.output_health(run_dir)
    report.general = self._general(choice, run_dir)
    report.stage_secs = self._stage_secs
    with self._stage('held-out losses'):
      report.losses = self.losses()
    with self._stage('memorization'):
      report.memorization, continuations = self._gate.judge(self._models[AFTER])
      report.pairs = self._gate.clips(continuations, self._codec)
    with self._stage('demo clips'):
      report.demos = self.demos()
      report.style, report.diversity = self.style_figures()
    report.identity = self._identity()
    report.limits = self._limits(report)
    report.summary = tuning_report.summary(report)
    return report

  @contextlib.contextmanager
  def _stage(self, name: str) -> Iterator[None]:
    print(f'{name} ...', flush=True)
    start = time.perf_counter()
    yield
    self._stage_secs[name] = round(time.perf_counter() - start, 1)

  def _general(self, choice: Choice, run_dir: pathlib.Path) -> dict[str, float] | None:
    before, after = finetune_choice.general_losses(run_dir, (0, choice.step))
    if HELD_OUT_LOSS not in before or HELD_OUT_LOSS not in after:
      return None
    return {'before': before[HELD_OUT_LOSS], 'after': after[HELD_OUT_LOSS]}

  def losses(self) -> list[dict[str, Any]]:
    """Rows of the report: each level, the coarse ones, all."""
    spec = self._source.bundle.spec
    chosen = excerpts_lib.choose_excerpts(
      list(self._data.held_out_records()), _NUM_EXAMPLES, spec, self._seed
    )
    inputs = excerpts_lib.encoder_inputs(chosen, spec)
    targets = excerpts_lib.decoder_targets(chosen, spec)
    tables = {}
    for name, bundle in self._models.items():
      scores, _ = score_tokens(
        bundle.model, bundle.params, inputs, targets, batch_size=_BATCH_SIZE
      )
      levels = -token_losses.per_level(scores, spec.target_levels)
      coarse = levels[:, : spec.context_levels].mean(axis=1)
      tables[name] = np.column_stack([levels, coarse, levels.mean(axis=1)])
    tracks = [excerpt.track_id for excerpt in chosen]
    _, low, high = bootstrap.mean_interval(tables[AFTER] - tables[BEFORE], tracks, seed=self._seed)
    names = [(str(level), 'level') for level in range(spec.target_levels)]
    names += [(f'mean of the {spec.context_levels} coarse levels', 'coarse'), ('mean', 'all')]
    before, after = (tables[name].mean(axis=0) for name in (BEFORE, AFTER))
    return [
      {'name': name, 'kind': kind, 'before': before[i], 'after': after[i], 'low': low[i],
       'high': high[i]}
      for i, (name, kind) in enumerate(names)
    ]  # fmt: skip

  def demos(self) -> list[Clip]:
    """The catalog's presets and one held-out recording to go on from, before and after."""
    clips = []
    for which, (name, bundle) in enumerate(self._models.items()):
      for number, (preset, takes) in enumerate(self._played[name].items()):
        key, group = f'demo{number}_{which}', f'preset:{preset}'
        clips.append(self._clip(key, group, name, 'from the preset alone', takes[0]))
      for recording in self._data.read_audio(1, self._secs):
        embedding = np.asarray(
          self._style.embed_audio(recording.audio, bundle.spec.sample_rate), np.float32
        )
        made = generate_audio(
          self._session(bundle), embedding, self._secs, continue_from=recording.audio
        )
        caption = f'{made.given_secs:.1f} s of it given, then generated'
        group = f'Going on from {recording.title}'
        clips.append(self._clip(f'goes_on_{which}', group, name, caption, made))
    return clips

  @functools.cached_property
  def _played(self) -> dict[str, dict[str, list[Generation]]]:
    """{model: {preset: takes}}: of the catalog's presets alone, each take with its own seed."""
    presets = finetune_feed.style_presets(self._data_dir)
    total = len(self._models) * len(presets) * self._takes
    played: dict[str, dict[str, list[Generation]]] = {}
    with tqdm(total=total * num_chunks(self._secs, self._source.bundle.spec), desc='clips') as bar:
      for name, bundle in self._models.items():
        session, played[name] = self._session(bundle), {}
        for number, (preset, embedding) in enumerate(presets.items()):
          played[name][preset] = takes = []
          for take in range(self._takes):
            session.reset(self._seed + number + len(presets) * take)
            takes.append(generate_audio(session, embedding, self._secs, on_chunk=bar.update))
    return played

  def _session(self, bundle: Bundle) -> LiveSession:
    return LiveSession(
      bundle, self._codec, self._style, seed=self._seed, read_audio=read_prompt_audio
    )

  def _clip(self, key: str, group: str, title: str, caption: str, made: Any) -> Clip:
    spec = self._source.bundle.spec
    new = made.audio[round(made.given_secs * spec.sample_rate) :]
    return Clip(
      key, group, title, caption, made.audio, spec.sample_rate, made.given_secs, spec.chunk_secs,
      signal_health.health(new, spec.sample_rate, spec.chunk_samples),
    )  # fmt: skip

  def style_figures(self) -> tuple[dict[str, Any], dict[str, float]]:
    """How near the outputs come to the catalog, before and after, and how far apart they lie."""
    likeness = CatalogLikeness.of(
      self._data_dir, self._data.split, self._source.bundle.spec, self._codec, self._style
    )
    found = {
      name: likeness.measure([made.audio for takes in played.values() for made in takes])
      for name, played in self._played.items()
    }
    style = catalog_likeness.style_figures(likeness, found[BEFORE], found[AFTER], self._seed)
    rows = {'before': found[BEFORE], 'after': found[AFTER], 'catalog': likeness.anchors[HELD_OUT]}
    return style, {name: catalog_likeness.spread(one.embeddings) for name, one in rows.items()}

  def _identity(self) -> list[dict[str, Any]]:
    base = self._source.bundle
    rows = [
      ['Base', f'{self._source.name} ({self._source.path})'],
      ['Codec', f'{base.codec_name}, {base.codec_hash}'],
      ['Style model', f'{base.style_name}, {base.style_hash}'],
      *self._data.describe(),
    ]
    return [
      {'title': 'Models and data', 'rows': rows},
      {'title': 'Software', 'rows': identity.software()},
      {'title': 'Hardware', 'rows': identity.hardware()},
    ]

  def _limits(self, report: TuningReport) -> list[str]:
    num_tracks = len({record.track_id for record in self._data.held_out_records()})
    chosen = ', which also chose the step that is kept: that flatters the loss a little. A catalog '
    chosen += 'of more tracks can spare a test split (prepare.py).'
    lines = [
      f'Held-out figures rest on {num_tracks} tracks of the split {self._data.split!r}'
      f'{chosen if self._data.split == "validation" else "."}',
      'Cosines live in the style space that the model was trained on; they do not replace '
      'listening.',
      'The memorization gate compares coarse tokens in time with the music; a copy in another key '
      'or tempo is not found.',
    ]
    if report.general is None:
      lines.append('No general data were given (--replay): what was forgotten is not known.')
    return lines


def write_demos(report: TuningReport, folder: pathlib.Path) -> list[pathlib.Path]:
  """Writes the tuned model's clips from the presets as WAV files."""
  from preprocessing.audio import write_audio

  folder_marker.mark(folder, 'finetune')
  paths = []
  for clip in report.demos:
    if clip.title == AFTER and not clip.given_secs:
      path = folder / f'{clip.group.removeprefix("preset:")}.wav'
      write_audio(path, np.clip(clip.audio, -1, 1), clip.sample_rate)
      paths.append(path)
  return paths
