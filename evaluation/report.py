"""The report: `report.json` with every figure, and `report.html`, one page without a network.

`Report` is filled by whoever measures (see `pipelines/evaluate.py`) with plain JSON values; this
module only draws. A section that was not measured stays empty, and why stands under `skipped`.
"""

import dataclasses
import json
import pathlib
from typing import Any

import markupsafe
import numpy as np

from evaluation import codec_metrics, codec_stage, metric_table, panels, plots
from evaluation import page as page_lib
from evaluation.page import Clip

SCHEMA_VERSION = 2


@dataclasses.dataclass
class Report:
  """All figures of an evaluation; every field holds JSON values but `clips`.

  Attributes:
    title: of the page.
    created: UTC time, ISO 8601.
    summary: [{'text', 'status'}], status 'good', 'bad' or 'info'.
    identity: [{'title', 'rows': [[name, value]]}].
    protocol: [[name, value]]: prompts, seeds, sampling, counts.
    budget: sentences on what a time budget made of them.
    music: what music A and B are.
    operative_config: gin text, or ''.
    token_losses: see `token_stage.assemble`.
    code_use: {column: see `comparisons.code_use`}.
    learning_curves: {model: {stream: [[step, nats per token]]}} of models whose run is at hand.
    codec: {'depths': [{'name', 'levels', 'kbps', measure: [mean, low, high]}],
      'others': the same without levels, 'codebooks': {...} or None, 'num_tracks': n}.
    families: tables of clip figures with anchors, [{'key', 'title', 'about', 'columns', 'rows'}],
      see `metric_table.build`.
    distances: tables of `distance_stage.measure`.
    continuity: {'rows': [{'name', 'kind', 'tempo_kept', 'key_score', 'num_clips'}], 'ordered'}.
    adherence: {'space', 'rows': [{'name', 'own', 'other', 'margin', 'top1'}], 'num_prompts',
      'ordered'} of the space that is believed, and 'spaces', the same of all.
    transitions: {'pairs': [{'first', 'second', 'curves': {name: ...}}], 'step_secs', ...}.
    drift: see `pipelines.evaluation_streams.measure_drift`.
    memorization: {'rows': [...], 'run_threshold', ...}.
    live: rows of `live_figures.latency_figures`.
    paired: rows of `comparisons.compare_models`.
    slices: rows of `slices.by_slice`, of coarse losses.
    samples: a row a clip: what samples.csv has.
    skipped: [{'what', 'why'}].
    limits: [sentences].
    stage_secs: {stage: seconds}.
    clips: recordings that the page plays.
  """

  title: str
  created: str
  summary: list[dict[str, str]] = dataclasses.field(default_factory=list)
  identity: list[dict[str, Any]] = dataclasses.field(default_factory=list)
  protocol: list[list[str]] = dataclasses.field(default_factory=list)
  budget: list[str] = dataclasses.field(default_factory=list)
  music: str = ''
  operative_config: str = ''
  token_losses: dict[str, Any] | None = None
  code_use: dict[str, Any] = dataclasses.field(default_factory=dict)
  learning_curves: dict[str, Any] = dataclasses.field(default_factory=dict)
  codec: dict[str, Any] | None = None
  families: list[dict[str, Any]] = dataclasses.field(default_factory=list)
  distances: list[dict[str, Any]] = dataclasses.field(default_factory=list)
  continuity: dict[str, Any] | None = None
  adherence: dict[str, Any] | None = None
  transitions: dict[str, Any] | None = None
  drift: dict[str, Any] | None = None
  memorization: dict[str, Any] | None = None
  live: list[dict[str, Any]] = dataclasses.field(default_factory=list)
  paired: list[dict[str, Any]] = dataclasses.field(default_factory=list)
  slices: list[dict[str, Any]] = dataclasses.field(default_factory=list)
  samples: list[dict[str, Any]] = dataclasses.field(default_factory=list)
  skipped: list[dict[str, str]] = dataclasses.field(default_factory=list)
  limits: list[str] = dataclasses.field(default_factory=list)
  stage_secs: dict[str, float] = dataclasses.field(default_factory=dict)
  clips: list[Clip] = dataclasses.field(default_factory=list)

  # The parts of the page that reports share ask for it; here `live` has a section of its own.
  speed = ()

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
  _write_samples(report, output_dir / 'samples.csv')
  text = json.dumps(report.to_json(), indent=2, allow_nan=False)
  page_lib.write_text(output_dir / 'report.json', text + '\n')
  page = output_dir / 'report.html'
  page_lib.write_text(page, render(report, sounds))
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
    family_plots={table['key']: _dots(table, table['key']) for table in report.families},
    distance_plots={
      table['embedding']: _dots(table, f'distance_{table["embedding"]}')
      for table in report.distances
    },
    flags=[line for table in [*report.families, *report.distances]
           for line in metric_table.flagged(table)],
    drift_plot=_drift_plot(report.drift),
    transition_plots=_transition_plots(report.transitions),
    sample_columns=SAMPLE_COLUMNS,
    groups=page_lib.grouped(report.clips),
    players=page_lib.players(report.clips, sounds),
    files={clip.key: clip.file for clip in report.clips},
    pictures={clip.key: page_lib.picture(clip) for clip in report.clips},
  )  # fmt: skip


