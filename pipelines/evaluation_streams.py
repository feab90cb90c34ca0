"""Long and live: a stream looked at piece by piece, prompts that turn, chunks against the clock."""

import os
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from evaluation import (
  adherence,
  anchors,
  drift,
  embeddings,
  families,
  identity,
  live_figures,
  metric_table,
)
from evaluation.metric_table import LOWER, Metric
from inference.session import LiveSession, SessionState
from pipelines.checkpoint_sources import Source
from pipelines.clip_store import Made, Sample
from pipelines.evaluation_clips import Bench, Prompt, open_session
from pipelines.evaluation_measures import Measured, Meter
from pipelines.measurements import Measurements

NUM_STEPS, CHUNKS_PER_STEP, CHUNKS_AFTER = 6, 2, 4
MINUTE_SECS, SHORTEST_PIECE_SECS = 60.0, 10.0
STEADY, SINKING = 'music B, clip after clip', 'the same, sinking into noise'
# Decibels by which the planted drift gets noisier from piece to piece.
_SINK_FROM_DB, _SINK_STEP_DB = 40.0, 8.0
# What is looked at along a stream, and whether the planted drift must show in it.
_DRIFTING = {
  'rms_db': False, 'spectral_flatness': True, 'bandwidth_hz': False, 'stereo_correlation': False,
  'pulse_clarity': False, 'key_clarity': False, 'chroma_entropy': False, 'repeated_codes': False,
  'corpus_distance': True,
}  # fmt: skip
Tick = Callable[[], Any]


def piece_secs(stream_secs: float, chunk_secs: float) -> float:
  """A minute for streams of 4 minutes and more; else a sixth, at least 10 s; whole chunks."""
  secs = MINUTE_SECS if stream_secs >= 4 * MINUTE_SECS else stream_secs / 6
  return max(1, round(max(secs, SHORTEST_PIECE_SECS) / chunk_secs)) * chunk_secs


def stream_pieces(bench: Bench, number: int, prompt: Prompt, on_chunk: Tick) -> list[Sample]:
  """One stream of model `number`, a clip for each piece; goes on from the last one that is kept."""
  source, options, spec = bench.sources[number], bench.options, bench.spec
  secs = piece_secs(options.stream_secs, spec.chunk_secs)
  chunks = round(secs / spec.chunk_secs)
  depends = ['stream', bench.weights_hash(source), bench.codec_hash, repr(options.sampling),
             bench.style.content_hash, *prompt.content, options.seed, chunks]  # fmt: skip
  clips: list[Sample] = []
  for place in range(max(3, round(options.stream_secs / secs))):
    before = clips[-1] if clips else None
    clips.append(
      bench.store.take(
        [*depends, place],
        lambda before=before: _next_piece(bench, source, prompt, before, chunks, on_chunk),
        key=f'm{number}_d{place}', column=source.name, kind='model', source='stream',
        track_id=prompt.track_id, title=prompt.label,
      )
    )  # fmt: skip
  return clips


def _next_piece(
  bench: Bench, source: Source, prompt: Prompt, before: Sample | None, chunks: int, on_chunk: Tick
) -> Made:
  session = open_session(source, bench, bench.options.seed)
  session.set_style(np.asarray(prompt.embedding, np.float32))
  if before is not None:
    facts = before.facts['state']
    session.state = SessionState(
      context=np.array(facts['context'], np.int32),
      tail=np.array(facts['tail'], np.float32),
      chunk_index=facts['chunk_index'],
      seed=session.state.seed,
      style=session.state.style,
    )
  audio, codes = _run(session, chunks, on_chunk)
  state = session.state
  facts = {
    'state': {
      'context': state.context.tolist(), 'tail': state.tail.tolist(),
      'chunk_index': state.chunk_index,
    },
    'seed': bench.options.seed,
  }  # fmt: skip
  return Made(audio, codes, facts)


def _run(session: LiveSession, chunks: int, on_chunk: Tick) -> tuple[np.ndarray, np.ndarray]:
  audio, codes = [], []
  for _ in range(chunks):
    audio.append(session.next_chunk())
    codes.append(session.state.context[-session.spec.chunk_frames :])
    on_chunk()
  return np.concatenate(audio), np.concatenate(codes)


