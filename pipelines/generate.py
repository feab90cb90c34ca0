"""Prompt -> audio file of any length, chunk by chunk."""

import dataclasses
import math
import os
import pathlib
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from tqdm import tqdm

from inference import LiveSession, PromptError, SamplingOptions, parse_prompts
from inference.sampling import check_seed
from models.figures import exact
from models.musiccoca.inputs import MIN_PROMPT_SECS, StyleError, check_audio
from models.spec import LiveMusicSpec

# 16-bit stereo at 48 kHz fills the 4 GiB of a WAV file in 6.2 h; all of it is held in memory.
MAX_SECS = 6 * 3600


@dataclasses.dataclass(frozen=True)
class Generation:
  """Generated audio and how long it took.

  Attributes:
    audio: float32 [samples, channels]; what it continues comes first.
    given_secs: seconds at the start that were given, not generated.
    chunk_secs: wall seconds of each chunk; the first holds the compilation.
    chunk_audio_secs: seconds of audio in one chunk.
  """

  audio: np.ndarray
  given_secs: float
  chunk_secs: list[float]
  chunk_audio_secs: float

  @property
  def real_time_factor(self) -> float:
    """Seconds of audio per second of work, without the first chunk (it compiles)."""
    timed = self.chunk_secs[1:] or self.chunk_secs
    return len(timed) * self.chunk_audio_secs / sum(timed)


def num_chunks(secs: float, spec: LiveMusicSpec) -> int:
  """Chunks that hold `secs` seconds."""
  return math.ceil(secs / spec.chunk_secs)


def generate_audio(
  session: LiveSession,
  prompts: Sequence[Any] | np.ndarray | None,
  secs: float,
  *,
  continue_from: np.ndarray | None = None,
  progress: bool = True,
  on_chunk: Callable[[], Any] | None = None,
) -> Generation:
  """Runs `session` for `secs` seconds of new audio.

  Args:
    session: it is reset first.
    prompts: as written or parsed, or a style embedding, or None for no style.
    secs: seconds to generate; the last chunk is cut.
    continue_from: float32 [samples, channels] at the spec's rate, to go on from.
    progress: False hides the bar.
    on_chunk: called after each chunk, for a bar of the caller's; hides this one.

  Raises:
    ValueError: `secs` is out of range, or a prompt or the audio to go on from cannot be used.
  """
  spec: LiveMusicSpec = session.spec
  check_secs(secs)
  session.reset()
  session.set_style(prompts)
  given = np.zeros([0, spec.num_channels], np.float32)
  if continue_from is not None:
    given = session.continue_audio(continue_from)
  chunks, seconds = [], []
  numbers = range(num_chunks(secs, spec))
  quiet = on_chunk is not None or not progress
  for _ in tqdm(numbers, desc='generate', unit='chunk', disable=quiet):
    start = time.perf_counter()
    chunks.append(session.next_chunk())
    seconds.append(time.perf_counter() - start)
    if on_chunk is not None:
      on_chunk()
  new = np.concatenate(chunks)[: round(secs * spec.sample_rate)]
  return Generation(
    audio=np.concatenate([given, new]),
    given_secs=len(given) / spec.sample_rate,
    chunk_secs=seconds,
    chunk_audio_secs=spec.chunk_secs,
  )


def check_secs(secs: float):
  """Refuses a length that cannot be generated.

  Raises:
    ValueError: `secs` is not a number above 0 and at most `MAX_SECS`.
  """
  if not 0 < secs < math.inf:
    raise ValueError(f'secs={secs} is not a number above 0.')
  if secs > MAX_SECS:
    raise ValueError(
      f'secs={exact(secs)} is above {MAX_SECS}: a WAV file of 4 GiB holds {MAX_SECS // 3600} h. '
      'Generate parts, each with --continue_from the part before.'
    )


