"""Messages of jam: what is taken, what is refused and how, and sound over the wire."""

import json

import numpy as np
import pytest

from inference import protocol
from inference.protocol import AudioFrame, Limits, ProtocolError, parse_message

LIMITS = Limits()


def parse(**message):
  return parse_message(json.dumps(message), LIMITS)


def test_messages_are_taken():
  assert parse(type='play') == {'type': 'play'}
  # A whole float is a whole number, an int is a number.
  assert parse(type='played', sample=96000.0)['sample'] == 96000
  assert parse(type='reset', seed=2**32 - 1)['seed'] == 2**32 - 1
  assert parse(type='sampling', temperature=1) == {'type': 'sampling', 'temperature': 1.0}
  prompts = [{'kind': 'text', 'content': 'organ', 'weight': 1}]
  assert parse(type='prompts', prompts=prompts)['prompts'][0]['weight'] == 1.0


@pytest.mark.parametrize(
  ('text', 'says'),
  [
    ('{', 'must be JSON'),
    ('[1]', 'must be a JSON object, not list'),
    ('{"type": "dance"}', "'dance' is not one of hello, play"),
    ('{"type": ["play"]}', 'is not one of'),
    ('{"type": "play", "loud": 1}', "play has no field 'loud'"),
    ('{"type": "played"}', "played needs the field 'sample'"),
    ('{"type": "played", "sample": "x"}', 'played.sample must be a whole number'),
    ('{"type": "played", "sample": true}', 'played.sample must be a whole number'),
    ('{"type": "played", "sample": -1}', r'-1, which is not in 0\.\.'),
    ('{"type": "sampling", "temperature": NaN}', 'temperature is nan'),
    ('{"type": "sampling", "temperature": 5}', r'5, which is not in 0\.\.4'),
    ('{"type": "sampling", "guidance_weight": 1e999}', 'inf'),
    ('{"type": "sampling", "top_k": 1.5}', 'must be a whole number'),
    ('{"type": "weights", "weights": []}', 'length of weights.weights is 0'),
    ('{"type": "weights", "weights": [1, null]}', r'weights\[1\] must be a number'),
    ('{"type": "weights", "weights": [3]}', r'weights\[0\] is 3'),
    ('{"type": "cursor", "x": 0.5}', "cursor needs the field 'y'"),
    ('{"type": "prompts", "prompts": [7]}', 'A prompt must be an object, not 7'),
    ('{"type": "prompts", "prompts": [{"kind": "song", "content": "x"}]}', "'song' is not one of"),
    ('{"type": "prompts", "prompts": [{"kind": "text", "content": " "}]}', 'is empty'),
    ('{"type": "buffer", "secs": 100}', r'100 is not in 0.25..20'),
    ('{"type": "hello", "protocol": 1, "format": "mp3"}', "'mp3' is not one of s16le, f32le"),
    ('{"type": "hello", "protocol": 1, "token": "a\\ud800"}', r"hello.token has .*'\\ud800'"),
    ('{"type": "hello", "protocol": 1, "name": "\\udfff"}', r"hello.name has .*'\\udfff' at char"),
    ('{"type": "hello", "protocol": 1, "name": "a\\u0000"}', 'hello.name has a NUL character at'),
    ('{"type": "prompts", "prompts": [{"kind": "text", "content": "\\ud800"}]}',
     'prompts.prompts.content has the lone surrogate'),
    ('{"type": "prompts", "prompts": [{"kind": "text", "content": "a", "label": "\\ud800"}]}',
     'prompts.prompts.label has the lone surrogate'),
    ('{"type": "inject", "upload": "\\ud800"}', 'inject.upload has the lone surrogate'),
    ('{"type": "play", "\\ud800": 1}', r"no field '\\ud800'"),
    ('{"type": "reset", "seed": 4294967296}', r'not in 0\.\.4'),
    ('{"type": "played", "sample": ' + '9' * 400 + '}', 'which no field holds'),
    ('{"type": "played", "sample": ' + '9' * 9000 + '}', 'must be JSON'),
  ],
)  # fmt: skip
def test_bad_messages_are_refused_with_a_reason(text, says):
  with pytest.raises(ProtocolError, match=says):
    parse_message(text, LIMITS)


def test_too_much_is_refused():
  with pytest.raises(ProtocolError, match='longer than 65536') as refused:
    parse_message(' ' * 70_000, LIMITS)
  assert refused.value.code == 'too_large'
  prompt = {'kind': 'text', 'content': 'x' * 501}
  with pytest.raises(ProtocolError, match='501 characters, longer than 500'):
    parse(type='prompts', prompts=[prompt])
  with pytest.raises(ProtocolError, match='length of prompts.prompts is 7'):
    parse(type='prompts', prompts=[{'kind': 'text', 'content': 'x'}] * 7)
  upload = {'id': 'a', 'purpose': 'style', 'format': 's16le', 'channels': 1, 'sample_rate': 8000}
  with pytest.raises(ProtocolError, match='30.0001 s of audio are more than the 30 s'):
    parse(type='upload', samples=8000 * 30 + 1, **upload)
  with pytest.raises(ProtocolError, match='must be JSON'):
    parse_message('[' * 60_000, LIMITS)


def test_sound_goes_over_the_wire_and_back():
  rng = np.random.default_rng(0)
  audio = rng.uniform(-1, 1, [7, 2]).astype(np.float32)
  for name, tolerance in (('s16le', 2e-5 + 1 / 32768), ('f32le', 0)):
    data = protocol.pack_audio(AudioFrame(3, 2**40, 9, audio), name)
    assert len(data) == 24 + 7 * 2 * (2 if name == 's16le' else 4)
    frame = protocol.unpack_audio(data)
    assert (frame.index, frame.start, frame.settings_version) == (3, 2**40, 9)
    np.testing.assert_allclose(frame.audio, audio, atol=tolerance)
  loud = protocol.encode_audio(np.array([[1.5, -1.5]]), 's16le')
  assert np.frombuffer(loud, '<i2').tolist() == [32767, -32768]
  with pytest.raises(ProtocolError, match='no audio frame'):
    protocol.unpack_audio(b'XX' + data[2:])
  with pytest.raises(ProtocolError, match='bytes'):
    protocol.unpack_audio(data[:-1])


def test_uploads_are_checked():
  upload = {'format': 'f32le', 'channels': 2, 'samples': 2, 'sample_rate': 8000}
  data = np.float32([0.5, -2, 3, 0]).tobytes()
  audio = protocol.decode_upload(upload, data)
  np.testing.assert_array_equal(audio, [[0.5, -1], [1, 0]])
  with pytest.raises(ProtocolError, match='are 16 bytes; 15 came'):
    protocol.decode_upload(upload, data[:-1])
  with pytest.raises(ProtocolError, match=r'nan at 0.000 s \(sample 0 of channel 2\)'):
    protocol.decode_upload(upload, np.float32([0, np.nan, 0, 0]).tobytes())
