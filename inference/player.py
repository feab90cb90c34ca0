"""One player: a thread that keeps generated music ahead of playback by a set buffer.

The stream is one line of samples without end. What has been made and not yet been heard is kept,
so a connection that was lost goes on where it stopped; where the listener stopped or asked for a
new start, what was not heard is taken back, and the model goes on from before it.
"""

import collections
import dataclasses
import logging
import secrets
import threading
import time
from typing import Any, NamedTuple, Protocol

import numpy as np

from inference import continuation, mix
from inference.batching import BatchEngine, ChunkResult
from inference.protocol import AudioFrame, Limits, ProtocolError
from inference.sampling import SamplingOptions
from inference.styles import StyleBook, mixed_style
from models.musiccoca.inputs import MIN_PROMPT_SECS, StyleError, check_audio
from models.spec import LiveMusicSpec

_RATE_CHUNKS = 8  # The speed is told as the mean of this many chunks.
# Sound this close to being heard is not taken back: it may already be under way to the speaker.
_SAFE_SECS = 0.5
# After this long without a pause, a buffer that pauses have made longer is halved again.
CALM_SECS = 60.0


class Listener(Protocol):
  """What a connection offers its player; both are called from any thread and must not block."""

  def chunk_ready(self) -> None:
    """There is sound that was not there before."""

  def event(self, message: dict[str, Any]) -> None:
    """A JSON message for the listener."""


class Chunk(NamedTuple):
  """Sound in the stream, and where the model stood before it."""

  frame: AudioFrame
  weights: tuple[float, ...]
  before: continuation.Continuation
  facts: dict[str, Any]

  @property
  def end(self) -> int:
    return self.frame.start + len(self.frame.audio)