def measure_drift(
  bench: Bench,
  meter: Meter,
  streams: dict[str, list[Measured]],
  music: Sequence[Measured],
  store: Measurements,
) -> dict[str, Any]:
  """The `drift` of a report: figures piece by piece, their slopes, and the planted drift.

  Args:
    bench: what clips are made with.
    meter: knows the reference that distances are taken from.
    streams: model -> pieces, 'corpus_distance' included.
    music: clips of B, of which the anchors are made.
    store: keeps what the planted drift measures.
  """
  number = max(len(pieces) for pieces in streams.values())
  secs = piece_secs(bench.options.stream_secs, bench.spec.chunk_secs)
  series = {name: [entry.figures for entry in pieces] for name, pieces in streams.items()}
  series[STEADY] = [music[place % len(music)].figures for place in range(number)]
  series[SINKING] = [
    dict(_sinking(bench, meter, music[place % len(music)], place, store))
    for place in range(number)
  ]
  kinds = {name: 'model' if name in streams else 'anchor' for name in series}
  rows, curves = [], {}
  for key, planted in _DRIFTING.items():
    own = families.metric_of(key)
    curves[key] = {
      name: [row.get(key, float('nan')) for row in pieces] for name, pieces in series.items()
    }
    slopes = {
      name: drift.slope(values, secs / MINUTE_SECS) for name, values in curves[key].items()
    }
    size = {name: [abs(found['slope'])] for name, found in slopes.items()}
    metric = Metric(key, own.label, own.unit, LOWER, (STEADY, SINKING) if planted else ())
    wrong = metric_table.misordered(metric, size, STEADY)
    rows.append({
      'key': key, 'label': own.label, 'unit': own.unit, 'digits': own.digits + 1,
      'slopes': slopes, 'ordered': None if wrong is None else not wrong,
      'wrong': [list(pair) for pair in wrong or ()],
    })  # fmt: skip
  from_start = {
    name: drift.distance_from_start(
      np.stack([entry.points['musiccoca'].mean(0) for entry in pieces])
    )
    for name, pieces in streams.items()
  }
  from_start[STEADY] = drift.distance_from_start(
    np.stack([music[i % len(music)].points['musiccoca'].mean(0) for i in range(number)])
  )
  return {
    'piece_secs': secs, 'num_pieces': number, 'columns': [{'name': n, 'kind': k} for n, k in
    kinds.items()], 'rows': rows, 'curves': curves, 'from_start': from_start,
  }  # fmt: skip


def _sinking(
  bench: Bench, meter: Meter, music: Measured, place: int, store: Measurements
) -> dict[str, float]:
  """Figures of a clip of B in noise that grows with its place; 'corpus_distance' is added."""
  spec = bench.spec

  def run() -> dict[str, Any]:
    audio = music.sample.audio()
    noisy = anchors.with_noise(audio, _SINK_FROM_DB - _SINK_STEP_DB * place, place)
    figures = families.measure(noisy, spec.sample_rate, spec.chunk_samples)
    vector = embeddings.logmel(noisy, spec.sample_rate).mean(0)
    return {'figures': figures, 'logmel': np.round(vector, 6).tolist()}

  found = store.take(['sinking', families.VERSION, music.sample.digest, place], run)
  distance = meter.distance_from_reference(np.array(found['logmel']))
  return {**found['figures'], 'corpus_distance': distance}


def measure_transition(
  bench: Bench, number: int, pair: tuple[Prompt, Prompt], store: Measurements, on_chunk: Tick
) -> dict[str, Any]:
  """A stream that turns from one prompt into another in 6 steps, and jumps back at the end."""
  source, options = bench.sources[number], bench.options

  def run() -> dict[str, Any]:
    session = open_session(source, bench, options.seed)
    asked = adherence.mixed_prompts(pair[0].embedding, pair[1].embedding, NUM_STEPS)
    heard = []
    for style in asked:
      session.set_style(style.astype(np.float32))
      heard.append(_embed(bench, _run(session, CHUNKS_PER_STEP, on_chunk)[0]))
    session.set_style(np.asarray(pair[0].embedding, np.float32))
    after = []
    for _ in range(CHUNKS_AFTER):
      after.append(_embed(bench, _run(session, 1, on_chunk)[0]))
    return curve_of(np.stack(heard), np.stack(after), pair, bench.spec.chunk_secs)

  styles = [prompt.content for prompt in pair]
  depends = ['transition', bench.weights_hash(source), bench.codec_hash,
             bench.style.content_hash, repr(options.sampling), styles, options.seed]  # fmt: skip
  return store.take(depends, run)


