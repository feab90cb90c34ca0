"""Measures codecs side by side and writes the codec report.

The stages, in order: load the codecs; measure recording after recording, every codec at every depth
beside Opus, MP3 and noise; decode again what is to be heard; write. Each measurement is kept in
`measured.jsonl` as soon as it is made, so that a run goes on where an earlier one stopped.
"""

import contextlib
import dataclasses
import datetime
import math
import pathlib
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from evaluation import codec_verdicts, identity
from evaluation.codec_report import CodecReport, write_codec_report
from models import folder_lock
from pipelines.codec_bench import Bench, Contender
from pipelines.codec_recordings import find_recordings, read_excerpts
from pipelines.codec_training import WEIGHTS_FILE
from pipelines.measurements import Measurements
from preprocessing import outputs

MEASURED_FILE = 'measured.jsonl'
_STAGES = ('load', 'measure', 'listen', 'report')


@dataclasses.dataclass(frozen=True)
class CodecReportOptions:
  """How much is measured; the defaults take about three minutes at `tiny` size on two cores.

  Attributes:
    num_tracks: recordings, one excerpt of each.
    excerpt_secs: length of an excerpt.
    start_secs: where it begins; nearer to the beginning in recordings that end before.
    code_secs: first seconds of each recording whose codes are counted.
    depths: RVQ levels that are decoded.
    num_listen: recordings that the page plays, from the worst to the best.
    seed: of the choice of recordings, noise and bootstrap.

  Raises:
    ValueError: a number is out of range.
  """

  num_tracks: int = 20
  excerpt_secs: float = 4.0
  start_secs: float = 5.0
  code_secs: float = 15.0
  depths: tuple[int, ...] = (4, 12, 16, 24, 32, 64)
  num_listen: int = 3
  seed: int = 0

  def __post_init__(self):
    for name, least in (('num_tracks', 1), ('num_listen', 0), ('start_secs', 0)):
      if not getattr(self, name) >= least:
        raise ValueError(f'{name}={getattr(self, name)} must be at least {least}.')
    for name in ('excerpt_secs', 'code_secs'):
      if not 0.4 <= getattr(self, name) < math.inf:
        raise ValueError(f'{name}={getattr(self, name)} must be at least 0.4.')
    if isinstance(self.depths, int) or min(self.depths, default=0) < 1:
      raise ValueError(f'depths={self.depths}: name at least one as (4, 16), of 1 level or more.')


def evaluate_codec(
  codec: str | Sequence[str],
  data_dir: str,
  output_dir: str,
  *,
  names: Sequence[str] | None = None,
  split: str | None = None,
  options: CodecReportOptions | None = None,
  operative_config: Callable[[], str] | None = None,
  title: str = 'A codec, measured',
) -> CodecReport:
  """Runs all stages and writes `output_dir`/report.html, report.json, *.csv, audio/.

  Args:
    codec: one or several: bundled or released names, files, MODEL_DIRs of codec runs.
    data_dir: a folder of audio, a manifest.jsonl or a folder with one.
    output_dir: made if it does not exist; what was measured there is not measured again.
    names: of the codecs in the report.
    split: of a manifest; None takes 'test', or 'validation' where no test track is.
    options: how much is measured.
    operative_config: gives the gin text that the report shows.
    title: of the report.

  Raises:
    OutputError: `output_dir` cannot be written.
    FileNotFoundError: a codec or the data are not there.
    ValueError: no recording can be measured, or the codecs cannot be compared.
    SystemExit: interrupted; says so in one line.
  """
  options = options or CodecReportOptions()
  report = CodecReport(title, datetime.datetime.now(datetime.UTC).strftime('%Y-%m-%d %H:%M UTC'))
  report.operative_config = operative_config() if operative_config else ''
  folder = pathlib.Path(output_dir).expanduser()
  # A place that cannot be written ends the run here, not after all the work.
  outputs.check_folder(folder)
  with folder_lock.locked(folder, 'report'):
    stage = _stages(report.stage_secs)
    try:
      with stage('load'):
        contenders = load_codecs(codec, names, options)
        recordings, described = find_recordings(data_dir, split)
        store = Measurements(folder / MEASURED_FILE)
        _say_what_is_there(folder, store)
      with stage('measure'):
        bench = Bench(contenders, store, options)
        excerpts = read_excerpts(
          recordings, bench.spec, report.skipped, number=options.num_tracks,
          secs=options.excerpt_secs, start_secs=options.start_secs, code_secs=options.code_secs,
          seed=options.seed,
        )  # fmt: skip
        bench.measure(excerpts, min(options.num_tracks, len(recordings)))
        if not bench.places:
          first = report.skipped[0]
          raise ValueError(f'None of {len(recordings)} recordings is usable: {first["what"]}: '
                           f'{first["why"]}')  # fmt: skip
        bench.fill(report)
      report.identity = _identity(contenders, described, len(recordings))
      report.protocol = _protocol(options, bench)
      with stage('listen'):
        report.clips = bench.listen()
      report.limits = codec_verdicts.limits(report)
      report.summary = codec_verdicts.summary(report)
      with stage('report'):
        page = write_codec_report(report, folder)
    except KeyboardInterrupt:
      print('eval.py: interrupted; the same command goes on from here.', file=sys.stderr)
      sys.exit(130)
    _print(page, report)
    return report