# (key, label, digits) of the figures that the page's sample table shows; the CSV has them all.
SAMPLE_COLUMNS = (
  ('corpus_distance', 'Distance from A', 2),
  ('style_similarity', 'Style cosine', 3),
  ('loudness_lufs', 'LUFS', 1),
  ('spectral_flatness', 'Flatness', 3),
  ('seam_jump', 'Seam step', 2),
  ('tempo_bpm', 'BPM', 0),
  ('pulse_clarity', 'Pulse', 2),
  ('key_clarity', 'Key clarity', 2),
  ('repeat_similarity', 'Self-similarity', 2),
)


def _dots(table: dict[str, Any], key: str) -> markupsafe.Markup:
  return markupsafe.Markup(panels.dots(table, key))


def _drift_plot(section: dict[str, Any] | None) -> markupsafe.Markup | None:
  if section is None:
    return None
  curves = {row['key']: section['curves'][row['key']] for row in section['rows']}
  titles = {row['key']: row['label'] for row in section['rows']}
  minutes = [(place + 0.5) * section['piece_secs'] / 60 for place in range(section['num_pieces'])]
  flagged = [row['key'] for row in section['rows'] if row['ordered'] is False]
  return markupsafe.Markup(
    panels.series(curves, titles, section['columns'], minutes, 'minutes', 'drift', flagged)
  )


def _transition_plots(section: dict[str, Any] | None) -> list[markupsafe.Markup]:
  if section is None:
    return []
  drawn = []
  for number, pair in enumerate(section['pairs']):
    columns = [{'name': name, 'kind': curve['kind']} for name, curve in pair['curves'].items()]
    titles = {'to_first': 'to the first prompt', 'to_second': 'to the second prompt',
              'to_asked': 'to what was asked for'}  # fmt: skip
    curves = {
      key: {name: curve[key] for name, curve in pair['curves'].items()} for key in titles
    }
    steps = [place * section['step_secs'] for place in range(section['num_steps'])]
    svg = panels.series(curves, titles, columns, steps, 'seconds', f'turn{number}')
    drawn.append(markupsafe.Markup(svg))
  return drawn


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
  """By level; by context; by place in the chunk."""
  if losses is None:
    return []
  rows = {
    row['name']: tuple(np.array(row[key], float) for key in ('loss', 'low', 'high'))
    for row in losses['rows']
  }
  drawn = [plots.level_losses(rows, losses['anchors'], losses['context_levels'])]
  contexts, positions = losses.get('contexts'), losses.get('positions')
  if contexts:
    drawn.append(
      plots.curves(
        contexts['secs'], contexts['rows'], 'seconds of context', 'nats, coarse levels', 'context',
        anchors=contexts['anchors'],
      )
    )  # fmt: skip
  if positions:
    models = {k: v for k, v in positions['rows'].items() if k not in losses['anchors']}
    drawn.append(
      plots.curves(
        positions['secs'], models, 'seconds into the chunk', 'nats, coarse levels', 'place',
        anchors={name: float(np.mean(positions['rows'][name])) for name in losses['anchors']},
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


def _write_samples(report: Report, path: pathlib.Path):
  """One line a clip, one column a figure; the file of those that lie in audio/."""
  files = {clip.key: clip.file for clip in report.clips}
  rows = [{**row, 'file': files.get(row['key'], '')} for row in report.samples]
  page_lib.write_rows(path, rows)
