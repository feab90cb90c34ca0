"""A client of jam in Python: steer a live model from a script or a game, and take its sound.

    with JamClient('http://127.0.0.1:8765') as jam:
      jam.set_prompts({'church organ': 0.7, 'fast drums': 0.3})
      jam.play()
      audio = jam.read(10.0)  # float32 [480000, 2]; the server goes on making what is read

A lost connection is taken up again where it stopped.
"""

import contextlib
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any
from urllib.parse import parse_qs, urlsplit

import numpy as np
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from inference.protocol import (
  CLOSE_FULL,
  PROTOCOL_VERSION,
  AudioFrame,
  encode_audio,
  unpack_audio,
)

_KEPT_EVENTS = 1000
# Closed for good: a new connection would end the same way.
_FINAL_CODES = (1000, 1008, 1009, *range(4001, 4006))


class JamError(RuntimeError):
  """The server refused something, or cannot be reached; `code` says what."""

  def __init__(self, message: str, code: str = ''):
    super().__init__(message)
    self.code = code


class JamClient:
  """One session on a jam server; for use from one thread."""

  def __init__(
    self,
    url: str = 'http://127.0.0.1:8765',
    *,
    token: str | None = None,
    name: str = 'python',
    audio_format: str = 's16le',
    pace: str = 'reports',
    retry_secs: float = 20.0,
    timeout: float = 60.0,
  ):
    """Connects.

    Args:
      url: of the page; a '#token=...' behind it is read.
      token: that the server asks for.
      name: shown in the server's status.
      audio_format: 's16le' or 'f32le'.
      pace: 'reports' makes music as it is read; 'clock' in real time, read or not.
      retry_secs: for how long a lost connection is tried again.
      timeout: seconds to wait for an answer or for sound.

    Raises:
      JamError: no server, no place, or a wrong token.
    """
    parts = urlsplit(url)
    if token is None:
      token = parse_qs(parts.fragment).get('token', [''])[0]
    scheme = 'wss' if parts.scheme in ('https', 'wss') else 'ws'
    self._address = f'{scheme}://{parts.netloc}/ws'
    self._hello = {
      'type': 'hello', 'protocol': PROTOCOL_VERSION, 'token': token, 'name': name,
      'format': audio_format, 'pace': pace,
    }  # fmt: skip
    self._retry_secs, self._timeout, self._reports = retry_secs, timeout, pace == 'reports'
    self._socket: Any = None
    self._frames: list[AudioFrame] = []
    self._uploads = 0
    self.events: list[dict[str, Any]] = []
    self.session: str | None = None
    self.next_sample = 0
    self.connections = 0
    self.welcome: dict[str, Any] = {}
    self.settings: dict[str, Any] = {}
    self._connect()

  def __enter__(self) -> 'JamClient':
    return self

  def __exit__(self, *error: Any):
    self.close()

  def set_prompts(self, prompts: Mapping[str, float] | Sequence[Mapping[str, Any]]):
    """Texts (or 'preset:NAME') with weights, or prompts as the protocol has them."""
    if isinstance(prompts, Mapping):
      prompts = [_prompt(text, weight) for text, weight in prompts.items()]
    self.send('prompts', prompts=list(prompts))

  def set_weights(self, weights: Sequence[float]):
    """Weights of the prompts in their order."""
    self.send('weights', weights=[float(weight) for weight in weights])

  def set_sampling(self, **options: float):
    """temperature, top_k, guidance_weight, seed."""
    self.send('sampling', **options)

  def play(self):
    """Begins to make music."""
    self.send('play')

  def stop(self):
    """Makes no more; what was not read yet is taken back."""
    self.send('stop', next_sample=self.next_sample)
    self.wait_for('stopped')

  def reset(self, seed: int | None = None):
    """A new start of the model."""
    self.send('reset', **({} if seed is None else {'seed': seed}))

  def upload(self, audio: np.ndarray, sample_rate: int, purpose: str = 'style') -> str:
    """Sends audio [samples, channels] and returns its id, once the server has it.

    Raises:
      JamError: the server refuses it, such as for samples that are not finite.
    """
    audio = np.atleast_2d(np.asarray(audio, np.float32).T).T
    # 16 bits hold what is in -1..1; the server tells of samples beyond it, or that are not finite.
    fits = bool((np.abs(audio) <= 1).all())
    audio_format = 's16le' if fits else 'f32le'
    self._uploads += 1
    name = f'{self._hello["name"]}-{self._uploads}'
    self.send(
      'upload', id=name, purpose=purpose, format=audio_format, channels=audio.shape[1],
      sample_rate=sample_rate, samples=len(audio),
    )  # fmt: skip
    self._socket.send(encode_audio(audio, 's16le') if fits else audio.astype('<f4').tobytes())
    while self.wait_for('uploaded')['id'] != name:
      pass
    return name

  def inject(self, upload: str | None, amount: float = 0.5):
    """Lets the model hear an uploaded loop as context; None ends it."""
    self.send('inject', amount=amount, **({} if upload is None else {'upload': upload}))

  def read(self, secs: float) -> np.ndarray:
    """The next `secs` seconds of music, float32 [samples, channels]."""
    wanted = round(secs * self.welcome['sample_rate'])
    parts, count = [], 0
    while count < wanted:
      frame = self._frames.pop(0) if self._frames else self._next_frame()
      part = frame.audio[: wanted - count]
      if len(part) < len(frame.audio):
        rest = frame._replace(start=frame.start + len(part), audio=frame.audio[len(part) :])
        self._frames.insert(0, rest)
      parts.append(part)
      count += len(part)
      self._heard(frame.start + len(part))
    return np.concatenate(parts)

  def frames(self) -> Iterator[AudioFrame]:
    """Chunks of music, one after the other, without end."""
    while True:
      frame = self._frames.pop(0) if self._frames else self._next_frame()
      self._heard(frame.start + len(frame.audio))
      yield frame

  def wait_for(self, kind: str) -> dict[str, Any]:
    """Reads on until a message of this type comes.

    Raises:
      JamError: an error came instead, or nothing.
    """
    while True:
      message = self._receive()
      if isinstance(message, dict) and message['type'] == kind:
        return message
      if isinstance(message, dict) and message['type'] == 'error':
        raise JamError(message['message'], message['code'])

  def send(self, kind: str, **fields: Any):
    """Sends any message of the protocol."""
    try:
      self._socket.send(json.dumps({'type': kind, **fields}))
    except ConnectionClosed as closed:
      self._reconnect(closed)
      self._socket.send(json.dumps({'type': kind, **fields}))

  def close(self):
    """Leaves; the session ends."""
    with contextlib.suppress(ConnectionClosed):
      self._socket.send(json.dumps({'type': 'bye'}))
    self._socket.close()

  def drop(self):
    """Loses the connection as a network would, for tests of resuming."""
    self._socket.socket.close()

  def _heard(self, sample: int):
    self.next_sample = sample
    if self._reports:
      self.send('played', sample=sample)

  def _next_frame(self) -> AudioFrame:
    while True:
      message = self._receive()
      if isinstance(message, AudioFrame):
        return message
      if message['type'] == 'error':
        raise JamError(message['message'], message['code'])

  def _receive(self) -> AudioFrame | dict[str, Any]:
    while True:
      try:
        data = self._socket.recv(timeout=self._timeout)
        break
      except ConnectionClosed as closed:
        self._reconnect(closed)
      except TimeoutError:
        raise JamError(f'Nothing came for {self._timeout:g} s.', 'timeout') from None
    if isinstance(data, bytes):
      return unpack_audio(data, self.welcome['channels'])
    message = json.loads(data)
    self.events.append(message)
    del self.events[:-_KEPT_EVENTS]
    if message['type'] == 'settings':
      self.settings = message
    if message['type'] in ('stopped', 'taken_back'):
      self._take_back(message['next_sample'])
    return message

  def _take_back(self, sample: int):
    """Forgets what was received of the stream from `sample` on."""
    self._frames = [
      frame._replace(audio=frame.audio[: sample - frame.start])
      for frame in self._frames
      if frame.start < sample
    ]

  def _connect(self):
    try:
      self._socket = connect(
        self._address, max_size=2**24, compression=None, proxy=None, open_timeout=self._timeout
      )
    except (OSError, ConnectionClosed) as error:
      raise JamError(f'{self._address} cannot be reached: {error}', 'unreachable') from error
    hello = dict(self._hello)
    if self.session is not None:
      received = self._frames[-1] if self._frames else None
      sample = received.start + len(received.audio) if received else self.next_sample
      hello |= {'session': self.session, 'next_sample': sample}
    try:
      self._socket.send(json.dumps(hello))
      self.welcome = json.loads(self._socket.recv(timeout=self._timeout))
    except ConnectionClosed as closed:
      raise _refusal(closed) from closed
    if self.welcome['type'] == 'error':
      self._socket.close()
      raise JamError(self.welcome['message'], self.welcome['code'])
    if not self.welcome['resumed']:
      self._frames, self.next_sample = [], 0  # A stream of its own, from its beginning.
    self.session, self.settings = self.welcome['session'], self.welcome['settings']
    self.connections += 1

  def _reconnect(self, closed: ConnectionClosed):
    """Takes the session up again, for as long as `retry_secs`."""
    if closed.rcvd is not None and closed.rcvd.code in _FINAL_CODES:
      raise _refusal(closed) from closed
    end = time.monotonic() + self._retry_secs
    while True:
      try:
        return self._connect()
      except JamError as error:
        if error.code not in ('unreachable', str(CLOSE_FULL)) or time.monotonic() > end:
          raise
        time.sleep(0.2)


def _prompt(text: str, weight: float) -> dict[str, Any]:
  kind, content = 'text', text
  if text.startswith('preset:'):
    kind, content = 'preset', text.removeprefix('preset:')
  return {'kind': kind, 'content': content, 'weight': float(weight)}


def _refusal(closed: ConnectionClosed) -> JamError:
  received = closed.rcvd
  if received is None:
    return JamError('The connection was lost.', 'lost')
  return JamError(f'The server closed the connection: {received.reason}', str(received.code))