def load_codecs(
  codec: str | Sequence[str], names: Sequence[str] | None, options: CodecReportOptions
) -> list[Contender]:
  """Loads them in order.

  Raises:
    ValueError: names do not fit, or sample rates and channels differ.
  """
  paths = [codec] if isinstance(codec, str | pathlib.Path) else list(codec)
  paths = [str(path) for path in paths]
  chosen = list(names) if names else _short_names(paths)
  if not paths or len(chosen) != len(paths) or len(set(chosen)) != len(chosen):
    raise ValueError(f'CODEC_NAMES={chosen}: {len(paths)} codecs need as many different names.')
  contenders = []
  for name, path in zip(chosen, paths):
    loaded = _load_codec(path)
    depths = sorted({min(depth, loaded.spec.codec_levels) for depth in options.depths})
    weights = _weights_hash(loaded)
    contenders.append(Contender(name, path, loaded, weights, depths, {d: [] for d in depths}))
  first = contenders[0].codec.spec
  for other in contenders[1:]:
    spec = other.codec.spec
    if (spec.sample_rate, spec.num_channels) != (first.sample_rate, first.num_channels):
      raise ValueError(
        f'{other.name} has {spec.num_channels} channels at {spec.sample_rate} Hz, '
        f'{contenders[0].name} {first.num_channels} at {first.sample_rate}; measure them apart.'
      )
  return contenders


def _short_names(paths: Sequence[str]) -> list[str]:
  """The last part of each path, or the whole of it where those are not different."""
  short = [pathlib.Path(path).stem for path in paths]
  parents = [pathlib.Path(path).parent.name or path for path in paths]
  return next((c for c in (short, parents) if len(set(c)) == len(c)), list(paths))


def _load_codec(path: str) -> Any:
  from models.spectrostream import SpectroStream

  folder = pathlib.Path(path).expanduser()
  if (folder / WEIGHTS_FILE).is_file():
    return SpectroStream.load(folder / WEIGHTS_FILE)
  return SpectroStream.load(folder if folder.exists() else path)


def _weights_hash(codec: Any) -> str:
  """Of everything that decoded audio depends on; `content_hash` leaves the decoder out."""
  return dict(identity.parameters({'params': codec.params, 'codebooks': codec.codebooks}))[
    'Weights hash'
  ]


def _stages(seconds: dict[str, float]) -> Callable[[str], Any]:
  """A context manager that prints each stage with its number and keeps its seconds."""

  @contextlib.contextmanager
  def stage(name: str) -> Iterator[None]:
    print(f'[{_STAGES.index(name) + 1}/{len(_STAGES)}] {name}', flush=True)
    start = time.perf_counter()
    yield
    seconds[name] = round(time.perf_counter() - start, 1)

  return stage


def _say_what_is_there(folder: pathlib.Path, store: Measurements):
  if (folder / 'report.html').exists():
    print(f'{folder} has a report already; it is written anew.')
  if store.known:
    print(
      f'{store.path} has {store.known} measurements of an earlier run; those of the same codec, '
      'audio and options are taken from there. Delete the file to measure anew.'
    )


def _print(page: pathlib.Path, report: CodecReport):
  print(f'{page} ({page.stat().st_size / 1e6:.1f} MB)')
  for line in report.summary:
    print(f'  {line["text"]}')
  aside = sum('set aside' in entry['why'] for entry in report.skipped)
  if aside:
    print(f'  {aside} recordings were set aside; the report says why.')


def _identity(
  contenders: Sequence[Contender], described: str, num_recordings: int
) -> list[dict[str, Any]]:
  parts = []
  for contender in contenders:
    rows = [['Given as', contender.path], ['Token hash', str(contender.codec.content_hash)]]
    rows += identity.parameters(contender.codec.params)[:1]
    rows.append(['Weights hash', contender.weights])
    parts.append({'title': f'Codec {contender.name}', 'rows': rows})
  rows = [['Recordings', f'{described}: {num_recordings}']]
  parts.append({'title': 'Data', 'rows': rows})
  parts.append({'title': 'Software', 'rows': identity.software()})
  parts.append({'title': 'Hardware', 'rows': identity.hardware()})
  return parts


def _protocol(options: CodecReportOptions, bench: Bench) -> list[list[str]]:
  store = bench.store
  rows = [
    [
      'Excerpts',
      f'{len(bench.places)} recordings, {options.excerpt_secs:g} s of each from '
      f'{options.start_secs:g} s on',
    ],
    ['Codes counted', f'first {options.code_secs:g} s of each recording'],
    ['Intervals', '95 %, bootstrap over recordings, 1000 resamples; differences are paired'],
    ['Seed', str(options.seed)],
    *[[f'{name} by', version] for name, version in bench.versions.items() if version],
  ]
  if store.reused:
    rows.append(
      ['Taken from an earlier run', f'{store.reused} of {store.reused + store.measured} values']
    )
  return rows
