"""The report: `report.json` with every figure, and `report.html`, one page without a network.

`Report` is filled by whoever measures (see `pipelines/evaluate.py`) with plain JSON values; this
module only draws. A section that was not measured stays None, and why stands under `skipped`.
"""

import csv
import dataclasses
import json
import pathlib
from typing import Any

import markupsafe
import numpy as np

from evaluation import codec_metrics, codec_stage, plots, signal_health
from evaluation import page as page_lib
from evaluation.page import Clip

SCHEMA_VERSION = 1
@dataclasses.dataclass
class Report:
  """All figures of an evaluation; every field holds JSON values but `clips`.

  Attributes:
    title: of the page.
    created: UTC time, ISO 8601.
    summary: [{'text', 'status'}], status 'good', 'bad' or 'info'.
    identity: [{'title', 'rows': [[name, value]]}].
    protocol: [[name, value]]: prompts, seeds, sampling, counts.
    operative_config: gin text, or ''.
    token_losses: {'rows': [LevelTable.to_json()], 'anchors': [names], 'context_levels': n,
      'contexts': {'secs': [...], 'rows': {name: [coarse loss]}, 'anchors': {name: loss}}}.
    learning_curves: {model: {stream: [[step, nats per token]]}} of models whose run is at hand.
    codec: {'depths': [{'name', 'levels', 'kbps', measure: [mean, low, high]}],
      'others': the same without levels, 'codebooks': {...} or None, 'num_tracks': n}.
    health: {'columns': [{'name', 'num_clips', 'figures': {name: mean}}]}.
    adherence: {'rows': [{'name', 'own', 'other', 'margin', 'top1'}], 'num_prompts': n}.
    speed: [[name, value]].
    skipped: [{'what', 'why'}].
    limits: [sentences].
    stage_secs: {stage: seconds}.
    clips: recordings.
  """

  title: str
  created: str
  summary: list[dict[str, str]] = dataclasses.field(default_factory=list)
  identity: list[dict[str, Any]] = dataclasses.field(default_factory=list)
  protocol: list[list[str]] = dataclasses.field(default_factory=list)
  operative_config: str = ''
  token_losses: dict[str, Any] | None = None
  learning_curves: dict[str, Any] = dataclasses.field(default_factory=dict)
  codec: dict[str, Any] | None = None
  health: dict[str, Any] | None = None
  adherence: dict[str, Any] | None = None
  speed: list[list[str]] = dataclasses.field(default_factory=list)
  skipped: list[dict[str, str]] = dataclasses.field(default_factory=list)
  limits: list[str] = dataclasses.field(default_factory=list)
  stage_secs: dict[str, float] = dataclasses.field(default_factory=dict)
  clips: list[Clip] = dataclasses.field(default_factory=list)

  def to_json(self) -> dict[str, Any]:
    """JSON values; audio becomes the name of its file, numbers that are not finite become None."""
    fields = [field.name for field in dataclasses.fields(self) if field.name != 'clips']
    values = {'schema_version': SCHEMA_VERSION}
    values |= {name: getattr(self, name) for name in fields}
    values['clips'] = [clip.to_json() for clip in self.clips]
    return page_lib.plain(values)


def write_report(report: Report, output_dir: str | pathlib.Path) -> pathlib.Path:
  """Writes report.html, report.json, samples.csv and audio/*.mp3; returns the page's path.

  Clips whose audio would make the page larger than 30 MB are named on it, with their file, instead
  of being played there.
  """
  output_dir = pathlib.Path(output_dir)
  sounds = page_lib.write_sounds(report.clips, output_dir)
  _write_samples(report.clips, output_dir / 'samples.csv')
  text = json.dumps(report.to_json(), indent=2, allow_nan=False)
  (output_dir / 'report.json').write_text(text + '\n', encoding='utf-8')
  page = output_dir / 'report.html'
  page.write_text(render(report, sounds), encoding='utf-8')
  return page


