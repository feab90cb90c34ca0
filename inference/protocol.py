"""The WebSocket protocol of jam: which messages there are, and the binary frames of audio.

Control is JSON text, one object a message, told apart by its `type`; audio is binary. docs/jam.md
is the reference for those who write a client. Everything that comes in is checked here, before
anything acts on it: unknown types, missing or unknown fields, wrong types and values out of range
are refused with a sentence that says what would do.
"""

import dataclasses
import json
import math
import struct
from typing import Any, NamedTuple

import numpy as np

from inference.sampling import MAX_SEED
from models.figures import apart, exact
from models.musiccoca.inputs import (
  MAX_PROMPT_CHARS,
  StyleError,
  check_finite,
  check_peak,
  check_prompt_text,
  check_unicode,
)

PROTOCOL_VERSION = 1
MAX_PROMPTS = 6
MAX_WEIGHT = 2.0
PROMPT_KINDS = ('text', 'preset', 'audio')
UPLOAD_PURPOSES = ('style', 'inject')
FORMATS = {'s16le': 1, 'f32le': 2}
# Magic, version, format, chunk index, first sample, samples per channel, version of the settings.
_HEADER = struct.Struct('<2sBBIQII')
_MAGIC = b'WJ'

# Close codes of this protocol; 1008 and 1009 are the standard's.
CLOSE_UNAUTHORIZED = 4001
CLOSE_FULL = 4002
CLOSE_NO_HELLO = 4003
CLOSE_TAKEN_OVER = 4004
CLOSE_TOO_SLOW = 4005
CLOSE_POLICY = 1008


class ProtocolError(ValueError):
  """A message that is refused; `code` is for programs, the text for people."""

  def __init__(self, message: str, code: str = 'bad_message'):
    super().__init__(message)
    self.code = code


@dataclasses.dataclass(frozen=True)
class Limits:
  """What one server takes on; all of it together bounds its memory.

  Attributes:
    max_players: sessions that exist at a time, those that wait for a reconnect included.
    max_connections: open connections at a time, idle ones and page loads included.
    max_text_bytes: of one JSON message.
    max_prompt_chars: of one text prompt.
    max_upload_secs: of one uploaded piece of audio.
    max_uploads: pieces of audio that one player keeps; the oldest unused one goes first.
    messages_per_sec: that a connection may send on average; `burst` at once.
    burst: see above.
    max_bad_messages: in a row, then the connection is closed.
    hello_secs: until when the first message must have come.
    resume_secs: for which a lost connection's session is kept.
    max_buffer_secs: that a player may ask to be ahead.
  """

  max_players: int = 8
  max_connections: int = 64
  max_text_bytes: int = 65_536
  max_prompt_chars: int = MAX_PROMPT_CHARS
  max_upload_secs: float = 30.0
  max_uploads: int = 8
  messages_per_sec: float = 100.0
  burst: int = 200
  max_bad_messages: int = 20
  hello_secs: float = 10.0
  resume_secs: float = 60.0
  max_buffer_secs: float = 20.0

  def max_upload_bytes(self, sample_rate: int, num_channels: int) -> int:
    """Bytes of the longest upload, in float32."""
    return int(self.max_upload_secs * sample_rate) * num_channels * 4


class _Field(NamedTuple):
  """What a field may hold: `kind` float takes ints too; low and high are of the value or length."""

  kind: type
  low: float = -math.inf
  high: float = math.inf
  required: bool = False


_UNIT = _Field(float, 0, 1)
_SAMPLE = _Field(int, 0, 2**53)
_MESSAGES: dict[str, dict[str, _Field]] = {
  'hello': {
    'protocol': _Field(int, required=True),
    'token': _Field(str, 0, 256),
    'name': _Field(str, 0, 64),
    'session': _Field(str, 1, 64),
    'next_sample': _SAMPLE,
    'format': _Field(str, 1, 16),
    'pace': _Field(str, 1, 16),
  },
  'play': {},
  'stop': {'next_sample': _SAMPLE},
  'played': {'sample': _SAMPLE._replace(required=True), 'underruns': _Field(int, 0, 2**31)},
  'prompts': {
    'prompts': _Field(list, 0, MAX_PROMPTS, required=True),
    'cursor': _Field(list, 2, 2),
  },
  'weights': {'weights': _Field(list, 1, MAX_PROMPTS, required=True)},
  'cursor': {'x': _UNIT._replace(required=True), 'y': _UNIT._replace(required=True)},
  'sampling': {
    'temperature': _Field(float, 0, 4),
    'top_k': _Field(int, 0, 1024),
    'guidance_weight': _Field(float, 0, 10),
    'seed': _Field(int, 0, MAX_SEED),
  },
  'reset': {'seed': _Field(int, 0, MAX_SEED)},
  'buffer': {'secs': _Field(float, 0.25, math.inf, required=True)},
  'upload': {
    'id': _Field(str, 1, 64, required=True),
    'purpose': _Field(str, 1, 16, required=True),
    'name': _Field(str, 0, 200),
    'format': _Field(str, 1, 16, required=True),
    'channels': _Field(int, 1, 2, required=True),
    'sample_rate': _Field(int, 8000, 192_000, required=True),
    'samples': _Field(int, 1, 2**31, required=True),
  },
  'inject': {'upload': _Field(str, 1, 64), 'amount': _UNIT},
  'ping': {'time': _Field(float)},
  'bye': {},
}
_PROMPT_FIELDS = {
  'kind': _Field(str, 1, 16, required=True),
  'content': _Field(str, 1, 4096, required=True),
  'weight': _Field(float, 0, MAX_WEIGHT),
  'x': _UNIT,
  'y': _UNIT,
  'label': _Field(str, 0, 200),
}