def recorded_transition(
  bench: Bench, pair: tuple[Prompt, Prompt], music: Sequence[Measured], store: Measurements
) -> dict[str, Any] | None:
  """The anchor: two recordings faded into each other in the same steps; None without both."""
  by_track = {entry.sample.track_id: entry.sample for entry in reversed(music)}
  samples = [by_track.get(prompt.track_id) for prompt in pair]
  if not all(samples):
    return None
  first, second = samples

  def run() -> dict[str, Any]:
    x, y = first.audio(), second.audio()
    size = CHUNKS_PER_STEP * bench.spec.chunk_samples
    heard = []
    for step, weight in enumerate(adherence.transition_weights(NUM_STEPS)):
      mixed = sum(
        gain * np.take(audio, np.arange(step * size, (step + 1) * size) % len(audio), axis=0)
        for gain, audio in ((np.sqrt(1 - weight), x), (np.sqrt(weight), y))
      )
      heard.append(_embed(bench, mixed))
    step = bench.spec.chunk_samples
    after = [
      _embed(bench, np.take(x, np.arange(i * step, (i + 1) * step) % len(x), axis=0))
      for i in range(CHUNKS_AFTER)
    ]
    return curve_of(np.stack(heard), np.stack(after), pair, bench.spec.chunk_secs)

  styles = [prompt.content for prompt in pair]
  return store.take(
    ['recorded transition', first.digest, second.digest, bench.style.content_hash, styles], run
  )


def curve_of(
  heard: np.ndarray, after: np.ndarray, pair: tuple[Prompt, Prompt], chunk_secs: float
) -> dict[str, Any]:
  """Cosines by step, how far the transition went, and the delay after the jump back."""
  first, second = (np.asarray(prompt.embedding, np.float64) for prompt in pair)
  curve = adherence.transition_curve(heard, first, second)
  back = np.broadcast_to(first, after.shape), np.broadcast_to(second, after.shape)
  delay = live_figures.control_delay(
    adherence.cosine(after, back[1]), adherence.cosine(after, back[0]), chunk_secs
  )
  return {**curve, 'gain': adherence.transition_gain(curve), 'control_delay_secs': delay}


def _embed(bench: Bench, audio: np.ndarray) -> np.ndarray:
  return np.asarray(bench.style.embed_audio(audio, bench.spec.sample_rate), np.float64)


def measure_live(
  bench: Bench, number: int, style: np.ndarray | None, store: Measurements, on_chunk: Tick
) -> dict[str, Any]:
  """Wall times of one session on this machine, once everything is compiled."""
  source, options = bench.sources[number], bench.options

  def run() -> dict[str, Any]:
    session = open_session(source, bench, options.seed)
    session.set_style(style)
    start = time.perf_counter()
    session.next_chunk()
    cold = time.perf_counter() - start
    session.reset()
    seconds = []
    for _ in range(options.num_live_chunks):
      start = time.perf_counter()
      session.next_chunk()
      seconds.append(time.perf_counter() - start)
      on_chunk()
    found = live_figures.latency_figures(seconds, bench.spec.chunk_secs, seconds[0])
    # Other programs on the machine make it slow: say how many wanted the cores.
    busy = os.getloadavg()[0] / (os.cpu_count() or 1) if hasattr(os, 'getloadavg') else None
    return {**found, 'cold_start_secs': cold, 'num_chunks': len(seconds), 'load_per_core': busy}

  depends = ['live', 2, bench.weights_hash(source), bench.codec_hash, identity.hardware(),
             options.num_live_chunks]  # fmt: skip
  return store.take(depends, run)
