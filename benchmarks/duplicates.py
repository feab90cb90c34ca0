"""Which near-duplicates are found, and what is taken for one: tables of true and false joins.

    python -m benchmarks.duplicates --folder=DIR      # 510 tracks of 40 s, 20 songs of 210 s

The demo corpus's works are rendered into DIR once (half an hour of one core; what is there is
kept). Cases, one line of JSON each:

- true: recodings and changes of tracks of all styles: how many are joined with their track.
- disc: songs, changed songs and excerpts against a disc of all songs in one file and against the
  song, both ways round.
- false: joins of different works among everything of the above, drones and tracks of common drum
  loops; goal: 0. And the largest share of landmarks of different tracks, by kind of change.
- crowd: how many of the changed tracks are joined in a corpus that is up to 64 times as large.
- cost: CPU time of a fingerprint against the rest of the scan of a FLAC file; bytes a minute; CPU
  time a track of the search among a fourth, a half and all of the tracks.
"""

import argparse
import dataclasses
import fractions
import io
import pathlib
import statistics
import time
from collections.abc import Callable, Iterator

import av
import numpy as np
import soundfile
import soxr
from scipy import signal

from benchmarks.measuring import report
from preprocessing import demo_corpus, measurement, same_recordings
from preprocessing.fingerprint import Fingerprint, Fingerprinter, fingerprint

RATE = 48_000
_TIME_BASE = fractions.Fraction(1, RATE)
CASES = ('true', 'disc', 'false', 'crowd', 'cost')


def coded(codec: str, container: str, bit_rate: int) -> Callable[[np.ndarray], np.ndarray]:
  """Returns a change of [n, 2] float32 that encodes and decodes it."""

  def change(x: np.ndarray) -> np.ndarray:
    content = io.BytesIO()
    with av.open(content, 'w', format=container) as file:
      stream = file.add_stream(codec, rate=RATE, layout='stereo')
      stream.bit_rate = bit_rate
      size = stream.codec_context.frame_size or 1024
      convert = av.AudioResampler(format=stream.format, layout='stereo', rate=RATE, frame_size=size)
      for frame in [*convert.resample(_frame(x)), *convert.resample(None)]:
        file.mux(stream.encode(frame))
      file.mux(stream.encode(None))
    content.seek(0)
    with av.open(content) as file:
      convert = av.AudioResampler(format='flt', layout='stereo', rate=RATE)
      found = [out for frame in file.decode(audio=0) for out in convert.resample(frame)]
    return np.concatenate([frame.to_ndarray().reshape(-1, 2) for frame in found])

  return change


def _frame(x: np.ndarray) -> av.AudioFrame:
  packed = np.ascontiguousarray(x, np.float32).reshape(1, -1)
  frame = av.AudioFrame.from_ndarray(packed, format='flt', layout='stereo')
  frame.sample_rate, frame.pts, frame.time_base = RATE, 0, _TIME_BASE
  return frame


def at_tempo(x: np.ndarray, factor: float) -> np.ndarray:
  """Changes the tempo and keeps the pitch, by FFmpeg's overlap-add."""
  graph = av.filter.Graph()
  source = graph.add_abuffer(sample_rate=RATE, format='flt', layout='stereo', time_base=_TIME_BASE)
  change, sink = graph.add('atempo', str(factor)), graph.add('abuffersink')
  source.link_to(change)
  change.link_to(sink)
  graph.configure()
  source.push(_frame(x))
  source.push(None)
  found = []
  while True:
    try:
      found.append(sink.pull().to_ndarray().reshape(-1, 2))
    except (av.error.EOFError, av.error.BlockingIOError):
      return np.concatenate(found)


def at_speed(x: np.ndarray, factor: float) -> np.ndarray:
  """Changes the speed: tempo and pitch together."""
  return soxr.resample(x, round(RATE * factor), RATE)


def at_pitch(x: np.ndarray, semitones: float) -> np.ndarray:
  """Changes the pitch and keeps the tempo."""
  factor = 2 ** (semitones / 12)
  return at_speed(at_tempo(x, 1 / factor), factor)


def equalised(x: np.ndarray) -> np.ndarray:
  """Lowers the bass by 14 dB, with a filter of the first order at 300 Hz."""
  return signal.sosfilt(signal.butter(1, 300, 'high', fs=RATE, output='sos'), x, axis=0) + 0.2 * x


def faded(x: np.ndarray) -> np.ndarray:
  """Fades in over 10 s and out over 10 s."""
  ramp = np.minimum(np.arange(len(x)) / (10 * RATE), 1)
  return x * np.minimum(ramp, ramp[::-1])[:, None]


