"""The part of an evaluation that is heard: generated audio, its references, its signal figures."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
from tqdm import tqdm

from evaluation import adherence, anchors, signal_health, verdicts
from evaluation.report import Clip, Report
from inference import LiveSession
from models.spec import LiveMusicSpec
from pipelines.checkpoint_sources import Source
from pipelines.generate import Generation, generate_audio, num_chunks
from pipelines.prepared_data import HeldOutAudio


@dataclasses.dataclass(frozen=True)
class Listening:
  """What all generations share; `options` are `pipelines.evaluate.EvaluationOptions`."""

  sources: Sequence[Source]
  codec: Any
  style: Any
  spec: LiveMusicSpec
  options: Any


@dataclasses.dataclass(frozen=True)
class Prompt:
  """A style to generate in: what the reader sees, and its embedding [style_dim]."""

  label: str
  embedding: np.ndarray


def listen(
  report: Report,
  listening: Listening,
  held_out: Sequence[HeldOutAudio],
  decoded: Sequence[np.ndarray],
):
  """Generates with every model and fills the report's clips, health, adherence and speed.

  Args:
    report: to fill.
    listening: models and options.
    held_out: recordings of the held-out split.
    decoded: their reconstructions at `target_levels`.
  """
  options, spec = listening.options, listening.spec
  prompts = choose_prompts(listening, held_out)
  continued = held_out[: options.num_continuations]
  total = len(listening.sources) * (len(prompts) + len(continued))
  columns: dict[str, list[dict[str, float]]] = {}
  outputs: dict[str, list[np.ndarray]] = {}
  with tqdm(total=total * num_chunks(options.num_audio_secs, spec), desc='generate') as bar:
    for number, source in enumerate(listening.sources):
      session, runs = _session(source, listening), []
      for index, prompt in enumerate(prompts):
        run = _generate(session, prompt.embedding, listening, bar)
        group, caption = f'Prompt: {prompt.label}', 'generated from the prompt alone'
        report.clips.append(
          _clip(f'm{number}_p{index}', group, source.name, caption, run, listening)
        )
        outputs.setdefault(source.name, []).append(run.audio)
        runs.append(run)
      for index, recording in enumerate(continued):
        run = _continue(session, recording, listening, bar)
        group = f'Going on from {recording.title}'
        caption = f'{run.given_secs:.1f} s of it given, then generated'
        report.clips.append(
          _clip(f'm{number}_c{index}', group, source.name, caption, run, listening)
        )
        runs.append(run)
      columns[source.name] = [clip.figures for clip in report.clips if clip.title == source.name]
      report.speed += _speed(source.name, runs)
  report.clips.sort(key=lambda clip: (not clip.group.startswith('Prompt'), clip.group))
  _references(report, listening, held_out, decoded, columns)
  _degraded(listening, held_out, columns)
  report.health = {
    'columns': [
      {'name': name, 'num_clips': len(figures), 'figures': _mean(figures)}
      for name, figures in columns.items()
    ],
    'models': [source.name for source in listening.sources],
  }
  report.adherence = _adherence(prompts, outputs, held_out, listening)


def choose_prompts(listening: Listening, held_out: Sequence[HeldOutAudio]) -> list[Prompt]:
  """The texts asked for; without any, distinct captions of held-out tracks, or their sound."""
  options, style = listening.options, listening.style
  texts = list(options.prompts)
  if not texts:
    captions = dict.fromkeys(recording.caption for recording in held_out if recording.caption)
    texts = list(captions)[: options.num_prompts]
  if texts:
    return [Prompt(text, vector) for text, vector in zip(texts, style.embed_text(texts))]
  rate = listening.spec.sample_rate
  return [
    Prompt(f'the sound of {recording.title}', style.embed_audio(recording.audio, rate))
    for recording in held_out[: options.num_prompts]
  ]


def _session(source: Source, listening: Listening) -> LiveSession:
  sampling = listening.options.sampling
  return LiveSession(
    source.bundle,
    listening.codec,
    listening.style,
    temperature=sampling.temperature,
    top_k=sampling.top_k,
    guidance_weight=sampling.guidance_weight,
    seed=listening.options.seed,
  )


def _generate(
  session: LiveSession,
  embedding: np.ndarray,
  listening: Listening,
  bar: tqdm,
  continue_from: np.ndarray | None = None,
) -> Generation:
  return generate_audio(
    session,
    np.asarray(embedding, np.float32),
    listening.options.num_audio_secs,
    continue_from=continue_from,
    on_chunk=bar.update,
  )


def _continue(
  session: LiveSession, recording: HeldOutAudio, listening: Listening, bar: tqdm
) -> Generation:
  """Goes on from a held-out recording, in its own style."""
  embedding = listening.style.embed_audio(recording.audio, listening.spec.sample_rate)
  return _generate(session, embedding, listening, bar, recording.audio)


def _clip(
  key: str, group: str, title: str, caption: str, run: Generation, listening: Listening
) -> Clip:
  spec = listening.spec
  generated = run.audio[round(run.given_secs * spec.sample_rate) :]
  return Clip(
    key=key,
    group=group,
    title=title,
    caption=caption,
    audio=run.audio,
    sample_rate=spec.sample_rate,
    given_secs=run.given_secs,
    chunk_secs=spec.chunk_secs,
    figures=signal_health.health(generated, spec.sample_rate, spec.chunk_samples),
  )


def _references(
  report: Report,
  listening: Listening,
  held_out: Sequence[HeldOutAudio],
  decoded: Sequence[np.ndarray],
  columns: dict[str, list[dict[str, float]]],
):
  spec = listening.spec
  codec_name = f'codec, {spec.target_levels} levels'
  for index, recording in enumerate(held_out):
    versions = [('o', 'original', recording.caption, verdicts.CORPUS, recording.audio)]
    if index < len(decoded):
      about = 'the best that a model of these levels can sound'
      versions.append(('d', codec_name, about, codec_name, decoded[index]))
    for letter, title, caption, column, audio in versions:
      figures = signal_health.health(audio, spec.sample_rate, spec.chunk_samples)
      columns.setdefault(column, []).append(figures)
      report.clips.append(
        Clip(
          key=f'r{index}_{letter}',
          group=f'Reference: {recording.title}',
          title=title,
          caption=caption,
          audio=audio,
          sample_rate=spec.sample_rate,
          figures=figures,
        )
      )


def _degraded(
  listening: Listening,
  held_out: Sequence[HeldOutAudio],
  columns: dict[str, list[dict[str, float]]],
):
  """Anchors that are not heard: codes drawn at random, and noise at the corpus's level."""
  spec, seed = listening.spec, listening.options.seed
  frames = round(listening.options.num_audio_secs * spec.frame_rate)
  random = listening.codec.decode(anchors.random_codes(frames, spec, seed))
  measured = {verdicts.RANDOM_CODES: [np.asarray(random, np.float32)]}
  measured[verdicts.WHITE_NOISE] = [
    anchors.noise_like(recording.audio, seed) for recording in held_out
  ]
  for name, recordings in measured.items():
    for audio in recordings:
      columns.setdefault(name, []).append(
        signal_health.health(audio, spec.sample_rate, spec.chunk_samples)
      )


