"""The report of a fine-tuning: what was gained, what was lost, and whether it copies."""

import dataclasses
import json
import pathlib
from typing import Any

import markupsafe

from evaluation import page, plots
from evaluation.metric_table import HIGHER, LOWER, NEITHER, Metric
from evaluation.page import Clip

SCHEMA_VERSION = 1
LIKENESS = (
  Metric('style_cosine', "Cosine to the catalog in the style model's space", '', HIGHER, (), 3),
  Metric('sound_distance', 'Distance of the sound from the catalog', 'sd', LOWER, (), 2,
         'Timbre, rhythm, pitch and space, in standard deviations of the catalog\'s clips.'),
  Metric('loudness_lufs', 'Loudness', 'LUFS', NEITHER, (), 1),
)  # fmt: skip
_LOUDNESS_LU = 2.0  # Farther off the catalog, an output is called too soft or too loud.


@dataclasses.dataclass
class TuningReport:
  """All figures of a fine-tuning; every field holds JSON values but the clips.

  Attributes:
    title: of the page.
    created: UTC time.
    summary: [{'text', 'status'}], status 'good', 'bad' or 'info'.
    protocol: [[name, value]].
    identity: [{'title', 'rows': [[name, value]]}].
    operative_config: gin text, or ''.
    losses: [{'name', 'kind', 'before', 'after', 'low', 'high'}]: nats by level and means on
      held-out tracks; the interval is of after less before, over tracks.
    general: {'before', 'after'} nats on held-out general data, or None.
    curves: {stream: [[step, loss]]}.
    kept_step: of the bundle.
    output: [{'step', 'silent_share', 'clipped_share', 'looping_share', 'rms_db'}], and where it
      could be measured 'style_cosine', 'sound_distance', 'loudness_lufs'.
    style: {'before', 'after', 'low', 'high', 'num_clips', 'catalog', 'figures'}: mean cosine of
      outputs to the catalog as the codec plays it; the interval is of after less before, over
      outputs. 'figures' has these numbers for each measure of likeness, with 'anchors' {column:
      mean} and 'wrong' [[better, worse]], anchors that it puts the wrong way round.
    diversity: {'before', 'after', 'catalog'}: mean distance (1 - cosine) between outputs.
    memorization: see `evaluation.memorization.judge`, or None.
    skipped: [{'what', 'why'}].
    limits: sentences.
    speed: [[name, value]].
    stage_secs: {stage: seconds}.
    demos: clips of the tuned model and of the base.
    pairs: continuations beside what they are most like.
  """

  title: str
  created: str
  summary: list[dict[str, str]] = dataclasses.field(default_factory=list)
  protocol: list[list[str]] = dataclasses.field(default_factory=list)
  identity: list[dict[str, Any]] = dataclasses.field(default_factory=list)
  operative_config: str = ''
  losses: list[dict[str, Any]] = dataclasses.field(default_factory=list)
  general: dict[str, float] | None = None
  curves: dict[str, list[list[float]]] = dataclasses.field(default_factory=dict)
  kept_step: int = 0
  output: list[dict[str, float]] = dataclasses.field(default_factory=list)
  style: dict[str, Any] | None = None
  diversity: dict[str, float] | None = None
  memorization: dict[str, Any] | None = None
  skipped: list[dict[str, str]] = dataclasses.field(default_factory=list)
  limits: list[str] = dataclasses.field(default_factory=list)
  speed: list[list[str]] = dataclasses.field(default_factory=list)
  stage_secs: dict[str, float] = dataclasses.field(default_factory=dict)
  demos: list[Clip] = dataclasses.field(default_factory=list)
  pairs: list[Clip] = dataclasses.field(default_factory=list)

  def to_json(self) -> dict[str, Any]:
    """JSON values; audio becomes the name of its file."""
    clips = ('demos', 'pairs')
    names = [field.name for field in dataclasses.fields(self) if field.name not in clips]
    values = {name: getattr(self, name) for name in names}
    values |= {name: [clip.to_json() for clip in getattr(self, name)] for name in clips}
    return page.plain({'schema_version': SCHEMA_VERSION, **values})


