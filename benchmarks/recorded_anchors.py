"""How often the figures of a report order their anchors on recorded music.

    python -m benchmarks.recorded_anchors CATALOG [CATALOG ...]

A catalog is a folder of audio. Of each track two clips of 10 s around the middle are heard, as they
are, in noise at 10 dB, and as white noise of their level. Then reports are drawn: 8 tracks are
music A, 2 others music B, as `prepare.py` splits a catalog of 12. One line of JSON says for each
distance in what share of the draws it puts B, B in noise and white noise in order, and one for
each space of prompts in what share of all pairs of tracks a track's second clip is nearer to its
own first clip than to the other's. A last one says how often the second clip of a track is the
nearest of all to its first one. docs/metrics.md has the figures of four soundtracks.
"""

import argparse
import itertools
import pathlib
from collections.abc import Mapping, Sequence

import numpy as np

from benchmarks.measuring import report
from evaluation import adherence, anchors, distance_stage, distances, embeddings, retrieval
from models.musiccoca import MusicCoCa
from models.musicnn import Musicnn
from models.spec import LiveMusicSpec
from preprocessing import audio as audio_files
from preprocessing import features, measurement
from preprocessing.manifest import find_audio_files

CLIP_SECS = 10.0
ANCHORS = (anchors.CORPUS, anchors.NOISY, anchors.WHITE_NOISE)
NUM_A, NUM_B = 8, 2
SPACES = ('musiccoca', 'musicnn')

# Embedding -> points of a clip [windows, D].
Points = Mapping[str, np.ndarray]
# Anchor -> points of both clips of a track.
Track = Mapping[str, Sequence[Points]]


def hear(path: str, style: MusicCoCa, network: Musicnn, seed: int) -> Track:
  """Both clips of a file and their degradations, in every embedding."""
  rate = LiveMusicSpec().sample_rate
  gain = features.level_gain(*measurement.level(path), features.ClipOptions())
  secs = audio_files.read_header(path).duration_secs
  found: dict[str, list[Points]] = {name: [] for name in ANCHORS}
  for turn in range(2):
    start = max(0.0, secs / 2 - CLIP_SECS + turn * CLIP_SECS)
    audio = audio_files.read_audio(path, rate, start=start, duration=CLIP_SECS) * np.float32(gain)
    noisy = anchors.with_noise(audio, 10.0, seed + turn)
    for name, clip in zip(ANCHORS, (audio, noisy, anchors.noise_like(audio, seed + turn))):
      found[name].append({
        'logmel': embeddings.logmel(clip, rate),
        'chroma': embeddings.chroma(clip, rate),
        'musiccoca': embeddings.musiccoca(clip, rate, style),
        'musicnn': embeddings.musicnn(clip, rate, network),
      })  # fmt: skip
  return found


def ordered_share(
  tracks: Sequence[Track], embedding: str, draws: int, seed: int = 0
) -> dict[str, dict[str, float]]:
  """{'kad', 'coverage': {'ordered': share of draws, and the mean of each anchor}}.

  Kernel distances must rise along the anchors that a report asks of the embedding; coverage, which
  is 0 for both kinds of noise in many cases, must fall from the first to the last.
  """
  asked = [
    ANCHORS.index(name) for name in distance_stage.EMBEDDINGS[embedding][1] if name in ANCHORS
  ]
  rng = np.random.default_rng(seed)
  rows: dict[str, list[list[float]]] = {'kad': [], 'coverage': []}
  for _ in range(draws):
    order = rng.permutation(len(tracks))
    b, a = order[:NUM_B], order[NUM_B : NUM_B + NUM_A]
    reference = np.concatenate([tracks[i][anchors.CORPUS][0][embedding] for i in a])
    width = distances.median_bandwidth(reference)
    sets = [
      np.concatenate([clip[embedding] for i in b for clip in tracks[i][name]]) for name in ANCHORS
    ]
    rows['kad'].append(
      [distances.kernel_distance(points, reference, bandwidth=width) for points in sets]
    )
    rows['coverage'].append([distances.density_coverage(points, reference)[1] for points in sets])
  right = {
    'kad': [bool((np.diff(np.array(row)[asked]) > 0).all()) for row in rows['kad']],
    'coverage': [row[asked[0]] > row[asked[-1]] for row in rows['coverage']],
  }
  return {
    kind: {'ordered': float(np.mean(right[kind])),
           **dict(zip(ANCHORS, np.mean(values, axis=0).round(2).tolist()))}
    for kind, values in rows.items()
  }  # fmt: skip


def ordered_pairs(tracks: Sequence[Track], space: str) -> float:
  """Share of pairs of tracks whose second clips match their own first clips better."""
  first, second = (
    np.stack([track[anchors.CORPUS][turn][space].mean(0) for track in tracks]) for turn in range(2)
  )
  centre = 0 if space == 'musiccoca' else first.mean(0)
  first, second = first - centre, second - centre
  ordered = [
    adherence.match_table({}, first[list(pair)], second[list(pair)])['ordered']
    for pair in itertools.combinations(range(len(tracks)), 2)
  ]
  return float(np.mean(ordered))


def same_track(tracks: Sequence[Track], embedding: str) -> float:
  """Share of tracks whose second clip is the nearest of all to their first one.

  Vectors are means over windows, each figure in standard deviations of all clips; by cosine.
  """
  clips = np.stack([
    [clip[embedding].mean(0) for clip in track[anchors.CORPUS]] for track in tracks
  ])  # fmt: skip
  flat = clips.reshape(-1, clips.shape[-1])
  spread = np.maximum(flat.std(0), 1e-9)
  first, second = ((clips[:, turn] - flat.mean(0)) / spread for turn in range(2))
  return retrieval.recall_at(retrieval.cosines(first, second), 1)


def main():
  parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
  parser.add_argument('catalogs', nargs='+', metavar='CATALOG', help='folder of audio')
  parser.add_argument('--draws', type=int, default=50, help='reports drawn (default 50)')
  parser.add_argument('--style', default='tiny', help='style model (default tiny)')
  args = parser.parse_args()
  style, network = MusicCoCa.load(args.style), Musicnn.load(embeddings.MUSICNN)
  everything: list[Track] = []
  for catalog in args.catalogs:
    paths, _ = find_audio_files(catalog)
    if len(paths) < NUM_A + NUM_B:
      raise SystemExit(f'{catalog} has {len(paths)} tracks; {NUM_A + NUM_B} are needed.')
    tracks = [hear(path, style, network, 2 * number) for number, path in enumerate(paths)]
    everything += tracks
    name = pathlib.Path(catalog).name
    for embedding in tracks[0][anchors.CORPUS][0]:
      for kind, row in ordered_share(tracks, embedding, args.draws).items():
        report(name, tracks=len(tracks), distance=f'{kind}_{embedding}', **row)
    for space in SPACES:
      report(name, prompts=space, ordered=round(ordered_pairs(tracks, space), 3))
  for embedding in everything[0][anchors.CORPUS][0]:
    share = round(same_track(everything, embedding), 3)
    report('all', tracks=len(everything), embedding=embedding, same_track_recall_at_1=share)


if __name__ == '__main__':
  main()
