"""Measures language models side by side and writes the report.

The stages, in order: load the models and see how fast they are; score held-out tokens beside the
unigram anchor; reconstruct held-out audio at several depths; play; measure every clip beside its
anchors; look at long streams, turning prompts and memory; write. Every measurement is kept under a
hash of all that it depends on, so that a run goes on where one stopped. What cannot be measured is
named in the report with its reason.
"""

import dataclasses
import datetime
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from evaluation import excerpts, identity, token_stage, verdicts
from evaluation.codec_stage import describe_codebooks, measure_codec
from evaluation.learning_curves import read_curves
from evaluation.report import Report, write_report
from models import folder_lock
from models.bundle import Bundle, check_tokens
from models.spec import LiveMusicSpec
from pipelines import evaluation_audio
from pipelines.checkpoint_sources import Source, load_sources
from pipelines.clip_store import ClipStore
from pipelines.evaluation_budget import Budget
from pipelines.evaluation_clips import Bench
from pipelines.evaluation_options import EvaluationOptions
from pipelines.evaluation_progress import Stages
from pipelines.measurements import Measurements
from pipelines.prepared_data import PreparedData
from preprocessing import outputs

MEASURED_FILE, CACHE_FOLDER = 'measured.jsonl', 'cache'
__all__ = ['EvaluationOptions', 'evaluate']


def evaluate(
  checkpoint_path: str | Sequence[str],
  data_dir: str,
  output_dir: str,
  *,
  names: Sequence[str] | None = None,
  split: str | None = None,
  options: EvaluationOptions | None = None,
  budget: str | None = None,
  operative_config: Callable[[], str] | None = None,
  began: float | None = None,
  title: str = 'Live music models, measured',
) -> Report:
  """Runs all stages and writes `output_dir`/report.html, report.json, samples.csv, audio/.

  Args:
    checkpoint_path: one model or several: bundled names, bundle folders, MODEL_DIRs, checkpoints.
      The first is the base that the others are compared with.
    data_dir: what prepare.py wrote.
    output_dir: made if it does not exist; what was measured there is not measured again.
    names: of the models in the report.
    split: held-out split; None takes 'test', or 'validation' where there is no test record.
    options: how much is measured.
    budget: time such as '2min', by which the numbers of samples are picked; None keeps them.
    operative_config: gives the gin text that the report shows.
    began: `time.perf_counter()` where the command began, from which the budget counts; None: now.
    title: of the report.

  Raises:
    OutputError: `output_dir` cannot be written.
    FileNotFoundError: a model or the data are not there.
    ValueError: the models do not share the token layout, or their tokens are another codec's; or
      the budget is not a time.
  """
  options = options or EvaluationOptions()
  limit = Budget(budget, began)
  report = Report(title, datetime.datetime.now(datetime.UTC).strftime('%Y-%m-%d %H:%M UTC'))
  report.operative_config = operative_config() if operative_config else ''
  folder = pathlib.Path(output_dir).expanduser()
  # A place that cannot be written ends the run here, not after all the work.
  outputs.check_folder(folder)
  with folder_lock.locked(folder, 'report'):
    store = Measurements(folder / MEASURED_FILE)
    stage = Stages(report.stage_secs, store)
    with stage.interruptible():
      with stage('load'):
        sources = load_sources(checkpoint_path, names)
        spec, codec, style = _shared_parts(sources)
        data = PreparedData.open(data_dir, spec, split)
        data.check(codec, style)
        data.count_training_codes(options.max_training_records)
        clips = ClipStore(folder / CACHE_FOLDER, spec.sample_rate)
        bench = Bench(sources, codec, style, spec, data, options, clips, report.skipped)
        options = limit.pick(bench, report)
        bench.options = options
        report.identity = _identity(sources, codec, style, data)
      with stage('token losses') as bar:
        report.token_losses = _token_losses(bench, store, bar)
      report.learning_curves = _learning_curves(sources)
      with stage('codec') as bar:
        report.codec = _codec(bench, store, report.skipped, bar)
      evaluation_audio.listen(report, bench, store, stage)
      report.skipped += data.problems
      report.protocol = _protocol(options, data, report)
      report.limits = verdicts.limits(report)
      report.summary = verdicts.summary(report)
      with stage('report'):
        page = write_report(report, folder)
      stage.close()
    print(f'{page} ({page.stat().st_size / 1e6:.1f} MB)')
    for line in report.summary:
      print(f'  {line["text"]}')
    return report


def _shared_parts(sources: Sequence[Source]) -> tuple[LiveMusicSpec, Any, Any]:
  """The token layout, codec and style model that all sources share.

  Raises:
    ValueError: they do not share them; names the first that differs.
  """
  first = sources[0].bundle
  for source in sources[1:]:
    if source.bundle.spec != first.spec:
      raise ValueError(
        f'{source.name} and {sources[0].name} have different token layouts; measure them apart.'
      )
  codec, style = _load_codec_and_style(first)
  for source in sources:
    check_tokens(source.bundle, codec, style)
  return first.spec, codec, style


