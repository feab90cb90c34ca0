"""Do the metrics see what was planted? Sets of known order, composed and made worse on purpose.

    python -m benchmarks.truth                    # a table in Markdown, as in docs/metrics.md
    python -m benchmarks.truth --num_works=12     # fewer works, faster

Every case says what was planted, which way each metric must move, what it measured, and whether it
moved that way. The music is composed by the program, so tempo and key are known, not estimated.
"""

import argparse
import dataclasses
import sys
from collections.abc import Iterator, Sequence

import numpy as np

from evaluation import (
  adherence,
  anchors,
  comparisons,
  distances,
  drift,
  embeddings,
  families,
  memorization,
  repetition,
  rhythm,
  signal_health,
  token_losses,
  tonality,
)
from evaluation.excerpts import TokenRecord
from models.spec import LiveMusicSpec
from preprocessing import composer, synthesizer

SPEC = LiveMusicSpec()
RATE = SPEC.sample_rate
# Styles with a beat and harmony; a drone has neither to be found.
STYLES = (
  'house', 'rock', 'folk', 'synthwave', 'reggae', 'chiptune', 'lullaby', 'bossa nova',
)  # fmt: skip
FIRST_SEED = 90_000  # No work of the bundled models' corpora.
CLEAN, MILD, STRONG = 'clean', 'mild', 'strong'
_SNR = {MILD: 20.0, STRONG: 10.0}
_KEYS = ('major', 'minor', 'harmonic minor')


@dataclasses.dataclass(frozen=True)
class Outcome:
  """One line of the table.

  Attributes:
    case: what was planted.
    metric: what looked.
    must: how it must move.
    measured: figures in words.
    holds: whether it did.
  """

  case: str
  metric: str
  must: str
  measured: str
  holds: bool


@dataclasses.dataclass(frozen=True)
class Work:
  """A composed work with what is known of it; `audio` float32 [samples, 2]."""

  audio: np.ndarray
  bpm: int
  key: int


def works(number: int, secs: float = 12.0) -> list[Work]:
  """Works of different styles and tempi, in major or minor keys."""
  made: list[Work] = []
  seed = FIRST_SEED
  while len(made) < number:
    score = composer.compose(STYLES[len(made) % len(STYLES)], seed, secs)
    seed += 1
    if score.mode in _KEYS:
      key = score.tonic + 12 * (score.mode != 'major')
      made.append(Work(synthesizer.render(score, RATE), score.bpm, key))
  return made


def noisy(audio: np.ndarray, name: str, seed: int) -> np.ndarray:
  """`CLEAN`, `MILD` or `STRONG`."""
  return audio if name == CLEAN else anchors.with_noise(audio, _SNR[name], seed)


def rising(values: Sequence[float]) -> bool:
  """Whether each is above the one before it."""
  return all(a < b for a, b in zip(values, values[1:]))


def _listed(values: Sequence[float], digits: int = 3) -> str:
  return ' < '.join(f'{value:.{digits}f}' for value in values)