def _mean(rows: Sequence[dict[str, float]]) -> dict[str, float]:
  """Mean of each figure over rows, NaN left out."""
  means = {}
  for name in rows[0]:
    values = np.array([row[name] for row in rows], np.float64)
    known = values[~np.isnan(values)]
    means[name] = float(known.mean()) if len(known) else float('nan')
  return means


def _speed(name: str, runs: Sequence[Generation]) -> list[list[str]]:
  """Real-time factor and chunk times, without the first chunk of all (it compiles)."""
  seconds = [secs for run in runs for secs in run.chunk_secs]
  if not seconds:
    return []
  first, rest = seconds[0], seconds[1:] or seconds
  chunk = runs[0].chunk_audio_secs
  median, slow = np.quantile(rest, [0.5, 0.95])
  return [
    [f'Generating with {name}', f'{chunk / median:.2f} times real time (median chunk)'],
    [
      f'Chunks of {name}',
      f'{chunk:g} s of audio in {median:.2f} s (median), {slow:.2f} s (95 %); the first took '
      f'{first:.1f} s with compilation',
    ],
  ]


def _adherence(
  prompts: Sequence[Prompt],
  outputs: dict[str, list[np.ndarray]],
  held_out: Sequence[HeldOutAudio],
  listening: Listening,
) -> dict[str, Any] | None:
  if not prompts:
    return None
  rate = listening.spec.sample_rate

  def heard(recordings: Sequence[np.ndarray]) -> np.ndarray:
    return np.stack([listening.style.embed_audio(audio, rate) for audio in recordings])

  wanted = np.stack([prompt.embedding for prompt in prompts])
  rows = [
    {'name': name, 'kind': 'model', **adherence.prompt_match(heard(recordings), wanted)}
    for name, recordings in outputs.items()
  ]
  by_caption = {recording.caption: recording for recording in held_out}
  matching = [by_caption.get(prompt.label) for prompt in prompts]
  if all(matching):
    described = heard([recording.audio for recording in matching])
    name = 'the recordings that the prompts describe'
    rows.append({'name': name, 'kind': 'anchor', **adherence.prompt_match(described, wanted)})
    if len(matching) > 1:
      swapped = {'name': 'the same, one prompt on', 'kind': 'anchor'}
      rows.append(swapped | adherence.prompt_match(np.roll(described, 1, axis=0), wanted))
  return {'rows': rows, 'num_prompts': len(prompts)}