def _load_codec_and_style(bundle: Bundle) -> tuple[Any, Any]:
  from models.musiccoca import MusicCoCa
  from models.spectrostream import SpectroStream

  return SpectroStream.load(bundle.codec_name), MusicCoCa.load(bundle.style_name)


def _token_losses(bench: Bench, store: Measurements, bar: Any) -> dict[str, Any]:
  options, spec, data = bench.options, bench.spec, bench.data
  chosen = excerpts.choose_excerpts(
    list(data.held_out_records()), options.num_examples, spec, options.seed
  )
  content = [
    identity.array_hash(np.concatenate([one.target.ravel(), one.context.ravel(), one.style]))
    for one in chosen
  ]
  by_name = {source.name: source for source in bench.sources}

  def take(name: str, measure: Callable[[], Any]) -> Any:
    weights = bench.weights_hash(by_name[name])
    return store.take(['tokens', 1, weights, content, list(options.context_secs)], measure)

  bar.begin(token_stage.num_rows(len(by_name), len(chosen), len(options.context_secs)), 'excerpt')
  return token_stage.measure_tokens(
    [(source.name, source.bundle.model, source.bundle.params) for source in bench.sources],
    data.training_counts,
    chosen,
    spec,
    context_secs=options.context_secs,
    batch_size=options.batch_size,
    seed=options.seed,
    on_batch=bar.update,
    take=take,
  )


def _learning_curves(sources: Sequence[Source]) -> dict[str, Any]:
  """Of sources that are a run, or a bundle inside the folder of one."""
  folders = {source.name: source.model_dir for source in sources}
  for source in sources:
    if source.kind == 'bundle':
      folders[source.name] = pathlib.Path(source.path).resolve().parent
  curves = {name: read_curves(folder) for name, folder in folders.items() if folder}
  return {name: streams for name, streams in curves.items() if streams}


def _codec(
  bench: Bench, store: Measurements, problems: list[dict[str, str]], bar: Any
) -> dict[str, Any] | None:
  options, spec = bench.options, bench.spec
  held_out = bench.data.read_audio(options.num_audio_tracks, options.num_audio_secs)
  if not held_out:
    problems.append({'what': 'Codec reconstruction', 'why': 'no held-out audio can be read'})
    return None
  depths = sorted({min(depth, spec.codec_levels) for depth in options.codec_depths})
  depths = sorted({*depths, spec.target_levels})
  bar.begin(len(held_out) * len(depths), 'decoding')

  def run() -> list[Any]:
    section, _, skipped = measure_codec(
      bench.codec, [recording.audio for recording in held_out], depths, spec, seed=options.seed,
      on_step=bar.update,
    )  # fmt: skip
    return [section, skipped]

  content = [identity.array_hash(recording.audio) for recording in held_out]
  depends = ['codec', 1, bench.codec_hash, content, depths, options.seed]
  section, skipped = store.take(depends, run)
  problems += skipped
  return section | {'codebooks': describe_codebooks(bench.data.training_counts)}


def _identity(
  sources: Sequence[Source], codec: Any, style: Any, data: PreparedData
) -> list[dict[str, Any]]:
  parts = []
  for source in sources:
    rows = [['Path', source.path], ['Kind', source.kind]]
    if source.step is not None:
      rows.append(['Step', f'{source.step:,}'])
    rows += identity.parameters(source.bundle.params)
    config = dataclasses.asdict(source.bundle.model.config)
    rows.append(['Sizes', ', '.join(f'{name}={value}' for name, value in config.items())])
    parts.append({'title': f'Model {source.name}', 'rows': rows})
  first = sources[0].bundle
  parts.append(
    {
      'title': 'Codec, style model, data',
      'rows': [
        ['Codec', f'{first.codec_name}, hash {codec.content_hash}'],
        ['Style model', f'{first.style_name}, hash {style.content_hash}'],
        *data.describe(),
      ],
    }
  )
  parts.append({'title': 'Software', 'rows': identity.software()})
  parts.append({'title': 'Hardware', 'rows': identity.hardware()})
  return parts


def _protocol(options: EvaluationOptions, data: PreparedData, report: Report) -> list[list[str]]:
  sampling = options.sampling
  rows = [
    ['Held-out split', data.split],
    ['Token losses', f'{options.num_examples} excerpts at most, taken from the tracks in turn'],
    ['Music A and B', report.music],
    ['Clips', f'{options.num_audio_secs:g} s each; of every model {options.num_prompts} prompts '
     f'with {options.num_seeds} draws and {options.num_continuations} continuations at most'],
    [
      'Sampling',
      f'temperature {sampling.temperature:g}, top-k {sampling.top_k}, guidance '
      f'{sampling.guidance_weight:g}; every draw is kept, none is chosen',
    ],
    ['Seeds', f'{options.seed} to {options.seed + options.num_seeds - 1}'],
    ['Intervals', '95 %, bootstrap over tracks, 1000 resamples; of distances, leaving out one '
     'track at a time'],
  ]  # fmt: skip
  return rows + [['Budget', line] for line in report.budget]
