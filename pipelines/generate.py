"""Prompt -> audio file of any length, chunk by chunk."""

import dataclasses
import math
import pathlib
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from tqdm import tqdm

from inference import LiveSession, SamplingOptions, parse_prompts
from models.spec import LiveMusicSpec


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
  prompts: Sequence[str] | np.ndarray | None,
  secs: float,
  *,
  continue_from: np.ndarray | None = None,
  progress: bool = True,
  on_chunk: Callable[[], Any] | None = None,
) -> Generation:
  """Runs `session` for `secs` seconds of new audio.

  Args:
    session: it is reset first.
    prompts: as written, or a style embedding, or None for no style.
    secs: seconds to generate; the last chunk is cut.
    continue_from: float32 [samples, channels] at the spec's rate, to go on from.
    progress: False hides the bar.
    on_chunk: called after each chunk, for a bar of the caller's; hides this one.

  Raises:
    ValueError: `secs` is not a number above 0, or a prompt cannot be read.
  """
  spec: LiveMusicSpec = session.spec
  _check_secs(secs)
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


def _check_secs(secs: float):
  if not 0 < secs < math.inf:
    raise ValueError(f'secs={secs} is not a number above 0.')


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
  _check_secs(secs)
  if prompts:
    parse_prompts(prompts)
  if continue_from is not None and not pathlib.Path(continue_from).is_file():
    raise FileNotFoundError(f'There is no audio file {continue_from} to go on from.')
  from pipelines.checkpoint_sources import load_source
  from preprocessing.audio import WRITABLE_SUFFIXES, read_audio, write_audio

  output = pathlib.Path(output)
  if output.suffix.lower() not in WRITABLE_SUFFIXES:
    raise ValueError(f'{output} does not end in one of {", ".join(WRITABLE_SUFFIXES)}.')
  if output.is_dir():
    raise ValueError(f'{output} is a folder; name an audio file.')
  folder = next(path for path in output.absolute().parents if path.exists())
  if not folder.is_dir():
    raise ValueError(f'{output} cannot be written: {folder} is a file.')
  source = load_source(bundle)
  sampling = sampling or SamplingOptions()
  session = LiveSession(
    source.bundle,
    temperature=sampling.temperature,
    top_k=sampling.top_k,
    guidance_weight=sampling.guidance_weight,
    seed=seed,
  )
  given: Any = None
  if continue_from is not None:
    given = read_audio(continue_from, sample_rate=session.spec.sample_rate)
  generation = generate_audio(
    session, list(prompts) or None, secs, continue_from=given, progress=progress
  )
  output.parent.mkdir(parents=True, exist_ok=True)
  write_audio(output, np.clip(generation.audio, -1, 1), session.spec.sample_rate)
  print(
    f'{output}: {len(generation.audio) / session.spec.sample_rate:.1f} s, '
    f'{generation.real_time_factor:.2f} x real time ({source.name}, seed {seed}).'
  )
  return generation
