"""The part of a report that is heard: music, anchors, what models play, and all its figures."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from evaluation import adherence, anchors, comparisons, families, rhythm, slices
from evaluation.page import Clip
from evaluation.report import Report
from models.spec import LiveMusicSpec
from pipelines import evaluation_clips, evaluation_measures, evaluation_streams
from pipelines.clip_store import Sample
from pipelines.evaluation_clips import Bench, Prompt
from pipelines.evaluation_measures import Measured, Meter
from pipelines.evaluation_memory import MemoryStage, Pair
from pipelines.measurements import Measurements
from preprocessing.audio import AudioError

_MOST_TEMPI = 40
_ANCHORS_HEARD = 4


def listen(report: Report, bench: Bench, store: Measurements, stage: Any):
  """Fills everything of a report that rests on audio.

  Args:
    report: to fill.
    bench: models, data, options.
    store: keeps measurements.
    stage: `evaluation_progress.Stages`.
  """
  meter = Meter(bench, store)
  report.skipped += meter.skipped
  music_a, music_b, origin = evaluation_clips.music_sets(bench.data, bench.options)
  report.music = (
    f'A: {len(music_a)} clips of {origin}; B: {len(music_b)} clips of '
    f'{len({one.track.track_id for one in music_b})} held-out tracks'
  )
  with stage('music and anchors') as bar:
    bar.begin(len(music_a) + (1 + evaluation_clips.NUM_ANCHORS) * len(music_b), 'clip')
    bench.on_clip = bar.update
    reference = evaluation_clips.reference_clips(bench, music_a, anchors.REFERENCE, 'a')
    held_out = evaluation_clips.reference_clips(bench, music_b, anchors.CORPUS, 'b')
    degraded = list(evaluation_clips.anchor_clips(bench, held_out))
    prompts = evaluation_clips.choose_prompts(bench, held_out)
    following = evaluation_clips.next_parts(bench, music_b, held_out, prompts)
  with stage('playing') as bar:
    options = bench.options
    per_model = len(prompts) * options.num_seeds + min(options.num_continuations, len(held_out))
    bar.begin(len(bench.sources) * per_model, 'clip')
    bench.on_clip = bar.update
    played = [
      clip
      for number in range(len(bench.sources))
      for clip in evaluation_clips.played_clips(bench, number, prompts, held_out)
    ]
  with stage('measuring') as bar:
    bar.begin(len(reference) + len(held_out) + len(degraded) + len(played) + len(following),
              'clip')  # fmt: skip
    measured = meter.measure([*reference, *held_out, *degraded, *played], bar.update)
    meter.set_reference(measured)
    meter.add_closeness(measured)
    after = meter.measure(following, bar.update)
    _fill_tables(report, bench, measured, prompts, after, store)
  with stage('streams') as bar:
    of_b = [entry for entry in measured if entry.sample.column == anchors.CORPUS]
    _fill_streams(report, bench, meter, prompts, of_b, store, bar)
  with stage('memorization') as bar:
    pairs = _fill_memory(report, bench, store, bar)
  report.clips = choose_clips(bench, measured, pairs)


def _fill_tables(
  report: Report,
  bench: Bench,
  measured: Sequence[Measured],
  prompts: Sequence[Prompt],
  following: Sequence[Measured],
  store: Measurements,
):
  names = [source.name for source in bench.sources]
  columns = evaluation_measures.columns_of(measured, names)
  seed = bench.options.seed
  report.families = evaluation_measures.family_tables(columns, seed)
  report.distances, skipped = evaluation_measures.distance_tables(
    columns, shrinkage=bench.options.shrinkage, seed=seed
  )
  report.skipped += skipped
  report.adherence = adherence_table(columns, names, prompts, following)
  report.continuity = continuity_table(columns, names)
  codes = {
    name: [entry.sample.codes[:, : bench.spec.context_levels] for entry in entries
           if entry.sample.codes is not None]
    for name, entries in columns.items()
    if name in (*names, anchors.REFERENCE, anchors.CORPUS, anchors.LOOPED, anchors.RANDOM_CODES)
  }  # fmt: skip
  report.code_use = {
    name: comparisons.code_use(known, bench.spec.codebook_size)
    for name, known in codes.items()
    if known
  }
  tags = track_tags(bench, store)
  report.samples = evaluation_measures.sample_rows(measured, tags)
  examples = report.token_losses['examples']
  report.slices = slices.by_slice(examples['coarse'], examples['tracks'], tags, seed=seed)
  if len(names) > 1 and anchors.REFERENCE in columns:
    report.paired = comparisons.compare_models(
      {'tracks': examples['tracks'], 'coarse': examples['coarse'], 'overall': examples['overall']},
      {name: {_place(e.sample): e.figures for e in columns.get(name, ())} for name in names},
      {_place(e.sample): evaluation_measures.track_of(e) for e in columns.get(names[0], ())},
      _means([entry.figures for entry in columns[anchors.REFERENCE]]),
      names[0],
      seed=seed,
    )


def _place(sample: Sample) -> str:
  """'p0_s1' of 'm2_p0_s1': which prompt or recording, whatever the model."""
  return sample.key.split('_', 1)[1]


def _means(rows: Sequence[dict[str, float]]) -> dict[str, float]:
  return {
    key: float(np.mean(known))
    for key in rows[0]
    if (known := [row[key] for row in rows if math.isfinite(row[key])])
  }


def track_tags(bench: Bench, store: Measurements) -> dict[str, dict[str, str]]:
  """Slices of every held-out track; the tempo is estimated, for 40 tracks at most."""
  spec, tags = bench.spec, {}
  for number, track in enumerate(bench.data.tracks()):
    bpm = float('nan')
    if number < _MOST_TEMPI:

      def measure(track: Any = track) -> float:
        audio = bench.data.read_excerpt(track, 0, 20)
        return rhythm.rhythm(audio, spec.sample_rate)['tempo_bpm']

      try:
        bpm = store.take(['tempo', families.VERSION, track.sha256], measure)
      except (AudioError, OSError):
        bpm = float('nan')  # `read_audio` has named the file.
    tags[track.track_id] = slices.track_slices(track.genre, track.vocal, track.tradition, bpm)
  return tags


# Spaces in which outputs are held against prompts, the language model's own first.
_SPACES = {
  'musiccoca': "the style model's space, which the language model was trained on: does it obey its "
               'input?',
  'musicnn': 'the space of a network that has heard recorded music, centred on music A: does it '
             "sound like the track that the prompt describes? A prompt is that track's first clip.",
}  # fmt: skip


def adherence_table(
  columns: dict[str, list[Measured]],
  names: Sequence[str],
  prompts: Sequence[Prompt],
  following: Sequence[Measured],
) -> dict[str, Any] | None:
  """The `adherence` of a report: cosines of outputs to prompts, in every space that can tell.

  Args:
    columns: clips by column.
    names: of the models.
    prompts: what was asked for.
    following: what follows the first clip of B in the tracks of prompts.
  """
  if not prompts:
    return None
  tables = []
  for space, about in _SPACES.items():
    table = _prompts_in(space, columns, names, prompts, following)
    if table is not None:
      tables.append({'space': space, 'about': about, **table})
  chosen = adherence.believed(tables)
  return {
    'num_prompts': len(prompts), 'spaces': tables,
    **{key: chosen[key] for key in ('space', 'rows', 'ordered')},
  }  # fmt: skip


def _prompts_in(
  space: str,
  columns: dict[str, list[Measured]],
  names: Sequence[str],
  prompts: Sequence[Prompt],
  following: Sequence[Measured],
) -> dict[str, Any] | None:
  """The table of one space; None where prompts have no place in it."""
  heard = {e.sample.track_id: e for e in reversed(columns.get(anchors.CORPUS, []))}
  after = {e.sample.track_id: e for e in following}
  centre = np.float64(0)
  if space == 'musiccoca':
    wanted = np.stack([np.asarray(prompt.embedding, np.float64) for prompt in prompts])
    # A text may be held against the clip itself; a sound may not.
    after = {p.track_id: heard.get(p.track_id) for p in prompts if not p.is_sound} | after
  else:
    if not all(prompt.track_id in heard for prompt in prompts):
      return None
    if anchors.REFERENCE in columns:
      centre = np.mean([_place_in(space, e) for e in columns[anchors.REFERENCE]], axis=0)
    wanted = np.stack([_place_in(space, heard[prompt.track_id]) for prompt in prompts]) - centre
  described = [after.get(prompt.track_id) for prompt in prompts]
  recordings = None
  if all(described):
    recordings = np.stack([_place_in(space, entry) for entry in described]) - centre
  played = {}
  for name in names:
    own = [
      [_place_in(space, e) for e in columns.get(name, ())
       if e.sample.source == 'prompt' and e.sample.title == prompt.label]
      for prompt in prompts
    ]  # fmt: skip
    if all(own):
      played[name] = np.stack([np.mean(vectors, axis=0) for vectors in own]) - centre
  return adherence.match_table(played, wanted, recordings)


def _place_in(space: str, entry: Measured) -> np.ndarray:
  return entry.points[space].mean(0)


def continuity_table(
  columns: dict[str, list[Measured]], names: Sequence[str]
) -> dict[str, Any] | None:
  """How continuations keep tempo and key, beside the recording itself and another track."""
  music = columns.get(anchors.CORPUS, [])
  first = {e.sample.track_id: e for e in reversed(music)}
  rows = []
  for name in names:
    own = [
      (first[e.sample.track_id].figures, e.figures)
      for e in columns.get(name, [])
      if e.sample.source == 'continuation' and e.sample.track_id in first
    ]
    if own:
      rows.append({'name': name, 'kind': 'model', **comparisons.continuity(own)})
  real = [
    (first[e.sample.track_id].figures, e.figures)
    for e in music
    if e is not first[e.sample.track_id]
  ]
  entries = list(first.values())
  other = [(a.figures, b.figures) for a, b in zip(entries, entries[1:] + entries[:1])]
  if not rows or not real or len(entries) < 2:
    return {'rows': rows, 'ordered': None} if rows else None
  rows.append({'name': 'the recording itself', 'kind': 'anchor', **comparisons.continuity(real)})
  rows.append({'name': 'another track', 'kind': 'anchor', **comparisons.continuity(other)})
  ordered = rows[-2]['key_score'] > rows[-1]['key_score']
  return {'rows': rows, 'ordered': bool(ordered)}


def _fill_streams(
  report: Report,
  bench: Bench,
  meter: Meter,
  prompts: Sequence[Prompt],
  music: Sequence[Measured],
  store: Measurements,
  bar: Any,
):
  options, spec = bench.options, bench.spec
  pairs = list(zip(prompts, prompts[1:]))[: options.num_transitions]
  turning = (evaluation_streams.NUM_STEPS * evaluation_streams.CHUNKS_PER_STEP
             + evaluation_streams.CHUNKS_AFTER) * len(pairs)  # fmt: skip
  chunks = turning + options.num_live_chunks
  if prompts:
    chunks += round(options.stream_secs / spec.chunk_secs)
  bar.begin(len(bench.sources) * chunks, 'chunk')
  style = np.asarray(prompts[0].embedding, np.float32) if prompts else None
  if options.num_live_chunks:
    report.live = [
      {'name': source.name, 'chunk_audio_secs': spec.chunk_secs,
       **evaluation_streams.measure_live(bench, number, style, store, bar.update)}
      for number, source in enumerate(bench.sources)
    ]  # fmt: skip
  if pairs:
    report.transitions = _transitions(bench, pairs, music, store, bar)
  else:
    _skip(report, 'Prompt transitions', 'fewer than two prompts, or none asked for')
  if not (options.stream_secs and prompts and music):
    _skip(report, 'Drift of a long stream', 'stream_secs is 0, or there is no prompt or music')
    return
  streams = {}
  for number, source in enumerate(bench.sources):
    pieces = evaluation_streams.stream_pieces(bench, number, prompts[0], bar.update)
    streams[source.name] = meter.measure(pieces, lambda: None)
    meter.add_closeness(streams[source.name])
  report.drift = evaluation_streams.measure_drift(bench, meter, streams, music, store)


def _transitions(
  bench: Bench, pairs: Sequence[tuple[Prompt, Prompt]], music: Sequence[Measured],
  store: Measurements, bar: Any,
) -> dict[str, Any]:
  found = []
  for pair in pairs:
    curves = {
      source.name: {
        'kind': 'model',
        **evaluation_streams.measure_transition(bench, number, pair, store, bar.update),
      }
      for number, source in enumerate(bench.sources)
    }
    recorded = evaluation_streams.recorded_transition(bench, pair, music, store)
    if recorded is not None:
      curves['two recordings, faded'] = {'kind': 'anchor', **recorded}
    found.append({'first': pair[0].label, 'second': pair[1].label, 'curves': curves})
  return {
    'pairs': found,
    'step_secs': evaluation_streams.CHUNKS_PER_STEP * bench.spec.chunk_secs,
    'num_steps': evaluation_streams.NUM_STEPS,
    'piece_secs': bench.spec.chunk_secs,
  }


def _fill_memory(report: Report, bench: Bench, store: Measurements, bar: Any) -> list[Pair]:
  if not bench.options.num_memory_probes:
    _skip(report, 'Memorization', 'num_memory_probes is 0')
    return []
  stage = MemoryStage(bench, store)
  bar.begin(len(bench.sources) * stage.num_chunks, 'chunk')
  report.memorization, pairs = stage.measure(bar.update)
  return pairs


def _skip(report: Report, what: str, why: str):
  report.skipped.append({'what': what, 'why': why})


def choose_clips(
  bench: Bench, measured: Sequence[Measured], pairs: Sequence[Pair]
) -> list[Clip]:
  """What the page plays: of each model the best, median and worst clip and its continuations; of
  each kind of anchor one; the pairs that look most like memory.
  """
  spec, clips = bench.spec, []
  for source in bench.sources:
    own = [entry for entry in measured if entry.sample.column == source.name]
    ranked = sorted(own, key=lambda entry: entry.figures.get('corpus_distance', 0))
    marks = {len(ranked) - 1: 'worst', len(ranked) // 2: 'median', 0: 'best'}
    for place, mark in sorted(marks.items()) if ranked else ():
      clips.append(_clip(ranked[place], source.name, f'{mark} by distance from music A', spec))
    heard = {clip.key for clip in clips}
    for entry in own:
      if entry.sample.source == 'continuation' and entry.sample.key not in heard:
        clips.append(_clip(entry, source.name, 'goes on from a recording', spec))
  music = [entry for entry in measured if entry.sample.column == anchors.CORPUS]
  for entry in music[:_ANCHORS_HEARD]:
    clips.append(_clip(entry, anchors.CORPUS, 'recording', spec))
  seen = set()
  for entry in measured:
    column = entry.sample.column
    known = (anchors.REFERENCE, anchors.CORPUS, *[source.name for source in bench.sources])
    if column not in known and column not in seen:
      seen.add(column)
      clips.append(_clip(entry, 'Anchors', column, spec))
  for number, pair in enumerate(pairs):
    group = f'Most like the training music: {pair.name}'
    said = f'a run of {pair.run} coarse tokens, {100 * pair.share:.0f} % in one place'
    for letter, title, codes in (('p', 'played', pair.codes), ('t', 'training music', pair.found)):
      audio = np.asarray(bench.codec.decode(codes), np.float32)
      caption = f'{said}; track {pair.track_id}'
      clips.append(Clip(f'z{number}_{letter}', group, f'{title}, pair {number + 1}', caption, audio,
                        spec.sample_rate))  # fmt: skip
  return clips


def _clip(entry: Measured, group: str, mark: str, spec: LiveMusicSpec) -> Clip:
  sample = entry.sample
  is_played = sample.kind == 'model'
  title = f'{mark}' if group != anchors.CORPUS else sample.title
  return Clip(
    key=sample.key,
    group=group,
    title=title,
    caption=sample.title if group != anchors.CORPUS else mark,
    audio=sample.audio(),
    sample_rate=spec.sample_rate,
    given_secs=sample.given_samples / spec.sample_rate,
    chunk_secs=spec.chunk_secs if is_played else 0,
    figures=entry.figures,
  )
