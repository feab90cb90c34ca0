"""What every report's page is made with: recordings, their files, numbers as people read them."""

import concurrent.futures
import csv
import dataclasses
import io
import math
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import jinja2
import markupsafe
import numpy as np

from evaluation import media, plots
from models import folder_marker
from preprocessing import files

MAX_BYTES = 30_000_000
_TEMPLATES = pathlib.Path(__file__).parent / 'templates'


@dataclasses.dataclass
class Clip:
  """A recording to be heard and looked at.

  Attributes:
    key: unique, of letters, digits and '_'; names its file.
    group: heading it stands under.
    title: what it is.
    caption: prompt or description.
    audio: float32 [samples, channels].
    sample_rate: in Hz.
    given_secs: seconds at the start that the model was given.
    chunk_secs: distance of the seams; 0 for recordings without.
    figures: signal health and others, by name.
  """

  key: str
  group: str
  title: str
  caption: str
  audio: np.ndarray
  sample_rate: int
  given_secs: float = 0
  chunk_secs: float = 0
  figures: dict[str, float] = dataclasses.field(default_factory=dict)

  @property
  def file(self) -> str:
    """Name of its file in the report's folder."""
    return f'audio/{self.key}.mp3'

  def to_json(self) -> dict[str, Any]:
    """What it is, without its audio."""
    return {
      'key': self.key,
      'group': self.group,
      'title': self.title,
      'caption': self.caption,
      'file': self.file,
      'secs': len(self.audio) / self.sample_rate,
      'given_secs': self.given_secs,
      'figures': self.figures,
    }


def write_sounds(clips: list[Clip], output_dir: pathlib.Path) -> dict[str, bytes]:
  """Writes `output_dir`/audio/*.mp3; returns the bytes of each, by key."""
  folder_marker.mark(output_dir / 'audio', 'report')
  with concurrent.futures.ThreadPoolExecutor() as threads:  # The encoder frees the interpreter.
    encoded = threads.map(lambda clip: media.mp3_bytes(clip.audio, clip.sample_rate), clips)
    sounds = dict(zip((clip.key for clip in clips), encoded))
  for clip in clips:
    files.write_whole(output_dir / clip.file, sounds[clip.key])
  return sounds


def write_text(path: pathlib.Path, text: str):
  """Writes a file whole or not at all; lone surrogates in file names become \\udcXX."""
  files.write_whole(path, text.encode(errors='backslashreplace'))


def write_rows(path: pathlib.Path, rows: Sequence[Mapping[str, Any]]):
  """Writes a CSV file: a line for each row, a column for each key; only 'key' without rows."""
  names = list(dict.fromkeys(name for row in rows for name in row)) or ['key']
  text = io.StringIO(newline='')
  writer = csv.DictWriter(text, names, restval='')
  writer.writeheader()
  writer.writerows(rows)
  write_text(path, text.getvalue())


def players(clips: list[Clip], sounds: dict[str, bytes]) -> dict[str, str | None]:
  """The data URI of each clip; None where it would make the page larger than 30 MB."""
  room = MAX_BYTES * 0.9  # For everything but the audio there is a tenth.
  uris = {}
  for clip in clips:
    uri = media.data_uri(sounds[clip.key])
    room -= len(uri)
    uris[clip.key] = uri if room > 0 else None
  return uris


def picture(clip: Clip) -> markupsafe.Markup:
  """The clip's spectrogram."""
  return markupsafe.Markup(
    plots.spectrogram(
      clip.audio, clip.sample_rate, f'spec_{clip.key}', given_secs=clip.given_secs,
      chunk_secs=clip.chunk_secs,
    )
  )  # fmt: skip


def grouped(clips: list[Clip]) -> dict[str, list[Clip]]:
  """Clips by their heading, in the order of first appearance."""
  groups: dict[str, list[Clip]] = {}
  for clip in clips:
    groups.setdefault(clip.group, []).append(clip)
  return groups


def render(template: str, **values: Any) -> str:
  """A page; a value that the template asks for and does not get is an error."""
  environment = jinja2.Environment(
    loader=jinja2.FileSystemLoader(_TEMPLATES),
    autoescape=True,
    trim_blocks=True,
    lstrip_blocks=True,
    undefined=jinja2.StrictUndefined,
  )
  environment.filters |= {
    'figure': _figure, 'signed': _signed, 'share': _share, 'interval': _interval
  }  # fmt: skip
  return environment.get_template(template).render(**values)


def plain(value: Any) -> Any:
  """NumPy and non-finite values as JSON has them."""
  if isinstance(value, dict):
    return {str(key): plain(item) for key, item in value.items()}
  if isinstance(value, list | tuple):
    return [plain(item) for item in value]
  if isinstance(value, np.ndarray):
    return plain(value.tolist())
  if isinstance(value, np.generic):
    return plain(value.item())
  if isinstance(value, float) and not math.isfinite(value):
    return None
  return value


def _figure(value: float | None, digits: int = 2) -> str:
  """A number for people; what is not there or not finite is said in words."""
  if value is None or isinstance(value, float) and math.isnan(value):
    return 'n/a'
  if isinstance(value, float | np.floating) and math.isinf(value):
    return '∞' if value > 0 else '−∞'
  if abs(value) >= 1000:
    return f'{value:,.0f}'.replace(',', ' ').replace('-', '−')
  return f'{value:.{digits}f}'.replace('-', '−')


def _signed(value: float | None, digits: int = 2) -> str:
  text = _figure(value, digits)
  return f'+{text}' if text[0].isdigit() else text


def _share(value: float | None) -> str:
  return 'n/a' if value is None or math.isnan(value) else f'{100 * value:.1f} %'


def _interval(low: float | None, high: float | None, digits: int = 2) -> str:
  if low is None or high is None or math.isnan(low) or math.isnan(high):
    return ''
  return f'{_figure(low, digits)} … {_figure(high, digits)}'