def excerpt(x: np.ndarray, secs: float = 30.0) -> np.ndarray:
  """Cuts a piece out of the middle; it begins between two frames of the original."""
  begin = (len(x) - round(secs * RATE)) // 2 + 77
  return x[begin : begin + round(secs * RATE)]


CHANGES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
  'mp3 96 kbit/s': coded('libmp3lame', 'mp3', 96_000),
  'mp3 64 kbit/s': coded('libmp3lame', 'mp3', 64_000),
  'opus 32 kbit/s': coded('libopus', 'ogg', 32_000),
  'aac 96 kbit/s': coded('aac', 'mp4', 96_000),
  '-10 dB': lambda x: x * 10**-0.5,
  'equalised': equalised,
  'faded': faded,
  'excerpt of 30 s': excerpt,
  **{f'speed {factor}': lambda x, f=factor: at_speed(x, f) for factor in (0.95, 0.99, 1.01, 1.05)},
  **{f'tempo {factor}': lambda x, f=factor: at_tempo(x, f) for factor in (0.95, 0.97, 1.03, 1.05)},
  **{f'pitch {step:+d}': lambda x, s=step: at_pitch(x, s) for step in (-2, -1, 1, 2)},
  'mp3 64 kbit/s of speed 1.05': lambda x: CHANGES['mp3 64 kbit/s'](at_speed(x, 1.05)),
}


# Kinds for which the case `crowd` reports what is found in large corpora.
CROWD_CHANGES = ('mp3 96 kbit/s', 'excerpt of 30 s', 'speed 0.95', 'tempo 1.05', 'pitch +1')


@dataclasses.dataclass
class Library:
  """Fingerprints with the works and the kind of each."""

  prints: list[Fingerprint] = dataclasses.field(default_factory=list)
  works: list[frozenset[str]] = dataclasses.field(default_factory=list)
  kinds: list[str] = dataclasses.field(default_factory=list)

  def add(self, x: np.ndarray, works: set[str], kind: str, rate: int = RATE):
    """Adds a recording that holds these works."""
    self.put(fingerprint(x, rate), works, kind)

  def put(self, made: Fingerprint, works: set[str], kind: str):
    """Adds a fingerprint."""
    self.prints.append(made)
    self.works.append(frozenset(works))
    self.kinds.append(kind)


def works_in(folder: pathlib.Path, number: int, secs: float, seed: int) -> list[tuple[str, str]]:
  """Returns (path, style) of works of all styles; renders what is missing."""
  works = demo_corpus.write_corpus(
    folder, num_works=number, secs_per_work=secs, seed=seed, styles=demo_corpus.STYLES,
    formats=('flac',),
  )  # fmt: skip
  return [(str(folder / work.path), work.style) for work in works]


def read(path: str) -> np.ndarray:
  """Reads a file, float32 [samples, channels]."""
  return soundfile.read(path, dtype='float32', always_2d=True)[0]


def drones(number: int, secs: float = 40.0) -> Iterator[np.ndarray]:
  """Yields held tones, each with its own partials and slow swells: [n, 2] at 11025 Hz."""
  rate = 11_025
  t = np.arange(round(secs * rate), dtype=np.float32) / rate
  slow = np.arange(0, secs, 0.1)
  for seed in range(number):
    rng = np.random.default_rng([1, seed])
    x = np.zeros(len(t), np.float32)
    for root in (55.0, 82.5, 110.0 * 2 ** (int(rng.integers(4)) / 12)):
      for partial in range(1, 17):
        swell = 1 + np.sin(2 * np.pi * rng.uniform(0.02, 0.3) * slow + rng.uniform(0, 7))
        hz = np.float32(2 * np.pi * root * partial * (1 + rng.normal() * 2e-4))
        x += np.interp(t, slow, swell).astype(np.float32) * np.sin(hz * t) * rng.uniform() / partial
    yield np.stack([x, x], axis=1) * 0.05