def parse_message(text: str, limits: Limits) -> dict[str, Any]:
  """One JSON message -> its checked fields, `type` among them.

  Raises:
    ProtocolError: it is too long, not a JSON object, of an unknown type, or a field is wrong; with
      code 'bad_text' if a text in it is not valid Unicode or has a NUL character.
  """
  if len(text) > limits.max_text_bytes:
    raise ProtocolError(
      f'A message of {len(text)} characters is longer than {limits.max_text_bytes}.', 'too_large'
    )
  try:
    message = json.loads(text)
  except (ValueError, RecursionError) as error:
    raise ProtocolError(f'A text message must be JSON: {error}') from None
  if not isinstance(message, dict):
    raise ProtocolError(f'A message must be a JSON object, not {type(message).__name__}.')
  kind = message.get('type')
  if not isinstance(kind, str) or kind not in _MESSAGES:
    raise ProtocolError(f'The type {_short(kind)} is not one of {", ".join(_MESSAGES)}.')
  fields = {name: value for name, value in message.items() if name != 'type'}
  checked = _check_fields(kind, fields, _MESSAGES[kind])
  if kind == 'prompts':
    checked['prompts'] = [_check_prompt(prompt, limits) for prompt in checked['prompts']]
    _check_numbers('cursor', checked.get('cursor', []), 0, 1)
  elif kind == 'weights':
    _check_numbers('weights', checked['weights'], 0, MAX_WEIGHT)
  elif kind == 'hello':
    _check_choice('format', checked.get('format', 's16le'), tuple(FORMATS))
    _check_choice('pace', checked.get('pace', 'reports'), ('reports', 'clock'))
  elif kind == 'upload':
    _check_choice('format', checked['format'], tuple(FORMATS))
    _check_choice('purpose', checked['purpose'], UPLOAD_PURPOSES)
    secs = checked['samples'] / checked['sample_rate']
    if secs > limits.max_upload_secs:
      raise ProtocolError(
        f'{apart(secs, limits.max_upload_secs, 1)} s of audio are more than the '
        f'{limits.max_upload_secs:g} s that an upload may have; send a part of it.',
        'too_large',
      )
  elif kind == 'buffer' and checked['secs'] > limits.max_buffer_secs:
    raise ProtocolError(
      f'buffer.secs={exact(checked["secs"])} is not in 0.25..{limits.max_buffer_secs:g}.'
    )
  return {'type': kind, **checked}


def upload_bytes(upload: dict[str, Any]) -> int:
  """Bytes of the binary message that must follow an `upload` message."""
  width = 2 if upload['format'] == 's16le' else 4
  return upload['samples'] * upload['channels'] * width


def decode_upload(upload: dict[str, Any], data: bytes) -> np.ndarray:
  """The binary message after an `upload` message -> float32 [samples, channels].

  Raises:
    ProtocolError: its length is not the announced one, or a sample is not finite or far beyond
      full scale.
  """
  expected = upload_bytes(upload)
  if len(data) != expected:
    raise ProtocolError(
      f'{upload["samples"]} samples of {upload["channels"]} channels in {upload["format"]} are '
      f'{expected} bytes; {len(data)} came.'
    )
  if upload['format'] == 's16le':
    audio = np.frombuffer(data, '<i2').astype(np.float32) / 32768
  else:
    audio = np.frombuffer(data, '<f4').astype(np.float32)
    try:
      check_finite(audio.reshape(-1, upload['channels']), 'The audio', upload.get('sample_rate'))
      check_peak(audio, 'The audio')
    except StyleError as error:
      raise ProtocolError(str(error)) from None
    audio = np.clip(audio, -1, 1)
  return audio.reshape(-1, upload['channels'])


def clipped_note(upload: dict[str, Any], data: bytes) -> str:
  """Returns a warning about samples of a checked upload beyond full scale; '' if there are none."""
  if upload['format'] != 'f32le':
    return ''
  samples = np.abs(np.frombuffer(data, '<f4'))
  number = int((samples > 1).sum())
  if not number:
    return ''
  return (
    f'{number} of {samples.size} samples of the upload {upload["id"]!r} are beyond full scale '
    f'(peak {samples.max():.3g}) and are clipped.'
  )