def degradation(music: Sequence[Work]) -> Iterator[Outcome]:
  """Clean music, noise 20 dB and 10 dB below it: each must be farther from other clean music."""
  half = len(music) // 2
  reference, tested = music[:half], music[half:]
  names = (CLEAN, MILD, STRONG)
  sounds = {
    name: [noisy(work.audio, name, place) for place, work in enumerate(tested)] for name in names
  }
  noise = [anchors.noise_like(work.audio, place) for place, work in enumerate(tested)]
  case = 'noise: clean, 20 dB, 10 dB'
  logmel_case = embeddings.logmel, case, [sounds[name] for name in names]
  # Chroma looks at spectral peaks, which a little noise leaves alone.
  chroma_case = embeddings.chroma, 'clean, noise 10 dB, white noise', [
    sounds[CLEAN], sounds[STRONG], noise
  ]  # fmt: skip
  for embedding, own_case, sets in (logmel_case, chroma_case):
    far = np.concatenate([embedding(work.audio, RATE) for work in reference])
    points = [np.concatenate([embedding(audio, RATE) for audio in own]) for own in sets]
    for title, distance in (('fd', distances.frechet_distance), ('kad', distances.kernel_distance)):
      values = [distance(x, far) for x in points]
      yield Outcome(own_case, f'{title}_{embedding.__name__}', 'rises', _listed(values, 2),
                    rising(values))  # fmt: skip
  vectors = np.stack([embeddings.logmel(work.audio, RATE).mean(0) for work in reference])
  for key, find in (
    ('corpus_distance', lambda audio: families.corpus_distances(
      {'': embeddings.logmel(audio, RATE).mean(0)}, vectors)['']),
    ('spectral_flatness', signal_health.spectral_flatness),
    ('bandwidth_hz', lambda audio: signal_health.bandwidth_hz(audio, RATE)),
    ('chroma_entropy', lambda audio: tonality.tonality(audio, RATE)['chroma_entropy']),
  ):  # fmt: skip
    values = [float(np.mean([find(audio) for audio in sounds[name]])) for name in names]
    yield Outcome(case, key, 'rises', _listed(values), rising(values))
  for key, find in (('pulse_clarity', rhythm.rhythm), ('key_clarity', tonality.tonality)):
    values = [np.nanmean([find(audio, RATE)[key] for audio in own])
              for own in (noise, sounds[CLEAN])]  # fmt: skip
    yield Outcome('white noise, music', key, 'rises', _listed(values), rising(values))


def tempo_and_key(music: Sequence[Work]) -> Iterator[Outcome]:
  """Composed tempo and key against what is estimated."""
  case = f'tempo and key of {len(music)} composed works'
  tempi = [rhythm.rhythm(work.audio, RATE)['tempo_bpm'] for work in music]
  for must, octaves, least in (('within 4 %', (1.0,), 0.5),
                               ('within 4 %, octaves allowed', rhythm.OCTAVES, 0.8)):  # fmt: skip
    right = np.mean([rhythm.tempo_error(t, w.bpm, octaves) <= 0.04 for t, w in zip(tempi, music)])
    yield Outcome(case, 'tempo_bpm', must, f'{100 * right:.0f} %', bool(right >= least))
  keys = [int(tonality.tonality(work.audio, RATE)['key']) for work in music]
  score = float(np.mean([tonality.key_score(k, work.key) for k, work in zip(keys, music)]))
  chance = float(np.mean([tonality.key_score(k, w.key) for k in range(24) for w in music]))
  right = np.mean([k == work.key for k, work in zip(keys, music)])
  said = f'score {score:.2f} (chance {chance:.2f}), right {right:.0%}'
  yield Outcome(case, 'key', 'far above chance', said, score > chance + 0.3)


def loops(music: Sequence[Work]) -> Iterator[Outcome]:
  """Two seconds of each work over and over, at a lag that is known."""
  clean = [repetition.repetition(work.audio, RATE) for work in music]
  looped = [
    repetition.repetition(anchors.looped(work.audio, SPEC.chunk_samples), RATE) for work in music
  ]
  values = [float(np.mean([row['repeat_similarity'] for row in rows])) for rows in (clean, looped)]
  yield Outcome('planted loops of 2 s', 'repeat_similarity', 'rises', _listed(values),
                rising(values))  # fmt: skip
  share = np.mean([row['repeat_lag_secs'] % SPEC.chunk_secs == 0 for row in looped])
  yield Outcome('planted loops of 2 s', 'repeat_lag_secs', 'a multiple of 2 s', f'{share:.0%}',
                bool(share >= 0.9))  # fmt: skip
  rng = np.random.default_rng(0)
  codes = rng.integers(0, SPEC.codebook_size, [250, 4])
  values = [
    repetition.repeated_share(codes),
    repetition.repeated_share(anchors.looped(codes, SPEC.chunk_frames)),
  ]
  yield Outcome('planted loops of tokens', 'repeated_codes', 'rises', _listed(values),
                rising(values))  # fmt: skip


def seams(music: Sequence[Work]) -> Iterator[Outcome]:
  """Chunks in another order: a seam every 2 s that was not there."""
  for key, find in (('seam_jump', signal_health.seam_jump), ('seam_flux', signal_health.seam_flux)):
    values = [
      float(np.mean([find(audio, RATE, SPEC.chunk_samples) for audio in sounds]))
      for sounds in (
        [work.audio for work in music],
        [anchors.shuffled_chunks(work.audio, SPEC.chunk_samples, 0) for work in music],
      )
    ]
    yield Outcome('shuffled chunks', key, 'rises', _listed(values, 2), rising(values))


