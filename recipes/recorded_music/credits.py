"""The credits of recorded music: a page that names every track with its licence.

    python -m recipes.recorded_music.credits --output=docs/music_credits.md
"""

import argparse
import itertools
from collections.abc import Iterable, Sequence

from preprocessing import files, outputs
from recipes.recorded_music import table
from recipes.recorded_music.table import Piece

_NAMES = {
  'train': 'Music that the bundled models may learn from',
  'share_alike': 'Music under share-alike licences',
  'visible_test': 'Music that models are measured on',
}
_LINKS = {
  'CC0-1.0': 'https://creativecommons.org/publicdomain/zero/1.0/',
  'CC-BY-3.0': 'https://creativecommons.org/licenses/by/3.0/',
  'CC-BY-4.0': 'https://creativecommons.org/licenses/by/4.0/',
  'CC-BY-SA-3.0': 'https://creativecommons.org/licenses/by-sa/3.0/',
  'CC-BY-SA-4.0': 'https://creativecommons.org/licenses/by-sa/4.0/',
  'MIT': 'https://spdx.org/licenses/MIT.html',
  'BSD-2-Clause': 'https://spdx.org/licenses/BSD-2-Clause.html',
  'Zlib': 'https://spdx.org/licenses/Zlib.html',
}
_HEAD = """# Credits of the recorded music

Every track with its author, rights holder and licence, as stated in the Debian package that it
comes from. Generated from `recipes/recorded_music/tracks.csv`; the recipe's README says how the
licences were checked and what was left out. No audio is part of this repository.
"""


def page(pieces: Iterable[Piece]) -> str:
  """Returns a page in Markdown: a table for each set, with a heading for each package."""
  parts = [_HEAD]
  for name, group in itertools.groupby(pieces, lambda piece: piece.set):
    parts.append(_section(name, list(group)))
  return '\n'.join(parts)


def _section(name: str, pieces: Sequence[Piece]) -> str:
  hours = sum(piece.secs for piece in pieces) / 3600
  lines = [
    f'## {_NAMES[name]}', '',
    f'{len(pieces)} tracks, {hours:.2f} hours.', '',
    '| title | artist | rights holder | licence | length | from |',
    '|---|---|---|---|---|---|',
  ]  # fmt: skip
  for piece in pieces:
    minutes, secs = divmod(round(piece.secs), 60)
    link = _LINKS.get(piece.licence)
    source = f'<{piece.source}>' if '://' in piece.source else piece.source
    places = [f'{piece.package} {piece.version}', source, 'stems mixed' * (len(piece.files) > 1)]
    cells = (
      piece.title, piece.artist, piece.rights_holder,
      f'[{piece.licence}]({link})' if link else piece.licence,
      f'{minutes}:{secs:02d}', '; '.join(filter(None, places)),
    )  # fmt: skip
    lines.append(f'| {" | ".join(map(_cell, cells))} |')
  return '\n'.join(lines) + '\n'


def _cell(text: str) -> str:
  return text.replace('|', r'\|').replace('_', r'\_') if '://' not in text else text


def main(argv: Sequence[str] | None = None) -> None:
  """`python -m recipes.recorded_music.credits --output=FILE`: writes the page."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--output', required=True, help='Markdown file')
  parser.add_argument('--set', nargs='+', default=['train', 'visible_test'], metavar='SET',
                      help=f'of {", ".join(table.SETS)}; default train visible_test')  # fmt: skip
  args = parser.parse_args(argv)
  from pipelines import startup

  with startup.plain_errors('credits', resumes=False):
    startup.begin()
    outputs.check_file(args.output)
    files.write_whole(args.output, page(table.tracks(*args.set)).encode())


if __name__ == '__main__':
  from pipelines.startup import run_module

  run_module(main)