def generate_file(
  prompts: Sequence[str],
  output: str | pathlib.Path,
  *,
  secs: float,
  bundle: str = 'tiny',
  seed: int = 0,
  sampling: SamplingOptions | None = None,
  continue_from: str | None = None,
  progress: bool = True,
) -> Generation:
  """Writes what `generate.py` asks for; prints the path and the speed.

  Args:
    prompts: see `inference.prompts`; empty for no style.
    output: audio file; its suffix names the format.
    secs: seconds to generate.
    bundle: see `checkpoint_sources.load_source`.
    seed: same seed, same audio.
    sampling: temperature, top-k and guidance; None for the defaults.
    continue_from: audio file to go on from.
    progress: False hides the bar.

  Raises:
    FileNotFoundError: there is no such bundle, or nothing to go on from.
    ValueError: a prompt or option cannot be used, or no file can be written at `output`.
  """
  # Say what is wrong before anything slow.
  from preprocessing import outputs
  from preprocessing.audio import WRITABLE_SUFFIXES, write_audio

  check_secs(secs)
  check_seed(seed)
  sampling = sampling or SamplingOptions()
  parsed = parse_prompts(prompts) if prompts else None
  if continue_from is not None:
    continue_from = os.path.expanduser(continue_from)
  if continue_from is not None and not pathlib.Path(continue_from).is_file():
    raise FileNotFoundError(f'There is no audio file {continue_from} to go on from.')
  output = os.path.expanduser(output)
  outputs.check_file(output, WRITABLE_SUFFIXES)
  heard = {
    prompt.content: read_prompt_audio(prompt.content)
    for prompt in parsed or ()
    if prompt.kind == 'audio'
  }
  given: Any = None
  if continue_from is not None:
    what = f'The audio file {continue_from} to go on from'
    given = read_prompt_audio(continue_from, what, 1 / LiveMusicSpec().frame_rate)
  from pipelines.checkpoint_sources import load_source

  source = load_source(bundle)
  spec = source.bundle.spec
  if given is not None:
    given = _as_given(*given, spec, continue_from)
  session = LiveSession(
    source.bundle,
    temperature=sampling.temperature,
    top_k=sampling.top_k,
    guidance_weight=sampling.guidance_weight,
    seed=seed,
    read_audio=heard.__getitem__,
  )
  generation = generate_audio(session, parsed, secs, continue_from=given, progress=progress)
  with outputs.whole_file(output) as partial:
    write_audio(partial, np.clip(generation.audio, -1, 1), spec.sample_rate)
  print(
    f'{output}: {len(generation.audio) / spec.sample_rate:.1f} s, '
    f'{generation.real_time_factor:.2f} x real time ({source.name}, seed {seed}).'
  )
  return generation


def read_prompt_audio(
  path: str, what: str | None = None, min_secs: float = MIN_PROMPT_SECS
) -> tuple[np.ndarray, int]:
  """Audio file -> (float32 [samples, 1 or 2], its sample rate), read as tracks of a corpus are.

  Args:
    path: of the file.
    what: it is, for messages; None for an audio prompt.
    min_secs: the shortest.

  Raises:
    PromptError: it cannot be decoded or used; see `models.musiccoca.inputs.check_audio`.
  """
  from preprocessing.audio import AudioError, read_audio, read_header

  what = what or f'The audio prompt {path}'
  try:
    header = read_header(path)
    audio = read_audio(path, header.sample_rate, min(header.channels, 2))
    check_audio(audio, header.sample_rate, what, min_secs)
  except AudioError as error:
    raise PromptError(f'{what} cannot be used: {error}') from error
  except StyleError as error:
    raise PromptError(str(error)) from None
  return audio, header.sample_rate


def _as_given(audio: np.ndarray, rate: int, spec: LiveMusicSpec, path: str | None) -> np.ndarray:
  """Audio to go on from, float32 [samples, channels] of the spec; says where its end is silent."""
  from preprocessing.audio import mix_channels, resample

  audio = np.ascontiguousarray(resample(mix_channels(audio, spec.num_channels), rate,
                                        spec.sample_rate))  # fmt: skip
  heard = audio[-spec.context_frames * spec.samples_per_frame :]
  what = f'The end of {path}, {len(heard) / spec.sample_rate:.3g} s from which the music goes on,'
  check_audio(audio, spec.sample_rate, f'The audio file {path} to go on from', 1 / spec.frame_rate)
  for note in check_audio(heard, spec.sample_rate, what, 0):
    print(note)
  return audio
