"""The report on codecs: `report.json`, `files.csv`, `codebooks.csv`, audio and one HTML page.

`CodecReport` is filled by whoever measures (see `pipelines/evaluate_codec.py`) with plain JSON
values; this module only draws.
"""

import dataclasses
import json
import pathlib
from typing import Any

import markupsafe
import numpy as np

from evaluation import codec_metrics, codec_stage, page, plots

SCHEMA_VERSION = 1


@dataclasses.dataclass
class CodecReport:
  """All figures; every field holds JSON values but `clips`.

  Attributes:
    title: of the page.
    created: UTC time.
    summary, identity, protocol, operative_config, skipped, limits, stage_secs, clips: as in
      `evaluation.report.Report`.
    codecs: [{'name', 'hash', 'depths': rows of `codec_stage.depth_rows`, 'misordered':
      [{'measure', 'deeper', 'shallower', 'difference', 'certain'}], 'use': {'num_frames',
      'most_bits', 'chance_share', 'entropy_bits': [levels], 'unused_share': [levels]}}].
    others: rows of other codecs and of noise.
    comparisons: rows of `codec_verdicts.compare`.
    files: a row for each track, codec and rate: what files.csv has.
    num_tracks: excerpts measured, one a track.
  """

  title: str
  created: str
  summary: list[dict[str, str]] = dataclasses.field(default_factory=list)
  identity: list[dict[str, Any]] = dataclasses.field(default_factory=list)
  protocol: list[list[str]] = dataclasses.field(default_factory=list)
  operative_config: str = ''
  codecs: list[dict[str, Any]] = dataclasses.field(default_factory=list)
  others: list[dict[str, Any]] = dataclasses.field(default_factory=list)
  comparisons: list[dict[str, Any]] = dataclasses.field(default_factory=list)
  files: list[dict[str, Any]] = dataclasses.field(default_factory=list)
  num_tracks: int = 0
  skipped: list[dict[str, str]] = dataclasses.field(default_factory=list)
  limits: list[str] = dataclasses.field(default_factory=list)
  stage_secs: dict[str, float] = dataclasses.field(default_factory=dict)
  clips: list[page.Clip] = dataclasses.field(default_factory=list)

  # The parts of the page that reports share ask for it; benchmarks measure the speed of codecs.
  speed = ()

  def to_json(self) -> dict[str, Any]:
    """JSON values; numbers that are not finite become None. The files stand in files.csv."""
    left_out = ('clips', 'files')
    fields = [field.name for field in dataclasses.fields(self) if field.name not in left_out]
    values = {'schema_version': SCHEMA_VERSION}
    values |= {name: getattr(self, name) for name in fields}
    values['clips'] = [clip.to_json() for clip in self.clips]
    return page.plain(values)


def write_codec_report(report: CodecReport, output_dir: str | pathlib.Path) -> pathlib.Path:
  """Writes report.html, report.json, files.csv, codebooks.csv, audio/*.mp3; returns the page."""
  output_dir = pathlib.Path(output_dir)
  sounds = page.write_sounds(report.clips, output_dir)
  page.write_rows(output_dir / 'files.csv', report.files)
  page.write_rows(output_dir / 'codebooks.csv', _codebook_rows(report.codecs))
  text = json.dumps(report.to_json(), indent=2, allow_nan=False)
  page.write_text(output_dir / 'report.json', text + '\n')
  path = output_dir / 'report.html'
  page.write_text(path, _render(report, sounds))
  return path


def _render(report: CodecReport, sounds: dict[str, bytes]) -> str:
  named = len(report.codecs) > 1
  rows = []
  for codec in report.codecs:
    for number, row in enumerate(codec['depths']):
      name = f'{codec["name"]}, {row["name"]}' if named else row['name']
      rows.append({**row, 'name': name, 'first': number == 0})
  for number, row in enumerate(report.others):
    rows.append({**row, 'first': number == 0})
  return page.render(
    'codec_report.html.j2',
    title=report.title,
    created=report.created,
    schema_version=SCHEMA_VERSION,
    report=report,
    rows=rows,
    measures=codec_metrics.MEASURES,
    curves=codec_stage.draw({c['name']: c['depths'] for c in report.codecs}, report.others),
    codebook_plots=_codebook_plots(report.codecs),
    groups=page.grouped(report.clips),
    players=page.players(report.clips, sounds),
    pictures={clip.key: page.picture(clip) for clip in report.clips},
  )


def _codebook_plots(codecs: list[dict[str, Any]]) -> list[tuple[str, markupsafe.Markup]]:
  """(label, picture): entropy and share of unused codes by level."""
  entropy = {codec['name']: codec['use']['entropy_bits'] for codec in codecs}
  unused = {codec['name']: 100 * np.array(codec['use']['unused_share']) for codec in codecs}
  most = {'even use': max(codec['use']['most_bits'] for codec in codecs)}
  chance = {'even use': 100 * max(codec['use']['chance_share'] for codec in codecs)}
  drawn = {
    'Entropy of the codes': plots.by_level(entropy, 'bits', 'entropy', most),
    'Codes never chosen': plots.by_level(unused, '% of the codes', 'unused', chance),
  }
  return [(label, markupsafe.Markup(svg)) for label, svg in drawn.items()]


def _codebook_rows(codecs: list[dict[str, Any]]) -> list[dict[str, Any]]:
  """A row for each codec and level."""
  return [
    {
      'codec': codec['name'],
      'level': level,
      'num_frames': codec['use']['num_frames'],
      'entropy_bits': round(entropy, 4),
      'unused_share': round(unused, 6),
    }
    for codec in codecs
    for level, (entropy, unused) in enumerate(
      zip(codec['use']['entropy_bits'], codec['use']['unused_share'])
    )
  ]