def render(report: Report, sounds: dict[str, bytes]) -> str:
  """The page, given the MP3 file of each clip."""
  return page_lib.render(
    'report.html.j2',
    title=report.title,
    created=report.created,
    report=report,
    schema_version=SCHEMA_VERSION,
    tokens=_token_table(report.token_losses),
    token_plots=_token_plots(report.token_losses),
    learning_plots=_learning_plots(report.learning_curves),
    codec_measures=codec_metrics.MEASURES,
    codec_plots=_codec_plots(report.codec),
    health_labels=signal_health.LABELS,
    groups=page_lib.grouped(report.clips),
    players=page_lib.players(report.clips, sounds),
    files={clip.key: clip.file for clip in report.clips},
    pictures={clip.key: page_lib.picture(clip) for clip in report.clips},
  )


def _token_table(losses: dict[str, Any] | None) -> dict[str, Any] | None:
  """Columns by model, rows by level, each cell with its difference to the first anchor."""
  if losses is None:
    return None
  rows = losses['rows']
  anchor = next((row for row in rows if row['name'] in losses['anchors']), None)
  lines = []
  for level in range(len(rows[0]['loss'])):
    cells = [
      (row['loss'][level], row['low'][level], row['high'][level],
       row['accuracy'][level] if row['accuracy'] else None,
       None if row is anchor or anchor is None else row['loss'][level] - anchor['loss'][level])
      for row in rows
    ]  # fmt: skip
    lines.append({'name': str(level), 'cells': cells, 'kind': 'level'})
  for key, name in (('coarse', f'mean of the {losses["context_levels"]} coarse levels'),
                    ('overall', 'mean of all levels')):  # fmt: skip
    cells = [
      (*row[key], float(np.mean(row['accuracy'][: losses['context_levels'] if key == 'coarse'
                                                else None])) if row['accuracy'] else None,
       None if row is anchor or anchor is None else row[key][0] - anchor[key][0])
      for row in rows
    ]  # fmt: skip
    lines.append({'name': name, 'cells': cells, 'kind': 'mean'})
  return {
    'names': [row['name'] for row in rows],
    'anchor': anchor['name'] if anchor else None,
    'lines': lines,
    'num_examples': rows[0]['num_examples'],
    'num_tracks': rows[0]['num_tracks'],
  }


def _token_plots(losses: dict[str, Any] | None) -> list[markupsafe.Markup]:
  if losses is None:
    return []
  rows = {
    row['name']: tuple(np.array(row[key], float) for key in ('loss', 'low', 'high'))
    for row in losses['rows']
  }
  drawn = [plots.level_losses(rows, losses['anchors'], losses['context_levels'])]
  contexts = losses.get('contexts')
  if contexts:
    drawn.append(
      plots.curves(
        contexts['secs'], contexts['rows'], 'seconds of context', 'nats, coarse levels', 'context',
        anchors=contexts['anchors'],
      )
    )  # fmt: skip
  return [markupsafe.Markup(svg) for svg in drawn]


def _learning_plots(curves: dict[str, Any]) -> list[tuple[str, markupsafe.Markup]]:
  """(name of the model, picture) of each run."""
  return [
    (name, markupsafe.Markup(plots.learning_curve(streams, f'learning_{number}')))
    for number, (name, streams) in enumerate(curves.items())
  ]


def _codec_plots(codec: dict[str, Any] | None) -> list[tuple[str, markupsafe.Markup]]:
  return [] if codec is None else codec_stage.draw({'codec': codec['depths']}, codec['others'])


def _write_samples(clips: list[Clip], path: pathlib.Path):
  """One line a clip, one column a figure."""
  names = list(dict.fromkeys(name for clip in clips for name in clip.figures))
  with open(path, 'w', encoding='utf-8', newline='') as file:
    writer = csv.writer(file)
    writer.writerow(['key', 'group', 'title', 'caption', 'secs', *names])
    for clip in clips:
      values = [clip.figures.get(name, '') for name in names]
      secs = round(len(clip.audio) / clip.sample_rate, 3)
      writer.writerow([clip.key, clip.group, clip.title, clip.caption, secs, *values])
