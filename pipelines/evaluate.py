"""Measures language models side by side and writes the report.

The stages, in order: load the models; score held-out tokens beside the unigram anchor; reconstruct
held-out audio at several depths; generate from prompts and go on from held-out music; measure the
signals beside their anchors; write. What cannot be measured is named in the report with its reason.
"""

import contextlib
import dataclasses
import datetime
import math
import pathlib
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from tqdm import tqdm

from evaluation import excerpts, identity, token_stage, verdicts
from evaluation.codec_stage import describe_codebooks, measure_codec
from evaluation.learning_curves import read_curves
from evaluation.report import Report, write_report
from inference import SamplingOptions
from models.bundle import Bundle, check_tokens
from models.spec import LiveMusicSpec
from pipelines.checkpoint_sources import Source, load_sources
from pipelines.evaluate_audio import Listening, listen
from pipelines.prepared_data import HeldOutAudio, PreparedData

_LEAST = {
  'num_examples': 1, 'batch_size': 1, 'max_training_records': 1, 'num_audio_tracks': 0,
  'num_prompts': 0, 'num_continuations': 0,
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class EvaluationOptions:
  """How much is measured; the defaults take about a minute on two cores at `tiny` size.

  Attributes:
    num_examples: held-out excerpts whose tokens are scored.
    batch_size: excerpts at a time.
    max_training_records: records of the training set that the unigram counts at most.
    context_secs: lengths of context that are compared, on half of the excerpts.
    num_audio_tracks: held-out tracks for the codec and as a reference to hear.
    num_audio_secs: seconds of each generated and reference recording.
    codec_depths: RVQ levels that are compared.
    prompts: texts to generate from; none takes captions of held-out tracks.
    num_prompts: how many of those.
    num_continuations: held-out recordings that each model continues.
    temperature, top_k, guidance_weight: of sampling; None takes the defaults of inference.
    seed: of excerpts, sampling and bootstrap.

  Raises:
    ValueError: a number is out of range, or a prompt is empty.
  """

  num_examples: int = 48
  batch_size: int = 8
  max_training_records: int = 5000
  context_secs: tuple[float, ...] = (0, 2, 5, 10)
  num_audio_tracks: int = 4
  num_audio_secs: float = 10.0
  codec_depths: tuple[int, ...] = (4, 16, 64)
  prompts: tuple[str, ...] = ()
  num_prompts: int = 2
  num_continuations: int = 1
  temperature: float | None = None
  top_k: int | None = None
  guidance_weight: float | None = None
  seed: int = 0

  def __post_init__(self):
    for name, least in _LEAST.items():
      if not getattr(self, name) >= least:
        raise ValueError(f'{name}={getattr(self, name)} must be at least {least}.')
    if not 0 < self.num_audio_secs < math.inf:
      raise ValueError(f'num_audio_secs={self.num_audio_secs} is not a number above 0.')
    if min(self.codec_depths, default=0) < 1:
      raise ValueError(f'codec_depths={self.codec_depths}: name at least one, of 1 level or more.')
    if isinstance(self.prompts, str):
      raise ValueError(f'prompts={self.prompts!r} is one text; write ({self.prompts!r},).')
    if not all(text.strip() for text in self.prompts):
      raise ValueError(f'prompts={self.prompts} has an empty text.')
    _ = self.sampling  # Raises where an option is out of range.

  @property
  def sampling(self) -> SamplingOptions:
    """The sampling options, defaults filled in."""
    names = ('temperature', 'top_k', 'guidance_weight')
    given = {name: getattr(self, name) for name in names}
    return SamplingOptions(**{name: value for name, value in given.items() if value is not None})


def evaluate(
  checkpoint_path: str | Sequence[str],
  data_dir: str,
  output_dir: str,
  *,
  names: Sequence[str] | None = None,
  split: str | None = None,
  options: EvaluationOptions | None = None,
  operative_config: Callable[[], str] | None = None,
  title: str = 'Live music models, measured',
) -> Report:
  """Runs all stages and writes `output_dir`/report.html, report.json, samples.csv, audio/.

  Args:
    checkpoint_path: one model or several: bundled names, bundle folders, MODEL_DIRs, checkpoints.
    data_dir: what prepare.py wrote.
    output_dir: made if it does not exist.
    names: of the models in the report.
    split: held-out split; None takes 'test', or 'validation' where there is no test record.
    options: how much is measured.
    operative_config: gives the gin text that the report shows.
    title: of the report.

  Raises:
    FileExistsError: `output_dir` is a file.
    FileNotFoundError: a model or the data are not there.
    ValueError: the models do not share the token layout, or their tokens are another codec's.
  """
  options = options or EvaluationOptions()
  report = Report(title, datetime.datetime.now(datetime.UTC).strftime('%Y-%m-%d %H:%M UTC'))
  report.operative_config = operative_config() if operative_config else ''
  stage = _Stages(report.stage_secs)
  # A place that cannot be written ends the run here, not after all the work.
  pathlib.Path(output_dir).mkdir(parents=True, exist_ok=True)
  with stage('load'):
    sources = load_sources(checkpoint_path, names)
    spec, codec, style = _shared_parts(sources)
    data = PreparedData.open(data_dir, spec, split)
    data.check(codec, style)
    data.count_training_codes(options.max_training_records)
    report.identity = _identity(sources, codec, style, data)
    report.protocol = _protocol(options, data)
  with stage('token losses'):
    report.token_losses = _token_losses(sources, data, spec, options)
  report.learning_curves = _learning_curves(sources)
  with stage('codec'):
    held_out = data.read_audio(options.num_audio_tracks, options.num_audio_secs)
    report.skipped += data.problems
    report.codec, decoded, skipped = _codec(codec, held_out, data, spec, options)
    report.skipped += skipped
  with stage('generation and signals'):
    listening = Listening(sources, codec, style, spec, options)
    listen(report, listening, held_out, decoded.get(spec.target_levels, []))
  report.limits = verdicts.limits(report)
  report.summary = verdicts.summary(report)
  with stage('report'):
    page = write_report(report, output_dir)
  print(f'{page} ({page.stat().st_size / 1e6:.1f} MB)')
  for line in report.summary:
    print(f'  {line["text"]}')
  return report


class _Stages:
  """Prints each stage with its number and keeps its seconds."""

  names = ('load', 'token losses', 'codec', 'generation and signals', 'report')

  def __init__(self, seconds: dict[str, float]):
    self._seconds = seconds

  @contextlib.contextmanager
  def __call__(self, name: str) -> Iterator[None]:
    number = self.names.index(name) + 1
    print(f'[{number}/{len(self.names)}] {name}', flush=True)
    start = time.perf_counter()
    yield
    self._seconds[name] = round(time.perf_counter() - start, 1)


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


def _token_losses(
  sources: Sequence[Source], data: PreparedData, spec: LiveMusicSpec, options: EvaluationOptions
) -> dict[str, Any]:
  chosen = excerpts.choose_excerpts(
    list(data.held_out_records()), options.num_examples, spec, options.seed
  )
  total = token_stage.num_rows(len(sources), len(chosen), len(options.context_secs))
  with tqdm(total=total, desc='token losses', unit='excerpt') as bar:
    return token_stage.measure_tokens(
      [(source.name, source.bundle.model, source.bundle.params) for source in sources],
      data.training_counts,
      chosen,
      spec,
      context_secs=options.context_secs,
      batch_size=options.batch_size,
      seed=options.seed,
      on_batch=bar.update,
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
  codec: Any,
  held_out: Sequence[HeldOutAudio],
  data: PreparedData,
  spec: LiveMusicSpec,
  options: EvaluationOptions,
) -> tuple[dict[str, Any] | None, dict[int, list[np.ndarray]], list[dict[str, str]]]:
  if not held_out:
    return None, {}, [{'what': 'Codec reconstruction', 'why': 'no held-out audio can be read'}]
  depths = sorted({min(depth, spec.codec_levels) for depth in options.codec_depths})
  depths = sorted({*depths, spec.target_levels})
  with tqdm(total=len(held_out) * len(depths), desc='codec', unit='decoding') as bar:
    section, decoded, skipped = measure_codec(
      codec,
      [recording.audio for recording in held_out],
      depths,
      spec,
      seed=options.seed,
      on_step=bar.update,
    )
  section['codebooks'] = describe_codebooks(data.training_counts)
  return section, decoded, skipped


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


def _protocol(options: EvaluationOptions, data: PreparedData) -> list[list[str]]:
  sampling = options.sampling
  return [
    ['Held-out split', data.split],
    ['Token losses', f'{options.num_examples} excerpts at most, taken from the tracks in turn'],
    ['Audio', f'{options.num_audio_secs:g} s a clip, {options.num_audio_tracks} tracks at most'],
    [
      'Sampling',
      f'temperature {sampling.temperature:g}, top-k {sampling.top_k}, guidance '
      f'{sampling.guidance_weight:g}; one candidate for each prompt',
    ],
    ['Seed', str(options.seed)],
    ['Intervals', '95 %, bootstrap over tracks, 1000 resamples'],
  ]