def loops(number: int, secs: float = 40.0) -> Iterator[np.ndarray]:
  """Yields tracks over one of three drum loops, equal to the sample, each with its own melody.

  The melodies are as loud as the loops, half as loud, and a quarter.
  """
  rate = 11_025
  beat = round(rate * 60 / 120)
  for seed in range(number):
    kit, rng = np.random.default_rng([2, seed % 3]), np.random.default_rng([3, seed])
    bar = np.zeros(4 * beat)
    for place in range(16):
      decay = np.exp(-np.arange(beat) / rate * kit.uniform(10, 60))
      tone = np.sin(2 * np.pi * kit.uniform(60, 400) * np.arange(beat) / rate)
      hit = (tone + kit.normal(size=beat) * kit.uniform(0, 1)) * decay * kit.uniform()
      bar += np.roll(np.pad(hit, (0, 3 * beat)), place * beat // 4)
    x = np.resize(bar, round(secs * rate))
    scale = 220 * 2 ** (np.array([0, 2, 4, 5, 7, 9, 11, 12, 14, 16]) / 12)
    for start in range(0, len(x) - beat, beat // 2):
      hz = rng.choice(scale)
      t = np.arange(beat) / rate
      note = sum(np.sin(2 * np.pi * hz * k * t) / k for k in range(1, 8)) * np.exp(-4 * t)
      x[start : start + beat] += note * 0.5 ** (seed // 3 % 3)
    yield np.stack([x, x], axis=1) * 0.1


def joined_share(one: Fingerprint, other: Fingerprint) -> float:
  """Returns the share of common landmarks if two recordings are joined, else 0."""
  found = same_recordings.same_recordings([one, other])
  return found[0][2].share if found else 0.0


def run_true(library: Library, tracks: list[tuple[str, str]], number: int):
  """Adds the changed tracks; reports how many are joined with their original."""
  for kind, change in CHANGES.items():
    shares = []
    for place, (path, style) in enumerate(tracks[:number]):
      library.add(change(read(path)), {path}, f'{style}, {kind}')
      shares.append(joined_share(library.prints[place], library.prints[-1]))
    report(
      'true', change=kind, tracks=number, joined=sum(share > 0 for share in shares),
      least_share=round(min(shares), 3), median_share=round(statistics.median(shares), 3),
    )  # fmt: skip


def disc_of(paths: list[str]) -> Fingerprint:
  """Returns the fingerprint of songs one after the other."""
  maker = Fingerprinter(RATE)
  for path in paths:
    maker.add(read(path))
  return maker.fingerprint()


PARTS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
  'song': lambda x: x,
  **{f'song, {kind}': CHANGES[kind] for kind in ('mp3 96 kbit/s', 'speed 0.95', 'pitch +1')},
  **{f'excerpt of {secs} s': lambda x, n=secs: excerpt(x, n) for secs in (60, 30, 20, 15, 10)},
  'excerpt of 30 s, mp3 96 kbit/s': lambda x: CHANGES['mp3 96 kbit/s'](excerpt(x)),
}


def run_disc(library: Library, songs: list[tuple[str, str]]):
  """Compares a disc of all songs with the songs and their excerpts, in both directions."""
  paths = [path for path, _ in songs]
  disc = disc_of(paths)
  library.put(disc, set(paths), 'disc')
  shares: dict[str, list[tuple[float, ...]]] = {kind: [] for kind in PARTS}
  for path in paths:
    x = read(path)
    own = fingerprint(x, RATE)
    for kind, change in PARTS.items():
      library.add(change(x), {path}, kind)
      part = library.prints[-1]
      pairs = ((disc, part), (part, disc), (own, part), (part, own))
      shares[kind].append(tuple(joined_share(*pair) for pair in pairs))
  for kind, found in shares.items():
    joined = [sum(share > 0 for share in order) for order in zip(*found, strict=True)]
    report(
      'disc', part=kind, songs=len(songs), joined_with_disc=joined[:2],
      joined_with_song=joined[2:], least_share=round(min(row[0] for row in found), 3),
    )  # fmt: skip
  half = len(paths) // 2
  first, second = paths[:half], [paths[0], *paths[half:]]
  for name, some in (('first', first), ('second', second)):
    library.put(disc_of(some), set(some), f'{name} disc')
  share = joined_share(*library.prints[-2:])
  report('disc', part='two discs with one song in common', joined=int(share > 0), least_share=share)


def run_false(library: Library):
  """Reports joins of recordings that have no work in common."""
  for kind, made in (('drone', drones(40)), ('drum loop', loops(45))):
    for number, x in enumerate(made):
      library.add(x, {f'{kind} {number}'}, kind, 11_025)
  began = time.process_time()
  pairs = same_recordings.same_recordings(library.prints)
  took = time.process_time() - began
  false = [pair for pair in pairs if not library.works[pair[0]] & library.works[pair[1]]]
  number = len(library.prints)
  same = sum(bool(library.works[i] & library.works[j]) for i in range(number) for j in range(i))
  report(
    'false', recordings=number, different_works=len(frozenset().union(*library.works)),
    false_joins=len(false), true_joins=len(pairs) - len(false),
    pairs_of_different_works=number * (number - 1) // 2 - same,
    search_cpu_secs=round(took, 2),
  )  # fmt: skip
  for i, j, match in false[:20]:
    report(
      'false', share=round(match.share, 3), change=match.change, one=library.kinds[i],
      other=library.kinds[j],
    )  # fmt: skip
  _report_nearest(library)


def _report_nearest(library: Library):
  """The largest shares of different works, below what is asked for, by kind of change."""
  nearest: dict[str, tuple[float, int, str, str]] = {}
  for i, j, match in same_recordings.matches(library.prints, 5, 0.0):
    if not library.works[i] & library.works[j] and match.share > nearest.get(match.change, (0,))[0]:
      nearest[match.change] = match.share, match.hits, library.kinds[i], library.kinds[j]
  for change, (share, hits, one, other) in sorted(nearest.items()):
    report(
      'false', nearest=change, share=round(share, 3), hits=hits,
      asked_for=same_recordings.MIN_SHARES[change], one=one, other=other,
    )  # fmt: skip


def run_crowd(library: Library, number: int, changed: int):
  """Reports what is found in a corpus that is up to 64 times as large.

  A landmark that too many recordings have is ignored; that limit is divided instead.
  """
  originals, limit = library.prints[:number], same_recordings.MAX_HOLDERS
  for times in (1, 4, 16, 64):
    same_recordings.MAX_HOLDERS = limit // times
    joined = {}
    for kind in CROWD_CHANGES:
      some = [at for at, name in enumerate(library.kinds[number:], number) if name.endswith(kind)]
      pairs = same_recordings.same_recordings([*originals, *(library.prints[at] for at in some)])
      works = [*library.works[:number], *(library.works[at] for at in some)]
      joined[kind] = sum(bool(works[i] & works[j]) for i, j, _ in pairs)
      joined['false'] = joined.get('false', 0) + len(pairs) - joined[kind]
    telling = same_recordings.telling_share(originals)
    report('crowd', like_tracks=number * times, telling=round(telling, 3), of=changed, **joined)
  same_recordings.MAX_HOLDERS = limit


def run_cost(songs: list[tuple[str, str]], prints: list[Fingerprint]):
  """Reports CPU time and bytes; the fingerprint and the rest of the scan alternate."""
  ratios = []
  for path, _ in songs[:5]:
    began = time.process_time()
    measurement.measure(path, RATE, silence_dbfs=-60.0, mono_side_db=-60.0)
    rest = time.process_time() - began
    x = read(path)
    maker = Fingerprinter(RATE)
    began = time.process_time()
    for begin in range(0, len(x), 20 * RATE):
      maker.add(x[begin : begin + 20 * RATE])
    found = maker.fingerprint()
    ratios.append((time.process_time() - began) / rest)
  minutes = len(x) / RATE / 60
  report(
    'cost', fingerprint_to_rest_of_scan=round(statistics.median(ratios), 2),
    text_bytes_per_minute=round(len(found.encode()) / minutes),
    landmarks_per_minute=round(len(found.hashes) / minutes),
  )  # fmt: skip
  for part in (4, 2, 1):
    some = prints[::part]
    began = time.process_time()
    same_recordings.same_recordings(some)
    took = time.process_time() - began
    report('cost', tracks=len(some), search_cpu_ms_per_track=round(1e3 * took / len(some), 2))


def main():
  parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
  parser.add_argument('--folder', required=True, help='where the works are rendered to')
  parser.add_argument('--cases', nargs='+', choices=CASES, default=list(CASES))
  parser.add_argument('--tracks', type=int, default=510, help='different tracks of 40 s')
  parser.add_argument('--changed', type=int, default=34, help='tracks of which changes are made')
  parser.add_argument('--songs', type=int, default=20, help='songs of 210 s on the disc')
  args = parser.parse_args()
  folder, library = pathlib.Path(args.folder), Library()
  tracks = works_in(folder / 'tracks', args.tracks, 40.0, 71)
  songs = works_in(folder / 'songs', args.songs, 210.0, 72)
  for path, style in tracks:
    library.add(read(path), {path}, style)
  originals = list(library.prints)
  if 'true' in args.cases:
    run_true(library, tracks, args.changed)
  if 'crowd' in args.cases:
    if 'true' not in args.cases:
      parser.error('The case crowd needs the case true.')
    run_crowd(library, len(tracks), args.changed)
  if 'disc' in args.cases:
    run_disc(library, songs)
  if 'false' in args.cases:
    run_false(library)
  if 'cost' in args.cases:
    run_cost(songs, originals)


if __name__ == '__main__':
  main()