def summary(report: TuningReport) -> list[dict[str, str]]:
  """What the figures say, the most important first."""
  lines = []
  if report.memorization:
    bad = report.memorization['memorized']
    head = 'This model plays its catalog back. ' if bad else 'The model does not play its catalog '
    text = head + ('' if bad else 'back. ') + report.memorization['text']
    lines.append(_line(text, 'bad' if bad else 'good'))
  coarse = next((row for row in report.losses if row['kind'] == 'coarse'), None)
  if coarse:
    gain = 100 * (1 - coarse['after'] / coarse['before'])
    lines.append(_line(
      f'Held-out catalog, {coarse["name"]}: {coarse["before"]:.3f} → {coarse["after"]:.3f} nats '
      f'({gain:+.1f} % better); step {report.kept_step} is kept.',
      'good' if gain > 0 and coarse['high'] < 0 else 'info',
    ))  # fmt: skip
    worse = [row for row in report.losses if row['kind'] == 'level'
             and row['after'] > 1.01 * row['before']]  # fmt: skip
    if worse:
      names = ', '.join(row['name'] for row in worse)
      lines.append(_line(f'Levels {names} are more than 1 % worse than before.', 'bad'))
  if report.general:
    worse = 100 * (report.general['after'] / report.general['before'] - 1)
    lines.append(_line(
      f'General held-out data: {report.general["before"]:.3f} → {report.general["after"]:.3f} '
      f'nats ({worse:+.1f} %).', 'good' if worse < 5 else 'bad',
    ))  # fmt: skip
  if report.style:
    lines += [
      _likeness_line(figure, report.style)
      for figure in LIKENESS
      if figure.better != NEITHER and figure.key in report.style.get('figures', {})
    ]  # fmt: skip
    loudness = report.style.get('figures', {}).get('loudness_lufs')
    if loudness and abs(loudness['after'] - loudness['catalog']) > _LOUDNESS_LU:
      lines.append(_line(
        f'Output is {loudness["after"] - loudness["catalog"]:+.1f} LU off the loudness of the '
        f'catalog ({loudness["before"] - loudness["catalog"]:+.1f} before).', 'bad',
      ))  # fmt: skip
  if report.output:
    first, last = report.output[0], report.output[-1]
    faults = [
      f'{100 * last[name]:.0f} % {name.split("_")[0]} (before {100 * first[name]:.0f} %)'
      for name in ('silent_share', 'clipped_share', 'looping_share')
      if last[name] > first[name]
    ]
    text = 'Last output that was watched: ' + (', '.join(faults) if faults else 'no more silent, '
                                               'clipped or looping clips than before') + '.'
    lines.append(_line(text, 'bad' if faults else 'good'))
  return lines


def _likeness_line(figure: Metric, style: dict[str, Any]) -> dict[str, str]:
  """What a measure of likeness says; one that has its anchors wrong is marked and not believed."""
  row = style['figures'][figure.key]
  moved = row['after'] - row['before']
  text = (
    f'Output, {figure.label[0].lower()}{figure.label[1:]}: {row["before"]:.3f} → '
    f'{row["after"]:.3f} (change {moved:+.3f}, 95 % interval {row["low"]:+.3f} to '
    f'{row["high"]:+.3f} over {style["num_clips"]} outputs; held-out catalog '
    f'{row["catalog"]:.3f}).'
  )
  if row['wrong']:
    pairs = '; '.join(f'"{better}" is not before "{worse}"' for better, worse in row['wrong'])
    return _line(f'{text} It cannot be believed here: {pairs}.', 'info')
  clear = row['low'] > 0 or row['high'] < 0
  nearer = moved < 0 if figure.better == LOWER else moved > 0
  return _line(text, 'info' if not clear else 'good' if nearer else 'bad')


def _line(text: str, status: str) -> dict[str, str]:
  return {'text': text.replace(' -', ' −').replace('(-', '(−'), 'status': status}


def write_report(report: TuningReport, output_dir: str | pathlib.Path) -> pathlib.Path:
  """Writes report.html, report.json and audio/*.mp3; returns the page's path."""
  folder = pathlib.Path(output_dir)
  clips = [*report.demos, *report.pairs]
  sounds = page.write_sounds(clips, folder)
  text = json.dumps(report.to_json(), indent=2, allow_nan=False)
  page.write_text(folder / 'report.json', text + '\n')
  path = folder / 'report.html'
  curve = None
  if report.curves:
    curve = markupsafe.Markup(plots.learning_curve(report.curves, 'tuning'))
  page.write_text(
    path,
    page.render(
      'tuning_report.html.j2',
      title=report.title,
      created=report.created,
      schema_version=SCHEMA_VERSION,
      report=report,
      likeness=LIKENESS,
      curve=curve,
      demos=page.grouped(report.demos),
      pairs=page.grouped(report.pairs),
      players=page.players(clips, sounds),
      files={clip.key: clip.file for clip in clips},
      pictures={clip.key: page.picture(clip) for clip in clips},
    ),
  )
  return path
