"""Demo corpus: works composed and rendered by the program, as tagged files with known truth.

A corpus is a folder `artist/album/NN title.ext` with a `corpus.json` beside it, which holds for
every work what a listener would have to estimate: caption, tempo, key and instruments.
Everything is made from (style, seed), so corpora of any size need no licence and no download.
"""

import argparse
import dataclasses
import json
import math
import os
import pathlib
import re
from collections.abc import Callable, Sequence

import mutagen
import numpy as np
import soundfile
import tqdm
from mutagen import id3

from models import spec
from preprocessing import composer, composer_styles, outputs, scores, synthesizer

STYLES = composer_styles.STYLES
UNSEEN_STYLES = composer_styles.UNSEEN_STYLES
SEEN_STYLES = tuple(style for style in STYLES if style not in UNSEEN_STYLES)
FORMATS = ('flac', 'wav', 'mp3', 'ogg')
LICENCE = 'CC0-1.0'
CORPUS_FILE = 'corpus.json'

compose = composer.compose
render = synthesizer.render

# Written into corpus.json: a folder made by another version of the sound is not extended.
_SOUND_VERSION = 1
_SAMPLE_RATE = spec.LiveMusicSpec().sample_rate
_BLOCK = 65_536
_WORKS_PER_SEED = 1_000_000
_TEMPO_WORDS = (
  (66, 'very slow'), (84, 'slow'), (104, 'moderate'), (124, 'medium-fast'), (148, 'fast'),
  (1000, 'very fast'),
)  # fmt: skip
_ADJECTIVES = (
  'Amber', 'Quiet', 'Distant', 'Broken', 'Silver', 'Hidden', 'Paper', 'Northern', 'Burning', 'Slow',
  'Golden', 'Hollow', 'Electric', 'Velvet', 'Early', 'Crooked', 'Winter', 'Painted', 'Restless',
  'Blue',
)  # fmt: skip
_NOUNS = (
  'River', 'Lantern', 'Staircase', 'Orchard', 'Signal', 'Harbor', 'Garden', 'Mirror', 'Engine',
  'Letter', 'Window', 'Parade', 'Compass', 'Feather', 'Tunnel', 'Kite', 'Ember', 'Market', 'Tide',
  'Clock',
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Work:
  """One work of the corpus and everything that is known about it.

  Attributes:
    work_id: unique name, made of style and seed.
    style: one of `STYLES`.
    seed: the seed that it was composed with.
    title, artist, album: tags; titles may repeat, paths do not.
    caption: one sentence on style, tempo, key, instruments and mood; distinct within a corpus.
    bpm: beats per minute.
    key: tonic and mode, such as 'F# minor'.
    instruments: names, the leading one first.
    duration_secs: length in seconds.
    path: of the file, relative to the corpus directory, with forward slashes.
  """

  work_id: str
  style: str
  seed: int
  title: str
  artist: str
  album: str
  caption: str
  bpm: int
  key: str
  instruments: tuple[str, ...]
  duration_secs: float
  path: str


def write_corpus(
  directory: str | os.PathLike,
  *,
  num_works: int,
  secs_per_work: float,
  seed: int,
  styles: Sequence[str] | None = None,
  renderer: str = 'builtin',
  formats: Sequence[str] = FORMATS,
) -> list[Work]:
  """Composes, renders and writes a corpus; what is there already is kept.

  Args:
    directory: where to; made if absent. A corpus made with the same arguments is completed (or
      extended, if num_works grew).
    num_works: how many works; styles and formats take turns.
    secs_per_work: length of each in seconds.
    seed: different seeds give different works (of up to a million each).
    styles: names from `STYLES`; None: all but `UNSEEN_STYLES`.
    renderer: 'builtin' or 'fluidsynth' (needs the program and a soundfont).
    formats: from `FORMATS`.

  Returns:
    The works in order; `path` is relative to `directory`.

  Raises:
    ValueError: for numbers that make no music, unknown styles, formats or renderers, or where
      `directory` holds another corpus.
    FileNotFoundError: where fluidsynth or its soundfont is asked for and not installed.
  """
  styles = SEEN_STYLES if styles is None else tuple(styles)
  formats = tuple(formats)
  _check_numbers(num_works, secs_per_work, seed)
  _check_choices('format', formats, FORMATS)
  _check_choices('style', styles, STYLES)
  play = _renderer(renderer)
  directory = pathlib.Path(directory)
  directory.mkdir(parents=True, exist_ok=True)
  recipe = {
    'sound_version': _SOUND_VERSION, 'secs_per_work': float(secs_per_work), 'seed': seed,
    'styles': list(styles), 'renderer': renderer, 'formats': list(formats),
  }  # fmt: skip
  on_disk = _read_corpus_file(directory, recipe)
  plan = plan_works(num_works, secs_per_work, seed, styles, formats)
  for work, score in tqdm.tqdm(plan, desc='demo corpus', unit='work'):
    path = directory / work.path
    if path.exists():
      continue
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f'.partial-{path.name}')
    try:
      _write_audio(partial, play(score))
      _write_tags(partial, work, int(path.name[:2]))
      partial.replace(path)
    finally:
      partial.unlink(missing_ok=True)
  works = [work for work, _ in plan]
  _write_corpus_file(directory, recipe, works if len(works) >= len(on_disk) else on_disk)
  return works


