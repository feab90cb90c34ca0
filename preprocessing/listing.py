"""Finds the audio files of a folder, by name or, for unknown names, by their first bytes.

Every file is one of three: audio; refused, with a reason; or not audio at all (pictures, texts,
playlists), which is counted.
"""

import collections
import dataclasses
import os

from preprocessing import ffmpeg, files, mpeg_frames

# Formats of sound; soundfile or PyAV reads them.
SOUND_SUFFIXES = (
  '.wav', '.wave', '.bwf', '.rf64', '.flac', '.mp3', '.ogg', '.oga', '.opus', '.aif', '.aiff',
  '.aifc', '.w64', '.caf', '.au', '.snd', '.m4a', '.m4b', '.m4p', '.m4r', '.alac', '.aac', '.adts',
  '.wma', '.ape', '.wv', '.mpc', '.mka', '.weba', '.mp1', '.mp2', '.mpa', '.mpga', '.tta', '.tak',
  '.shn', '.ac3', '.eac3', '.dts', '.dsf', '.dff', '.amr', '.spx', '.voc', '.aax',
)  # fmt: skip
# Films; their sound is read.
VIDEO_SUFFIXES = (
  '.mp4', '.m4v', '.mov', '.webm', '.mkv', '.avi', '.mpg', '.mpeg', '.ts', '.m2ts', '.vob', '.wmv',
  '.asf', '.flv', '.ogv', '.ogx', '.3gp', '.3g2', '.rm', '.ra',
)  # fmt: skip
AUDIO_SUFFIXES = (*SOUND_SUFFIXES, *VIDEO_SUFFIXES)
_NOT_AUDIO_TEXT = (
  # Pictures.
  '.jpg .jpeg .png .gif .bmp .tif .tiff .webp .heic .heif .avif .svg .ico .psd .xcf .eps .ai '
  # Texts, tables, documents and what programs are made of.
  '.txt .md .rst .log .nfo .pdf .doc .docx .odt .rtf .tex .htm .html .css .xml .json .jsonl .yaml '
  '.yml .toml .ini .cfg .conf .csv .tsv .parquet .xls .xlsx .ods .epub .mobi .lrc .srt .vtt .sub '
  '.ass .py .pyc .js .sh .bat .gin .ipynb .c .h .cpp .java .url .webloc .lnk .desktop .eml '
  # Playlists, cue sheets, checksums, projects and caches of music programs.
  '.m3u .m3u8 .pls .cue .xspf .wpl .asx .sfv .md5 .sha1 .sha256 .ffp .st5 .accurip .toc .ccd '
  '.peak .pk .pkf .reapeaks .ovw .gpk .asd .sfk .als .alc .adg .rpp .logicx .ptx .cpr .aup .aup3 '
  '.ses .npr .sesx .nki .fxp .fxb '
  # Archives, data and programs.
  '.zip .gz .bz2 .xz .zst .rar .7z .tar .tgz .torrent .part .crdownload .exe .dll .so .dylib .bin '
  '.db .sqlite .npy .npz .msgpack .safetensors .pt .ckpt .h5 .pb .tflite .tfrecord .ttf .otf .tmp '
  '.bak .ds_store .dat'
)
_NOT_AUDIO = frozenset(_NOT_AUDIO_TEXT.split())
_SCORES = ('.mid', '.midi', '.kar', '.rmi', '.musicxml', '.mxl', '.mscz', '.sib', '.abc', '.ly')
_TRACKERS = ('.mod', '.xm', '.it', '.s3m', '.mtm', '.sid', '.nsf', '.spc', '.vgm', '.vgz')


@dataclasses.dataclass
class Listing:
  """The files of a folder.

  Attributes:
    paths: of audio, sorted.
    refused: (path, reason of `quality.REASONS`, detail) of what is not read.
    others: how many files of each kind ('.jpg', 'hidden files') are not audio.
  """

  paths: list[str] = dataclasses.field(default_factory=list)
  refused: list[tuple[str, str, str]] = dataclasses.field(default_factory=list)
  others: collections.Counter = dataclasses.field(default_factory=collections.Counter)

  def others_text(self) -> str:
    """Returns text such as '3 .jpg, 1 .txt', the most frequent first; '' for none."""
    return ', '.join(f'{count} {kind}' for kind, count in self.others.most_common())


def list_folder(folder: str, passed_over=lambda folder, kind: None) -> Listing:
  """Lists a folder or bucket and all below it.

  Args:
    folder: absolute path or URI.
    passed_over: see `files.walk`.

  Raises:
    FileNotFoundError: there is no such folder.
  """
  listing = Listing()

  def unlisted(kind: str):
    listing.others[kind] += 1

  for directory, names in files.walk(folder, passed_over, unlisted):
    for name in names:
      path = f'{directory}/{name}' if files.is_remote(directory) else os.path.join(directory, name)
      _add(listing, path, os.path.splitext(name)[1].lower())
  listing.paths.sort()
  return listing


def _add(listing: Listing, path: str, suffix: str):
  if suffix in AUDIO_SUFFIXES:
    listing.paths.append(path)
  elif suffix in _NOT_AUDIO or '.tfrecord-' in suffix:
    listing.others[suffix] += 1
  elif suffix in _SCORES:
    listing.refused.append((path, 'unsupported_format', f'{suffix} is a score, not a recording'))
  elif suffix in _TRACKERS:
    detail = f'{suffix} is played by a program of its own; render it to FLAC or WAV'
    listing.refused.append((path, 'unsupported_format', detail))
  elif not files.is_remote(path) and _sounds(path):
    listing.paths.append(path)
  else:
    what = f'{suffix} is not the name of an audio format' if suffix else 'a name without a suffix'
    detail = f'{what}, and the content is not known as audio either'
    listing.refused.append((path, 'unsupported_format', detail))


def _sounds(path: str) -> bool:
  """Whether a local file of an unknown name begins like audio."""
  try:
    if not os.path.isfile(path):
      return False
    if ffmpeg.demuxer_for(path) or ffmpeg.shared_demuxer_for(path):
      return True
    return mpeg_frames.begins_as_frames(path)
  except OSError:
    return False
