"""What a file's own tags say: title, artist, genre, caption, licence and the like.

mutagen reads ID3 (MP3, WAV, AIFF), Vorbis comments (FLAC, OGG, Opus) and MP4 atoms; what WAV files
keep in their INFO chunk comes from soundfile.
"""

import dataclasses
import os
import re

import mutagen
import mutagen.id3
import soundfile

from preprocessing import files

# Names under which each fact is looked up, best first. ID3 frames are in capitals; 'TXXX:name' is
# a user's own frame, 'COMM' any comment.
_NAMES = {
  'title': ('title', 'TIT2', '\xa9nam'),
  'artist': ('artist', 'TPE1', 'albumartist', 'TPE2', 'composer', 'TCOM', '\xa9ART'),
  'album': ('album', 'TALB', '\xa9alb'),
  'work': ('work', 'TXXX:work', 'TXXX:musicbrainz_workid', 'musicbrainz_workid', '\xa9wrk'),
  'genre': ('genre', 'TCON', '\xa9gen'),
  'tags': ('instruments', 'TXXX:instruments', 'tags', 'TXXX:tags', 'mood', 'TMOO', 'keywords'),
  'vocal': ('vocal', 'TXXX:vocal', 'vocals', 'TXXX:vocals'),
  'tradition': ('tradition', 'TXXX:tradition'),
  'caption': (
    'caption', 'TXXX:caption', 'description', 'TXXX:description', 'comment', 'COMM', '\xa9cmt',
    'desc',
  ),
  'licence': ('license', 'licence', 'TXXX:license', 'TXXX:licence', 'WCOP', 'copyright', 'TCOP',
              'cprt'),
  'language': ('language', 'TLAN'),
  'lyrics': ('lyrics', 'unsyncedlyrics', 'USLT', 'SYLT', '\xa9lyr'),
}  # fmt: skip
# Comments that programs leave behind, and that describe no music.
_NOISE = re.compile(
  r'^\s*$|^[0-9A-Fa-f\s]{16,}$|exact audio copy|lame|ripped|encoded (by|with|using)|'
  r'^\s*https?://\S+\s*$|\.com\b|track \d+$|^cover( \(front\))?$',
  re.IGNORECASE,
)


@dataclasses.dataclass(frozen=True)
class Tags:
  """Facts of one file, '' or () where unknown; `preprocessing.manifest.Track` names them."""

  title: str = ''
  artist: str = ''
  album: str = ''
  work: str = ''
  genre: str = ''
  tags: tuple[str, ...] = ()
  vocal: str = ''
  tradition: str = ''
  caption: str = ''
  licence: str = ''
  language: str = ''
  lyrics: str = ''


def read_tags(path: str | os.PathLike) -> Tags:
  """Reads the tags of a file; broken or missing tags give empty ones, never an error."""
  found = _read_mutagen(os.fspath(path)) or _read_info_chunk(os.fspath(path))
  facts = {}
  for fact, names in _NAMES.items():
    values = [value for name in names for value in found.get(name.casefold(), ())]
    if fact == 'caption':
      values = [value for value in values if not _NOISE.search(value)]
    if fact == 'tags':
      words = [word.strip() for value in values for word in re.split(r'[,;/]', value)]
      facts[fact] = tuple(dict.fromkeys(word for word in words if word))
    else:
      facts[fact] = values[0] if values else ''
  return Tags(**facts)


def _read_mutagen(path: str) -> dict[str, list[str]]:
  try:
    file = mutagen.File(path)
  except Exception:  # noqa: BLE001  a parser of foreign bytes fails in many ways
    return {}
  if file is None or file.tags is None:
    return {}
  found: dict[str, list[str]] = {}
  if isinstance(file.tags, mutagen.id3.ID3):
    for frame in file.tags.values():
      name = frame.FrameID
      if name == 'TXXX':
        name = f'TXXX:{frame.desc}'
      texts = frame.genres if name == 'TCON' else getattr(frame, 'text', None)
      texts = texts if texts is not None else [getattr(frame, 'url', '')]
      texts = [texts] if isinstance(texts, str) else texts
      _add(found, name, texts)
    return found
  for name, values in file.tags.items():
    _add(found, name, values if isinstance(values, list) else [values])
  return found


def _read_info_chunk(path: str) -> dict[str, list[str]]:
  try:
    with soundfile.SoundFile(os.fsencode(path)) as file:
      values = file.copy_metadata()
  except (soundfile.LibsndfileError, OSError, RuntimeError):
    return {}
  found: dict[str, list[str]] = {}
  for name, value in values.items():
    _add(found, name, [value])
  return found


def _add(found: dict[str, list[str]], name: str, values):
  texts = [files.as_text(' '.join(str(value).split())) for value in values]
  found.setdefault(name.casefold(), []).extend(text for text in texts if text)