def damage(music: Sequence[Work]) -> Iterator[Outcome]:
  """Too loud, with gaps and a constant."""
  pairs = [(w.audio, anchors.damaged(w.audio, RATE, SPEC.chunk_samples)) for w in music]
  for key, find in (
    ('clipped_share', signal_health.clipped_share),
    ('silence_share', lambda audio: signal_health.silence_share(audio, RATE)),
    ('dc_offset', signal_health.dc_offset),
    ('true_peak_db', signal_health.true_peak_db),
  ):
    values = [float(np.mean([find(pair[i]) for pair in pairs])) for i in range(2)]
    yield Outcome('overdriven, with gaps', key, 'rises', _listed(values), rising(values))


def drifting(music: Sequence[Work]) -> Iterator[Outcome]:
  """Six pieces that sink into noise, against six that do not."""
  steady = [music[place % len(music)].audio for place in range(6)]
  sinking = [anchors.with_noise(x, 40 - 8 * place, place) for place, x in enumerate(steady)]
  vectors = np.stack([embeddings.logmel(work.audio, RATE).mean(0) for work in music])
  for key, find in (
    ('spectral_flatness', signal_health.spectral_flatness),
    ('corpus_distance', lambda audio: families.corpus_distances(
      {'': embeddings.logmel(audio, RATE).mean(0)}, vectors)['']),
  ):  # fmt: skip
    slopes = [drift.slope([find(audio) for audio in pieces]) for pieces in (steady, sinking)]
    values = [abs(found['slope']) for found in slopes]
    said = f'{_listed(values)} a piece, p {slopes[0]["p"]:.2f} and {slopes[1]["p"]:.3f}'
    yield Outcome('planted drift', f'slope of {key}', 'rises', said, rising(values))


def collapse(music: Sequence[Work]) -> Iterator[Outcome]:
  """One work, again and again, instead of many."""
  half = len(music) // 2
  points = [embeddings.logmel(work.audio, RATE) for work in music]
  reference, whole = np.concatenate(points[:half]), np.concatenate(points[half:])
  # The work that is most typical, so that it is no distance in itself.
  middle = min(points[half:], key=lambda own: distances.kernel_distance(own, reference))
  one = np.concatenate([middle] * len(points[half:]))
  values = [distances.density_coverage(x, reference)[1] for x in (one, whole)]
  yield Outcome('mode collapse', 'coverage_logmel', 'falls', _listed(values), rising(values))
  rng = np.random.default_rng(0)
  codes = [rng.integers(0, SPEC.codebook_size, [250, 4]) for _ in range(4)]
  used = [comparisons.code_use(x, SPEC.codebook_size)['perplexity'][0]
          for x in ([codes[0][:25]] * 40, codes)]  # fmt: skip
  yield Outcome('mode collapse', 'perplexity of codes', 'falls', _listed(used, 0), rising(used))


def copies(num_copies: int = 5, num_others: int = 45) -> Iterator[Outcome]:
  """Continuations that are copied from training, some with every tenth token changed."""
  rng = np.random.default_rng(0)
  draw = rng.integers(0, SPEC.codebook_size, [12, 500, SPEC.context_levels])
  records = [
    TokenRecord(f't{place}', codes.astype(np.int32), np.zeros([2, SPEC.style_rvq_levels], np.int32))
    for place, codes in enumerate(draw)
  ]
  index = memorization.CatalogIndex.of(records, SPEC.context_levels)
  played, planted = [], []
  for place in range(num_copies):
    start = int(rng.integers(0, 500 - SPEC.chunk_frames))
    chunk = draw[place][start : start + SPEC.chunk_frames].copy()
    if place % 2:
      chunk[rng.random(chunk.shape) < 0.1] = 0
    planted.append((f't{place}', start))
    played.append(chunk)
  shape = [num_others, SPEC.chunk_frames, SPEC.context_levels]
  played += list(rng.integers(0, SPEC.codebook_size, shape))
  rows = [
    memorization.Continuation(
      memorization.Probe(place, f'p{place}', 250, draw[0][:250], np.zeros(12, np.int32)), 10.0,
      memorization.SAMPLED, codes, memorization.find(np.asarray(codes, np.int32), index),
    )
    for place, codes in enumerate(played)
  ]  # fmt: skip
  top = memorization.top_pairs(rows, num_copies)
  first = [row.probe.record for row in top]
  right = sorted(first) == list(range(num_copies))
  found = [index.where(row.match.share_frame) for row in top]
  places = all(
    (track, frame) == planted[row.probe.record]
    for row, (track, _, frame) in zip(top, found)
    if row.probe.record < num_copies
  )
  yield Outcome(
    f'{num_copies} planted copies among {len(rows)}', 'longest run', 'copies on top of the list',
    f'places {sorted(rows.index(row) + 1 for row in top)} of {len(rows)}', right,
  )  # fmt: skip
  yield Outcome(f'{num_copies} planted copies among {len(rows)}', 'place in the training music',
                'found', 'all' if places else 'not all', places)  # fmt: skip


