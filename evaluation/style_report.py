"""The report on a style model: `report.json`, `works.csv` and one HTML page without a network.

`StyleReport` is filled by whoever measures (see `pipelines/evaluate_style.py`) with plain JSON
values; this module only draws.
"""

import dataclasses
import json
import pathlib
from typing import Any

import markupsafe
import numpy as np

from evaluation import page, plots

SCHEMA_VERSION = 1
ROW_NAMES = {
  'text_to_audio': 'Text to audio',
  'audio_to_text': 'Audio to text',
  'clip_to_same_work': 'A clip to another clip of its work',
}
FACT_NAMES = {'instruments': 'Instruments', 'genre': 'Genre', 'tempo': 'Tempo', 'key': 'Tonic'}


@dataclasses.dataclass
class StyleReport:
  """All figures; every field holds JSON values. A figure is {'value', 'low', 'high', 'chance'}.

  Attributes:
    title: of the page.
    created: UTC time.
    summary, identity, protocol, operative_config, skipped, limits, stage_secs: as in
      `evaluation.report.Report`.
    retrieval: rows of `style_stage.retrieval_rows` and `same_work_row`.
    zero_shot: {'genre': Figure or None, 'instruments': of `style_stage.zero_shot_tags` or None}.
    probes: rows of `style_stage.probe_rows`.
    tokens: rows of `style_stage.token_rows`.
    map: {'points': [[x, y]], 'labels': [N], 'names': [N]} or None.
    works: a row for each work: what works.csv has.
    speed: [[name, value]].
  """

  title: str
  created: str
  summary: list[dict[str, str]] = dataclasses.field(default_factory=list)
  identity: list[dict[str, Any]] = dataclasses.field(default_factory=list)
  protocol: list[list[str]] = dataclasses.field(default_factory=list)
  operative_config: str = ''
  retrieval: list[dict[str, Any]] = dataclasses.field(default_factory=list)
  zero_shot: dict[str, Any] = dataclasses.field(default_factory=dict)
  probes: list[dict[str, Any]] = dataclasses.field(default_factory=list)
  tokens: list[dict[str, Any]] = dataclasses.field(default_factory=list)
  map: dict[str, Any] | None = None
  works: list[dict[str, Any]] = dataclasses.field(default_factory=list)
  speed: list[list[str]] = dataclasses.field(default_factory=list)
  skipped: list[dict[str, str]] = dataclasses.field(default_factory=list)
  limits: list[str] = dataclasses.field(default_factory=list)
  stage_secs: dict[str, float] = dataclasses.field(default_factory=dict)

  def to_json(self) -> dict[str, Any]:
    """JSON values; numbers that are not finite become None. The works stand in works.csv."""
    names = [field.name for field in dataclasses.fields(self) if field.name != 'works']
    values = {name: getattr(self, name) for name in names}
    return page.plain({'schema_version': SCHEMA_VERSION, **values})


def write_style_report(report: StyleReport, output_dir: str | pathlib.Path) -> pathlib.Path:
  """Writes report.html, report.json and works.csv; returns the page."""
  folder = pathlib.Path(output_dir)
  folder.mkdir(parents=True, exist_ok=True)
  page.write_rows(folder / 'works.csv', report.works)
  text = json.dumps(report.to_json(), indent=2, allow_nan=False)
  page.write_text(folder / 'report.json', text + '\n')
  path = folder / 'report.html'
  page.write_text(path, _render(report))
  return path


def _render(report: StyleReport) -> str:
  facts: dict[str, list[dict[str, Any]]] = {}
  for row in report.probes:
    facts.setdefault(row['fact'], []).append(row)
  return page.render(
    'style_report.html.j2',
    title=report.title,
    created=report.created,
    schema_version=SCHEMA_VERSION,
    report=report,
    row_names=ROW_NAMES,
    fact_names=FACT_NAMES,
    facts=facts,
    picture=_map_picture(report.map),
    token_pictures=_token_pictures(report.tokens),
  )


def _map_picture(picture: dict[str, Any] | None) -> markupsafe.Markup | None:
  if picture is None:
    return None
  return markupsafe.Markup(
    plots.scatter(np.array(picture['points']), picture['labels'], picture['names'], 'map')
  )


def _token_pictures(rows: list[dict[str, Any]]) -> list[tuple[str, markupsafe.Markup]]:
  """(label, picture): what is left and what agrees, by depth."""
  if not rows:
    return []
  depths = [row['levels'] for row in rows]
  errors = {
    name: [row[f'{name}_error'] for row in rows] for name in ('audio', 'text')
  }
  agreement = {
    'own caption': [row['agreement']['value'] for row in rows],
    'another caption': [row['agreement']['chance'] for row in rows],
  }
  drawn = {
    'Squared error over the spread': plots.curves(depths, errors, 'levels', 'share left', 'left'),
    'Clips with the code of a caption, by level': plots.curves(
      depths, agreement, 'level', 'share of clips', 'agree'
    ),
  }
  return [(label, markupsafe.Markup(svg)) for label, svg in drawn.items()]