class Player:
  """A session of one listener; every method may be called from any thread."""

  def __init__(
    self,
    engine: BatchEngine,
    styles: StyleBook,
    limits: Limits,
    *,
    name: str = '',
    settings: mix.Settings | None = None,
  ):
    """Makes no sound before `play`.

    Args:
      engine: makes the chunks, for all players.
      styles: embeds prompts, for all players.
      limits: of uploads and buffer.
      name: to tell players apart by.
      settings: to begin with.
    """
    self.session = secrets.token_urlsafe(18)
    self.name = name
    self.pace = 'reports'
    self.engine, self.styles, self.limits = engine, styles, limits
    self.spec: LiveMusicSpec = engine.spec
    self._condition = threading.Condition()
    self._settings = settings or mix.Settings()
    self._at = continuation.Continuation.initial(self.spec, self._settings.seed)
    self._chunks: collections.deque[Chunk] = collections.deque()
    self._uploads: collections.OrderedDict[str, np.ndarray] = collections.OrderedDict()
    self._upload_styles: dict[str, np.ndarray] = {}
    self._loop: continuation.Loop | None = None
    self._sampling = self._settings.sampling
    self._listener: Listener | None = None
    self._thread: threading.Thread | None = None
    self._playing = self._closed = False
    self._epoch = 0  # Counts what makes a chunk in the making worthless.
    self._played = 0
    self._clock: tuple[float, int] | None = None
    self._secs: collections.deque[float] = collections.deque(maxlen=_RATE_CHUNKS)
    self._made = self._underruns = 0
    self._asked_secs, self._fitted = self._settings.buffer_secs, 0.0
    self.detached_since = time.monotonic()

  # What a listener does.

  def attach(self, listener: Listener | None) -> Listener | None:
    """Sends sound and messages there from now on; returns who listened before."""
    with self._condition:
      before, self._listener = self._listener, listener
      self.detached_since = time.monotonic()
      return before

  def detach(self, listener: Listener):
    """Ends what `attach` began, unless another one has taken over."""
    with self._condition:
      if self._listener is listener:
        self._listener = None
        self.detached_since = time.monotonic()

  @property
  def attached(self) -> bool:
    return self._listener is not None

  def play(self):
    """Makes sound from here on, buffer by buffer."""
    with self._condition:
      self._playing = True
      self._clock = None
      if self._thread is None and not self._closed:
        self._thread = threading.Thread(target=self._run, name='jam-player', daemon=True)
        self._thread.start()
      self._condition.notify_all()

  def stop(self, next_sample: int | None = None) -> int:
    """Makes no more sound, and takes back chunks that begin at or after `next_sample`.

    Returns:
      Where the stream goes on: the next chunk's first sample.
    """
    with self._condition:
      position = self._position()
      self._playing, self._clock = False, None
      self._played = max(self._played, position)
      return self._take_back(position if next_sample is None else next_sample)

  def ask(self, what: str):
    """Asks for 'play' or 'stop' on another's behalf: the listener does it, who has the speakers.

    A listener paced by the clock has none, so it is done here.
    """
    with self._condition:
      self._tell({'type': 'asked', 'to': what})
    if self.pace == 'clock':
      self.play() if what == 'play' else self.stop()

  def report(self, sample: int, underruns: int = 0):
    """Playback has come to `sample`; it ran dry `underruns` times so far.

    Each new time doubles the buffer, up to the limit. Each minute without one halves it, down to
    what was asked for, because the buffer is what a change waits for.
    """
    with self._condition:
      self._played = min(max(self._played, sample), self._at.end)
      self._drop_heard()
      now, secs = time.monotonic(), self._settings.buffer_secs
      if underruns > self._underruns:
        self._underruns = underruns
        self._fit_buffer(min(2 * secs, self.limits.max_buffer_secs), now)
      elif secs > self._asked_secs and now - self._fitted > CALM_SECS:
        self._fit_buffer(max(secs / 2, self._asked_secs), now)
      self._condition.notify_all()

  def apply(self, message: dict[str, Any]):
    """Changes settings by a checked message of the protocol; heard from the next chunk on.

    Raises:
      ProtocolError: a preset or an upload is unknown, or see `mix.changed`.
    """
    with self._condition:
      settings = mix.changed(self._settings, message)
    notes: list[str] = []
    if message['type'] == 'prompts':
      for prompt in settings.prompts:
        self._embed(prompt.kind, prompt.content)  # Refused here, not while playing.
        if prompt.kind == 'text' and prompt not in self._settings.prompts:
          notes += self.styles.notes(prompt.content)
    if message['type'] == 'inject':
      self._prepare_loop(settings)
    with self._condition:
      # Somebody else may have changed other things meanwhile.
      self._settings = mix.changed(self._settings, message)
      if message['type'] == 'buffer':
        self._asked_secs = message['secs']
      if message['type'] == 'inject':
        self._set_loop()
      if message['type'] == 'reset':
        self._restart()
      self._tell_settings()
      for note in notes:
        self._tell({'type': 'notice', 'code': 'prompt', 'message': note})
      self._condition.notify_all()

  def add_upload(self, upload: dict[str, Any], audio: np.ndarray):
    """Keeps a piece of audio under its id; embeds it if it is to be a prompt.

    Args:
      upload: the checked `upload` message.
      audio: float32 [samples, channels].

    Raises:
      ProtocolError: all places for uploads are in use, or the audio cannot be a prompt (see
        `check_audio`).
    """
    rate = upload['sample_rate']
    try:
      least = MIN_PROMPT_SECS if upload['purpose'] == 'style' else 0
      notes = check_audio(audio, rate, f'The upload {upload["id"]!r}', least)
    except StyleError as error:
      raise ProtocolError(str(error)) from None
    if upload['purpose'] == 'style':
      style, kept = self.styles.audio(audio, rate), np.zeros([0, 0], np.float32)
    else:
      style, kept = None, _as_stream(audio, rate, self.spec)
    with self._condition:
      self._make_room(upload['id'])
      self._uploads[upload['id']] = kept
      if style is not None:
        self._upload_styles[upload['id']] = style
      for note in notes:
        self._tell({'type': 'notice', 'code': 'silent', 'message': note})

  def next_chunk(self, sample: int) -> Chunk | None:
    """The chunk that holds `sample`, or the first one after it, if it is there."""
    with self._condition:
      return next((chunk for chunk in self._chunks if chunk.end > sample), None)

  def first_kept(self) -> int:
    """The first sample that can still be sent."""
    with self._condition:
      return self._chunks[0].frame.start if self._chunks else self._at.end

  @property
  def settings(self) -> mix.Settings:
    return self._settings

  @property
  def end(self) -> int:
    return self._at.end

  @property
  def playing(self) -> bool:
    return self._playing

  def status(self) -> dict[str, Any]:
    """Figures for `/api/status`."""
    with self._condition:
      return {
        'name': self.name,
        'connected': self.attached,
        'playing': self._playing,
        'chunks': self._made,
        'ahead_secs': round((self._at.end - self._position()) / self.spec.sample_rate, 3),
        'buffer_secs': self._settings.buffer_secs,
        'real_time_factor': self._real_time_factor(),
        'underruns': self._underruns,
      }

  def close(self):
    """Ends the thread; the player makes no sound any more."""
    with self._condition:
      self._closed, self._playing, self._listener = True, False, None
      self._chunks.clear()
      self._uploads.clear()
      self._condition.notify_all()

  # What the thread does.

  def _run(self):
    while True:
      with self._condition:
        while not self._closed and not self._wants_more():
          self._condition.wait(self._patience())
        if self._closed:
          return
        epoch, before, settings, loop = self._epoch, self._at, self._settings, self._loop
      try:
        start = time.perf_counter()
        before = continuation.with_loop(before, loop, self.engine.codec, self.spec)
        style = self.styles.tokens(mixed_style(settings, self._embed))
        request = continuation.request_for(
          before, style, self._ready_sampling(settings), self.spec
        )
        result = self.engine.submit(request).result()
        self._add(epoch, before, settings, result, time.perf_counter() - start)
      except Exception as error:  # Whatever it is, the listener must hear of it.
        logging.exception('A player could not go on.')
        with self._condition:
          self._playing = False
          self._tell({'type': 'error', 'code': 'generation', 'message': str(error)})

  def _wants_more(self) -> bool:
    if self.pace == 'clock' and self._listener is None:
      return False  # Nobody hears what the clock plays.
    ahead = self._at.end - self._position()
    return self._playing and ahead <= self._settings.buffer_secs * self.spec.sample_rate

  def _patience(self) -> float | None:
    """Seconds until the clock alone makes a chunk due; None where only a report can."""
    if not self._playing or self.pace != 'clock':
      return None
    ahead = (self._at.end - self._position()) / self.spec.sample_rate
    return max(ahead - self._settings.buffer_secs, 0.01)

  def _position(self) -> int:
    """Sample that is being heard: as reported, or by the clock since the first chunk."""
    if self.pace != 'clock' or self._clock is None:
      return self._played
    since, sample = self._clock
    position = sample + int((time.monotonic() - since) * self.spec.sample_rate)
    if position > self._at.end:  # It ran dry; the clock waits for the next chunk.
      position = self._at.end
      self._clock = None
    self._played = max(self._played, position)
    self._drop_heard()
    return self._played

  def _ready_sampling(self, settings: mix.Settings) -> SamplingOptions:
    """The options asked for, or the last ones as long as their program is being compiled."""
    wanted = settings.sampling
    if self.engine.is_ready(wanted) or wanted.top_k == self._sampling.top_k:
      self._sampling = wanted
    else:
      text = f'A program for top-k {wanted.top_k} is being compiled; until then the last one plays.'
      self._tell({'type': 'notice', 'code': 'compiling', 'message': text})
      self._sampling = dataclasses.replace(wanted, top_k=self._sampling.top_k)
    return self._sampling

  def _add(
    self,
    epoch: int,
    before: continuation.Continuation,
    settings: mix.Settings,
    result: ChunkResult,
    secs: float,
  ):
    audio, after = continuation.advanced(before, result.codes, result.audio, self.spec)
    with self._condition:
      if epoch != self._epoch or self._closed:
        return
      index, self._made = self._made, self._made + 1
      self._secs.append(secs)
      self._at = after
      if self.pace == 'clock' and self._clock is None:
        self._clock = time.monotonic(), before.end
      facts = {
        'generate_secs': round(result.secs, 4),
        'turnaround_secs': round(secs, 4),
        'waited_secs': round(result.waited_secs, 4),
        'batch_size': result.batch_size,
        'real_time_factor': self._real_time_factor(),
        'slow': self._real_time_factor() < 1,
        'buffer_secs': settings.buffer_secs,
      }
      frame = AudioFrame(index, before.end, settings.version, audio)
      self._chunks.append(Chunk(frame, settings.weights, before, facts))
      listener = self._listener
    if listener is not None:
      listener.chunk_ready()

  def _real_time_factor(self) -> float:
    if not self._secs:
      return 0.0
    return round(self.spec.chunk_secs * len(self._secs) / sum(self._secs), 3)

  # What both do, with the lock held.

  def _embed(self, kind: str, content: str) -> np.ndarray:
    if kind == 'text':
      return self.styles.text(content)
    if kind == 'preset':
      return self.styles.preset(content)
    if content not in self._upload_styles:
      raise ProtocolError(f'There is no audio prompt {content!r}; upload it first.', 'no_upload')
    return self._upload_styles[content]

  def _take_back(self, sample: int) -> int:
    """Drops chunks that begin at or after `sample`; returns where the stream goes on."""
    self._epoch += 1
    while self._chunks and self._chunks[-1].frame.start >= sample:
      self._at = self._chunks.pop().before
    return self._at.end

  def _restart(self):
    """A new start of the model as soon as may be: after what is about to be heard."""
    self._take_back(self._position() + int(_SAFE_SECS * self.spec.sample_rate))
    self._at = self._at.restarted(self.spec, self._settings.seed)
    self._set_loop()
    self._tell({'type': 'taken_back', 'next_sample': self._at.end})

  def _prepare_loop(self, settings: mix.Settings):
    """Compiles what encoding a loop needs, so that playing does not wait for it."""
    if settings.inject is None:
      return
    if not len(self._uploads.get(settings.inject, ())):
      raise ProtocolError(f'There is no loop {settings.inject!r}; upload it first.', 'no_upload')
    secs = 1 + self.spec.chunk_secs
    silence = np.zeros([int(secs * self.spec.sample_rate), self.spec.num_channels], np.float32)
    self.engine.codec.encode(silence, self.spec.target_levels)

  def _set_loop(self):
    audio = self._uploads.get(self._settings.inject or '')
    if audio is None or not len(audio):
      self._loop = None
    else:
      start = self._at.end if self._loop is None else self._loop.start
      self._loop = continuation.Loop(audio, start, self._settings.inject_amount)

  def _make_room(self, upload_id: str):
    used = {prompt.content for prompt in self._settings.prompts if prompt.kind == 'audio'}
    used.add(self._settings.inject or '')
    self._uploads.pop(upload_id, None)
    self._upload_styles.pop(upload_id, None)
    while len(self._uploads) >= self.limits.max_uploads:
      unused = next((name for name in self._uploads if name not in used), None)
      if unused is None:
        raise ProtocolError(
          f'All {self.limits.max_uploads} uploads are in use; remove a prompt first.', 'full'
        )
      del self._uploads[unused]
      self._upload_styles.pop(unused, None)

  def _fit_buffer(self, secs: float, now: float):
    self._fitted = now
    if secs != self._settings.buffer_secs:
      self._settings = mix.changed(self._settings, {'type': 'buffer', 'secs': secs})
      self._tell_settings()

  def _drop_heard(self):
    while self._chunks and self._chunks[0].end <= self._played:
      self._chunks.popleft()

  def _tell_settings(self):
    self._tell({'type': 'settings', **self._settings.to_json()})

  def _tell(self, message: dict[str, Any]):
    if self._listener is not None:
      self._listener.event(message)


def _as_stream(audio: np.ndarray, sample_rate: int, spec: LiveMusicSpec) -> np.ndarray:
  """Audio [samples, channels] at any rate -> float32 at the spec's rate and channels."""
  import soxr

  if sample_rate != spec.sample_rate:
    audio = soxr.resample(audio, sample_rate, spec.sample_rate)
  if audio.shape[1] != spec.num_channels:
    audio = np.repeat(audio.mean(axis=1, keepdims=True), spec.num_channels, axis=1)
  return np.ascontiguousarray(audio, np.float32)