def read_corpus(directory: str | os.PathLike) -> list[Work]:
  """The works that `corpus.json` in `directory` lists; raises FileNotFoundError without one."""
  content = json.loads((pathlib.Path(directory) / CORPUS_FILE).read_text())
  return [Work(**{**work, 'instruments': tuple(work['instruments'])}) for work in content['works']]


def plan_works(
  num_works: int,
  secs_per_work: float,
  seed: int,
  styles: Sequence[str],
  formats: Sequence[str] = FORMATS,
) -> list[tuple[Work, scores.Score]]:
  """Composes the works of a corpus without rendering them; captions are made distinct.

  Returns:
    (work, score) pairs. A longer plan starts with a shorter one.
  """
  plan = []
  captions = set()
  albums: dict[tuple[str, str], int] = {}
  for index in range(num_works):
    style = styles[index % len(styles)]
    # Formats move on by one with each round of styles, so that no style keeps to one format.
    form = formats[(index % len(styles) + index // len(styles)) % len(formats)]
    work_seed = seed * _WORKS_PER_SEED + index
    while True:
      score = composer.compose(style, work_seed, secs_per_work)
      text = caption(score)
      if text not in captions:
        break
      work_seed += _WORKS_PER_SEED // 2
    captions.add(text)
    title, artist, album = _names(score)
    number = albums[artist, album] = albums.get((artist, album), 0) + 1
    path = f'{_file_name(artist)}/{_file_name(album)}/{number:02d} {_file_name(title)}.{form}'
    work = Work(
      work_id=f'{style.replace(" ", "-")}-{work_seed}', style=style, seed=work_seed, title=title,
      artist=artist, album=album, caption=text, bpm=score.bpm, key=score.key,
      instruments=score.instruments, duration_secs=float(secs_per_work), path=path,
    )  # fmt: skip
    plan.append((work, score))
  return plan


def caption(score: scores.Score) -> str:
  """Describes a score in a sentence: style, mood, tempo in words and bpm, key, instruments."""
  style = composer_styles.style_named(score.style)
  tempo = next(word for limit, word in _TEMPO_WORDS if score.bpm < limit)
  *rest, last = score.instruments
  instruments = f'{", ".join(rest)} and {last}' if rest else last
  label = style.label
  rng = np.random.default_rng([score.seed, 1])
  form = (
    f'{score.mood} {label} with {instruments}, {tempo} at {score.bpm} bpm in {score.key}',
    f'{label}, {score.mood}, {tempo} tempo ({score.bpm} bpm), {score.key}, {instruments}',
    f'{tempo} {label} in {score.key} at {score.bpm} bpm: {instruments}; {score.mood}',
    f'{label} track featuring {instruments}; {score.mood}, {score.bpm} bpm, {tempo}, {score.key}',
  )[int(rng.integers(4))]
  return form[0].upper() + form[1:]


def _names(score: scores.Score) -> tuple[str, str, str]:
  """Title, artist and album."""
  rng = np.random.default_rng([score.seed, 2])
  words = rng.integers(len(_ADJECTIVES), size=4)
  artists = composer_styles.style_named(score.style).artists
  artist = artists[int(rng.integers(len(artists)))]
  album_rng = np.random.default_rng([*artist.encode(), int(rng.integers(2))])
  album = f'The {_ADJECTIVES[album_rng.integers(20)]} {_NOUNS[album_rng.integers(20)]}'
  return f'{_ADJECTIVES[words[0]]} {_NOUNS[words[1]]}', artist, album


def _file_name(text: str) -> str:
  """`text` without what file systems dislike."""
  return re.sub(r'[^\w &\'-]', '', text).strip()


def _check_choices(what: str, given: Sequence[str], choices: Sequence[str]) -> None:
  if not given:
    raise ValueError(f'no {what}s given: choose from {", ".join(choices)}.')
  for name in given:
    if name not in choices:
      raise ValueError(f'{what} {name!r} is not one of {", ".join(choices)}.')


def _check_numbers(num_works: int, secs_per_work: float, seed: int) -> None:
  if num_works < 1:
    raise ValueError(f'num_works={num_works}: a corpus has at least 1.')
  if not math.isfinite(secs_per_work):  # The composer tells what is too short.
    raise ValueError(f'secs_per_work={secs_per_work} is no length.')
  if seed < 0:
    raise ValueError(f'seed={seed} must be at least 0.')


def _renderer(name: str) -> Callable[[scores.Score], np.ndarray]:
  """The function that turns a score into float32 [n, 2]."""
  if name == 'builtin':
    return synthesizer.render
  if name == 'fluidsynth':
    from preprocessing import synthesizer_midi

    synthesizer_midi.check_installed()
    return synthesizer_midi.render
  raise ValueError(f"renderer {name!r} is not one of 'builtin', 'fluidsynth'.")


def _read_corpus_file(directory: pathlib.Path, recipe: dict) -> list[Work]:
  """The works on disk; raises ValueError where they were made by another recipe."""
  path = directory / CORPUS_FILE
  if not path.exists():
    return []
  found = json.loads(path.read_text())['recipe']
  changed = [
    f'{name}={found.get(name)!r} (now {value!r})'
    for name, value in recipe.items()
    if found.get(name) != value
  ]
  if changed:
    raise ValueError(
      f'{directory} holds a demo corpus with {", ".join(changed)}: choose another directory or '
      'delete this one.'
    )
  return read_corpus(directory)


def _write_corpus_file(directory: pathlib.Path, recipe: dict, works: list[Work]) -> None:
  content = {'recipe': recipe, 'works': [dataclasses.asdict(work) for work in works]}
  partial = directory / f'.partial-{CORPUS_FILE}'
  partial.write_text(json.dumps(content, indent=1, ensure_ascii=False) + '\n')
  partial.replace(directory / CORPUS_FILE)


def _write_audio(path: pathlib.Path, x: np.ndarray) -> None:
  """Writes x [n, 2] in the format of the suffix, in blocks (long single OGG writes crash)."""
  # High quality for the lossy formats: coarser ones overshoot the peak by 3 dB on noise bursts.
  lossy = {} if path.suffix in ('.flac', '.wav') else {'compression_level': 0.2}
  with soundfile.SoundFile(path, 'w', _SAMPLE_RATE, x.shape[1], **lossy) as file:
    for start in range(0, len(x), _BLOCK):
      file.write(x[start : start + _BLOCK])


def _write_tags(path: pathlib.Path, work: Work, track_number: int) -> None:
  """Tags a file: Vorbis comments in FLAC and OGG, ID3 in MP3 and WAV."""
  genre = composer_styles.style_named(work.style).genre
  file = mutagen.File(path)
  if file.tags is None:
    file.add_tags()
  if isinstance(file.tags, id3.ID3):
    plain = (
      (id3.TIT2, work.title), (id3.TPE1, work.artist), (id3.TALB, work.album), (id3.TCON, genre),
      (id3.TBPM, str(work.bpm)), (id3.TKEY, work.key), (id3.TCOP, LICENCE),
      (id3.TRCK, str(track_number)),
    )  # fmt: skip
    for frame, text in plain:
      file.tags.add(frame(encoding=id3.Encoding.UTF8, text=text))
    file.tags.add(id3.COMM(encoding=id3.Encoding.UTF8, lang='eng', desc='', text=work.caption))
    for name, text in (('license', LICENCE), ('instruments', ', '.join(work.instruments))):
      file.tags.add(id3.TXXX(encoding=id3.Encoding.UTF8, desc=name, text=text))
  else:
    file.tags.update({
      'title': work.title, 'artist': work.artist, 'album': work.album, 'genre': genre,
      'bpm': str(work.bpm), 'key': work.key, 'description': work.caption, 'comment': work.caption,
      'license': LICENCE, 'copyright': LICENCE, 'instruments': ', '.join(work.instruments),
      'tracknumber': str(track_number),
    })  # fmt: skip
  file.save()


def main(argv: Sequence[str] | None = None) -> None:
  """`python -m preprocessing.demo_corpus --output_dir=DIR`: writes a corpus."""
  parser = argparse.ArgumentParser(description='Composes, renders and writes a demo corpus.')
  parser.add_argument('--output_dir', required=True)
  parser.add_argument('--num_works', type=int, default=18)
  parser.add_argument('--secs_per_work', type=float, default=30.0)
  parser.add_argument('--seed', type=int, default=0)
  parser.add_argument('--styles', nargs='+', help=f'"all", or of {", ".join(STYLES)}')
  parser.add_argument('--formats', nargs='+', default=FORMATS, help=f'of {", ".join(FORMATS)}')
  parser.add_argument('--renderer', default='builtin', help='builtin or fluidsynth')
  args = parser.parse_args(argv)
  from pipelines import startup

  with startup.plain_errors('demo_corpus', resumes=False):
    startup.begin()
    outputs.check_folder(args.output_dir)
    works = write_corpus(
      args.output_dir,
      num_works=args.num_works,
      secs_per_work=args.secs_per_work,
      seed=args.seed,
      styles=STYLES if args.styles == ['all'] else args.styles,
      renderer=args.renderer,
      formats=args.formats,
    )
    minutes = sum(work.duration_secs for work in works) / 60
    print(f'{args.output_dir}: {len(works)} works, {minutes:.1f} minutes.')


if __name__ == '__main__':
  from pipelines.startup import run_module

  run_module(main)