def obedience() -> Iterator[Outcome]:
  """Embeddings that follow their prompts, half-way, and those of the next prompt."""
  rng = np.random.default_rng(0)
  prompts, noise = rng.normal(size=[8, 64]), rng.normal(size=[8, 64])
  outputs = (np.roll(prompts, 1, 0), noise, prompts + 2 * noise, prompts + 0.2 * noise)
  values = [adherence.prompt_match(x, prompts)['margin'] for x in outputs]
  yield Outcome("the next one's prompt, none, weak, strong", 'prompt margin', 'rises',
                _listed(values, 2), rising(values))  # fmt: skip
  steps = adherence.mixed_prompts(prompts[0], prompts[1], 6)
  still = np.broadcast_to(prompts[2], steps.shape)
  values = [
    adherence.transition_gain(adherence.transition_curve(x, prompts[0], prompts[1]))
    for x in (still, 0.5 * still + 0.5 * steps, steps)
  ]
  yield Outcome('deaf, half-obedient, obedient', 'transition gain', 'rises', _listed(values, 2),
                rising(values))  # fmt: skip


def losses() -> Iterator[Outcome]:
  """A table that knows the true frequencies, one from few frames, an even one."""
  rng = np.random.default_rng(0)
  p = rng.dirichlet(np.full(64, 0.3))
  train, test = (rng.choice(64, size=[n, 1], p=p) for n in (20_000, 5_000))
  tables = [token_losses.unigram_log_probs(token_losses.count_codes(train[:n], 64))
            for n in (20_000, 60, 0)]  # fmt: skip
  values = [-token_losses.score_unigram(t, test[None])[0].mean() for t in tables]
  holds = rising(values) and abs(values[-1] - np.log(64)) < 1e-9
  yield Outcome('much, little, no training', 'token loss', 'rises to ln 64 = 4.159',
                _listed(values), holds)  # fmt: skip


WITH_MUSIC = (degradation, tempo_and_key, loops, seams, damage, drifting, collapse)
WITHOUT = (copies, obedience, losses)
CASES = {case.__name__: case for case in (*WITH_MUSIC, *WITHOUT)}


def run(num_works: int, names: Sequence[str] = tuple(CASES)) -> Iterator[Outcome]:
  """The cases of those names."""
  music = works(num_works) if any(CASES[name] in WITH_MUSIC for name in names) else []
  for name in names:
    case = CASES[name]
    yield from case(music) if case in WITH_MUSIC else case()


def main(argv: Sequence[str] | None = None) -> int:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--num_works', type=int, default=32)
  parser.add_argument('--cases', nargs='+', choices=CASES, default=list(CASES))
  options = parser.parse_args(argv)
  print('| planted | metric | must | measured | holds |\n|---|---|---|---|---|')
  failed = 0
  for outcome in run(options.num_works, options.cases):
    failed += not outcome.holds
    print(f'| {outcome.case} | `{outcome.metric}` | {outcome.must} | {outcome.measured} | '
          f'{"yes" if outcome.holds else "**no**"} |', flush=True)  # fmt: skip
  return failed


if __name__ == '__main__':
  sys.exit(main())