def encode_audio(audio: np.ndarray, audio_format: str) -> bytes:
  """float32 [samples, channels] -> interleaved PCM; beyond -1..1 it is clipped."""
  if audio_format == 's16le':
    scaled = np.clip(np.rint(np.asarray(audio, np.float32) * 32767), -32768, 32767)
    return scaled.astype('<i2').tobytes()
  return np.clip(audio, -1, 1).astype('<f4').tobytes()


class AudioFrame(NamedTuple):
  """One binary message from the server: a chunk of sound, or the rest of one.

  Attributes:
    index: of the chunk in its session.
    start: first sample's place in the stream.
    settings_version: of the settings that it was made with.
    audio: float32 [samples, channels].
  """

  index: int
  start: int
  settings_version: int
  audio: np.ndarray


def pack_audio(frame: AudioFrame, audio_format: str) -> bytes:
  """A frame as it goes over the wire: 24 bytes of header, then interleaved PCM."""
  header = _HEADER.pack(
    _MAGIC,
    PROTOCOL_VERSION,
    FORMATS[audio_format],
    frame.index,
    frame.start,
    len(frame.audio),
    frame.settings_version,
  )
  return header + encode_audio(frame.audio, audio_format)


def unpack_audio(data: bytes, num_channels: int = 2) -> AudioFrame:
  """Reads what `pack_audio` wrote.

  Raises:
    ProtocolError: it is no such frame.
  """
  if len(data) < _HEADER.size:
    raise ProtocolError(f'{len(data)} bytes are no audio frame; its header has {_HEADER.size}.')
  magic, version, number, index, start, samples, settings = _HEADER.unpack_from(data)
  names = {number: name for name, number in FORMATS.items()}
  if magic != _MAGIC or version != PROTOCOL_VERSION or number not in names:
    raise ProtocolError('This is no audio frame of protocol version 1.')
  upload = {'format': names[number], 'samples': samples, 'channels': num_channels}
  return AudioFrame(index, start, settings, decode_upload(upload, data[_HEADER.size :]))


def _check_prompt(prompt: Any, limits: Limits) -> dict[str, Any]:
  if not isinstance(prompt, dict):
    raise ProtocolError(f'A prompt must be an object, not {_short(prompt)}.')
  checked = _check_fields('prompts.prompts', prompt, _PROMPT_FIELDS)
  _check_choice('kind', checked['kind'], PROMPT_KINDS)
  too_long = len(checked['content']) > limits.max_prompt_chars
  try:
    check_prompt_text(checked['content'], 'A prompt', limits.max_prompt_chars)
  except StyleError as error:
    raise ProtocolError(str(error), 'too_large' if too_long else 'bad_message') from None
  return checked


def _check_fields(where: str, values: dict[str, Any], fields: dict[str, _Field]) -> dict[str, Any]:
  unknown = sorted(set(values) - set(fields))
  if unknown:
    raise ProtocolError(
      f'{where} has no field {_short(unknown[0])}; it has {", ".join(fields) or "none"}.'
    )
  missing = [name for name, field in fields.items() if field.required and name not in values]
  if missing:
    raise ProtocolError(f'{where} needs the field {missing[0]!r}.')
  return {name: _check_value(f'{where}.{name}', v, fields[name]) for name, v in values.items()}


def _check_value(where: str, value: Any, field: _Field) -> Any:
  numeric = field.kind in (int, float)
  if isinstance(value, int) and abs(value) > 2**60:
    raise ProtocolError(f'{where} is a number of {value.bit_length()} bits, which no field holds.')
  if numeric and isinstance(value, float) and field.kind is int and value.is_integer():
    value = int(value)
  if numeric and isinstance(value, int) and not isinstance(value, bool) and field.kind is float:
    value = float(value)
  if type(value) is not field.kind:
    wanted = {int: 'a whole number', float: 'a number', str: 'a text', list: 'a list'}[field.kind]
    raise ProtocolError(f'{where} must be {wanted}, not {_short(value)}.')
  size = value if numeric else len(value)
  if not field.low <= size <= field.high or (numeric and not math.isfinite(size)):
    what = where if numeric else f'the length of {where}'
    raise ProtocolError(f'{what} is {exact(size)}, which is not in {field.low:g}..{field.high:g}.')
  if field.kind is str:
    _check_text(where, value)
  return value


def _check_text(where: str, text: str):
  """JSON's escapes can write what UTF-8, the style model and the status page cannot."""
  try:
    check_unicode(text, where)
  except StyleError as error:
    raise ProtocolError(str(error), 'bad_text') from None
  if '\0' in text:
    raise ProtocolError(f'{where} has a NUL character at character {text.index(chr(0)) + 1}.',
                        'bad_text')  # fmt: skip


def _check_numbers(name: str, values: list[Any], low: float, high: float):
  for i, value in enumerate(values):
    values[i] = _check_value(f'{name}[{i}]', value, _Field(float, low, high))


def _check_choice(name: str, value: str, choices: tuple[str, ...]):
  if value not in choices:
    raise ProtocolError(f'{name}={_short(value)} is not one of {", ".join(choices)}.')


def _short(value: Any) -> str:
  text = repr(value)
  return text if len(text) <= 60 else text[:57] + '...'
