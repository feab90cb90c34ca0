"""Walks through the pages of an Ogg file (RFC 3533): chained streams, damaged pages.

A recording of internet radio is a chain: whole streams one after the other, each with its own
headers. libsndfile reads only the first.
"""

import dataclasses
import struct
import zlib

from preprocessing.sliced_file import FileBytes

_HEAD = 27
_FIRST, _LAST = 2, 4
_REVERSED = bytes(int(f'{value:08b}'[::-1], 2) for value in range(256))


@dataclasses.dataclass(frozen=True)
class OggLink:
  """One stream of a chain.

  Attributes:
    begin, end: range of its bytes.
    codec: 'vorbis', 'opus', 'flac', 'speex' or '' for others.
    num_streams: logical streams side by side in it.
    channels, sample_rate: of its header; 0 where they are not known.
    granule: position on its last page, -1 for none.
    first_granule: position on its first page of audio, -1 for none.
    ended: whether the last page has the end mark.
  """

  begin: int
  end: int
  codec: str
  num_streams: int
  channels: int
  sample_rate: int
  granule: int
  first_granule: int
  ended: bool


@dataclasses.dataclass(frozen=True)
class OggPages:
  """The content of an Ogg file.

  Attributes:
    links: one for each stream of the chain.
    damage: '' or what is wrong with the first bad page, and where.
    complete: whether the file ends with a whole page.
  """

  links: tuple[OggLink, ...]
  damage: str
  complete: bool


def read_pages(path: str) -> OggPages | None:
  """Walks through a local file; returns None if it does not begin as Ogg.

  Raises:
    OSError: the file cannot be read.
  """
  with FileBytes(path) as data:
    return _walk(data) if data[:4] == b'OggS' else None


def _walk(data: FileBytes) -> OggPages:
  size = len(data)
  links: list[dict] = []
  sequences: dict[int, int] = {}
  place, damage, complete, in_headers = 0, '', True, False
  while place < size:
    page = _page(data, place)
    if page is None:
      complete = False
      if data.find(b'OggS', place + 1) >= 0:
        damage = damage or f'byte {place} is not the beginning of a page'
        place = data.find(b'OggS', place + 1)
        continue
      # The rest may be a page cut short, or something that does not belong here, such as a tag.
      complete = data[place : place + 4] != b'OggS' and size - place <= 4096
      break
    end, flags, granule, serial, number, body = page
    if not _checks(data, place, end):
      damage = damage or f'the page at byte {place} does not match its checksum'
    if flags & _FIRST:
      if not in_headers:
        links.append({'begin': place, 'streams': 0, 'granules': [], 'ended': False, 'head': b''})
        sequences.clear()
      in_headers = True
      links[-1]['streams'] += 1
      links[-1]['head'] = links[-1]['head'] or data[body : min(end, body + 64)]
    elif not links:
      damage, links = damage or 'the first page does not begin a stream', [
        {'begin': place, 'streams': 1, 'granules': [], 'ended': False, 'head': b''}
      ]
    else:
      in_headers = False
      # A recording of a running stream has its headers, then what was on the air.
      if links[-1]['granules'] and number != sequences.get(serial, number - 1) + 1:
        damage = damage or (
          f'pages {sequences[serial] + 1} to {number - 1} are missing before byte {place}'
        )
      if granule >= 0 and (granule > 0 or links[-1]['granules']):
        links[-1]['granules'].append(granule)
        del links[-1]['granules'][1:-1]
    sequences[serial] = number
    links[-1]['end'] = end
    links[-1]['ended'] = bool(flags & _LAST)
    place = end
  return OggPages(tuple(_link(found) for found in links if 'end' in found), damage, complete)


def _link(found: dict) -> OggLink:
  head, granules = found['head'], found['granules']
  codec, channels, rate = '', 0, 0
  if head[:7] == b'\x01vorbis' and len(head) >= 16:
    codec, channels, rate = 'vorbis', head[11], struct.unpack_from('<I', head, 12)[0]
  elif head[:8] == b'OpusHead' and len(head) >= 16:
    codec, channels, rate = 'opus', head[9], 48_000
  elif head[:5] == b'\x7fFLAC':
    codec = 'flac'
  elif head[:8] == b'Speex   ':
    codec = 'speex'
  return OggLink(
    found['begin'], found['end'], codec, found['streams'], channels, rate,
    granules[-1] if granules else -1, granules[0] if granules else -1, found['ended'],
  )  # fmt: skip


def _page(data: FileBytes, place: int):
  """(end, flags, granule, serial, number, place of the body), None where no whole page is."""
  head = data[place : place + _HEAD]
  if head[:5] != b'OggS\0' or len(head) < _HEAD:
    return None
  flags, granule, serial, number, _, segments = struct.unpack_from('<BqIIIB', head, 5)
  body = place + _HEAD + segments
  end = body + sum(data[place + _HEAD : body])
  return (end, flags, granule, serial, number, body) if end <= len(data) else None


def _checks(data: FileBytes, place: int, end: int) -> bool:
  """Whether a page's CRC-32 (polynomial 0x04c11db7, not reflected, from 0) is right."""
  page = bytearray(data[place:end])
  (written,) = struct.unpack_from('<I', page, 22)
  page[22:26] = bytes(4)
  # zlib's CRC goes from the lowest bit on: with all bits turned round it is the same sum.
  value = zlib.crc32(page.translate(_REVERSED), 0xFFFFFFFF) ^ 0xFFFFFFFF
  return int(f'{value:032b}'[::-1], 2) == written
