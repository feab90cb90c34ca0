"""Whatever a client sends to jam: the right message or a refusal that says why.

The server stays alive, and its status page valid JSON in UTF-8.
"""

import contextlib
import copy
import json
import socket
import types
import urllib.request

import msgpack
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pythonosc.osc_message_builder import OscMessageBuilder
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from inference import mix, osc, protocol
from inference.protocol import Limits, ProtocolError, parse_message
from tests.fuzz.mutations import mutations, settings
from tests.inference.jam_stand_ins import running_server

PROMPT = {'kind': 'text', 'content': 'church organ', 'weight': 1.0, 'x': 0.5, 'y': 0, 'label': 'a'}
HELLO = {'type': 'hello', 'protocol': 1, 'token': 'secret', 'name': 'deck', 'format': 'f32le',
         'pace': 'reports', 'session': 'none', 'next_sample': 0}  # fmt: skip
UPLOAD = {'type': 'upload', 'id': 'loop', 'purpose': 'style', 'name': 'loop.wav',
          'format': 'f32le', 'channels': 2, 'sample_rate': 8000, 'samples': 800}  # fmt: skip
VALID = [
  {'type': 'play'},
  {'type': 'stop', 'next_sample': 800},
  {'type': 'played', 'sample': 96_000, 'underruns': 1},
  {'type': 'prompts', 'prompts': [PROMPT, {'kind': 'preset', 'content': 'mean'}],
   'cursor': [0.5, 0.2]},
  {'type': 'weights', 'weights': [0.25, 2]},
  {'type': 'cursor', 'x': 0.5, 'y': 1},
  {'type': 'sampling', 'temperature': 0.7, 'top_k': 40, 'guidance_weight': 5, 'seed': 2**32 - 1},
  {'type': 'reset', 'seed': 7},
  {'type': 'buffer', 'secs': 0.5},
  UPLOAD,
  {'type': 'inject', 'upload': 'loop', 'amount': 0.5},
  {'type': 'ping', 'time': 5.5},
  {'type': 'bye'},
]  # fmt: skip
# What a field may hold that it must not, or may hold only just.
NASTY = ['\ud800', 'a\udfffb', '\0', '', ' ', 'x' * 600, 'caf\u00e9 \U0001f3b9', '<b>',
         float('nan'), float('inf'), -float('inf'), -1, 0, 2**31, 2**32, 2**70, 5e-324, 1e308,
         True, None, [], {}, [[]], ['\ud800'], {'\ud800': 1}]  # fmt: skip
LIMITS = Limits(messages_per_sec=1e9, burst=10**9, max_bad_messages=10**9)
# Each of them comes with a reason.
NAMED_CODES = (1000, 1008, 1009, *range(4001, 4006))


def places(value, at=()):
  """Paths to everything inside of a message."""
  items = value.items() if isinstance(value, dict) else enumerate(value)
  for key, inner in items:
    yield (*at, key)
    if isinstance(inner, (dict, list)):
      yield from places(inner, (*at, key))


@st.composite
def changed_messages(draw, valid):
  """A valid message with a value replaced, a field added, or its JSON text damaged."""
  message = copy.deepcopy(draw(st.sampled_from(valid)))
  how = draw(st.sampled_from(['as it is', 'value', 'value', 'field', 'bytes']))
  if how == 'value':
    *way, last = draw(st.sampled_from(list(places(message))))
    inside = message
    for key in way:
      inside = inside[key]
    inside[last] = draw(st.sampled_from(NASTY))
  elif how == 'field':
    message[draw(st.sampled_from(['\ud800', 'loud', 'token', '']))] = draw(st.sampled_from(NASTY))
  data = json.dumps(message).encode()
  return draw(mutations(data, head=len(data))).data if how == 'bytes' else data


def assert_same(taken, sent):
  """A message holds what was sent; whole floats may have become ints, and the reverse."""
  if isinstance(sent, dict):
    assert taken.keys() == sent.keys()
    for key, value in sent.items():
      assert_same(taken[key], value)
  elif isinstance(sent, list):
    for pair in zip(taken, sent, strict=True):
      assert_same(*pair)
  else:
    assert taken == sent and isinstance(taken, str) == isinstance(sent, str)


@given(changed_messages([*VALID, HELLO]))
@settings(300)
def test_a_message_is_what_was_sent_or_is_refused_with_a_reason(data):
  text = data.decode(errors='surrogateescape')
  try:
    message = parse_message(text, LIMITS)
  except ProtocolError as error:
    assert len(str(error)) > 10
    str(error).encode()  # It can be sent.
    return
  assert_same(message, json.loads(text))
  json.dumps(message, ensure_ascii=False, allow_nan=False).encode()


@given(st.sampled_from(['s16le', 'f32le']), st.data())
@settings(100)
def test_audio_that_comes_is_finite_or_refused(audio_format, data):
  upload = UPLOAD | {'format': audio_format, 'samples': 8}
  valid = protocol.encode_audio(np.linspace(-1, 1, 16).reshape(8, 2), audio_format)
  sent = data.draw(mutations(valid, head=len(valid))).data
  try:
    audio = protocol.decode_upload(upload, sent)
  except ProtocolError:
    return
  assert audio.shape == (8, 2) and np.abs(audio).max() <= 1
  kind = '<i2' if audio_format == 's16le' else '<f4'
  scale = 32768 if audio_format == 's16le' else 1
  np.testing.assert_array_equal(audio.ravel(), np.clip(np.frombuffer(sent, kind) / scale, -1, 1))


@pytest.fixture(scope='module')
def server():
  with running_server(LIMITS, token='secret') as server:
    yield server


def status(server):
  request = urllib.request.Request(
    f'http://127.0.0.1:{server.port}/api/status', headers={'Authorization': 'Bearer secret'}
  )
  text = urllib.request.urlopen(request, timeout=60).read().decode('utf-8', errors='strict')
  return json.loads(text, parse_constant=pytest.fail)


def is_named(closed, data):
  """Whether a connection ended for a reason that the client was told."""
  try:
    data.decode()
  except UnicodeDecodeError:
    # Not a text message at all: the standard's 1007, at once, so that it may be lost on the way.
    return closed.rcvd is None or closed.rcvd.code == 1007
  return closed.rcvd is not None and closed.rcvd.code in NAMED_CODES and closed.rcvd.reason


def tracebacks(caplog):
  """Of the server; the client has one where a connection ends while it reads."""
  ours = [entry for entry in caplog.records if not entry.name.startswith('websockets')]
  return [entry.getMessage() for entry in ours if entry.exc_info]


class Talk:
  """A connection that is made anew where the server has closed it for a reason."""

  def __init__(self, server):
    self._server, self._socket = server, None

  def say(self, data, *, text):
    """Sends a message and returns what was answered, or the reason of the end."""
    if self._socket is None:
      self._socket = connect(f'ws://127.0.0.1:{self._server.port}/ws', proxy=None, max_size=None)
      self._socket.send(json.dumps(HELLO))
      assert json.loads(self._socket.recv(timeout=60))['type'] == 'welcome'
    try:
      self._socket.send(data, text=text)
      if text and b'upload' in data:  # Where one was announced, sound must come next.
        self._socket.send(np.full(1600, 0.1, '<f4').tobytes())
      self._socket.send('{"type":"ping","time":0.125}')
      answers = []
      while not answers or answers[-1] != {'type': 'pong', 'time': 0.125}:
        answer = self._socket.recv(timeout=60)
        if isinstance(answer, str):
          answers.append(json.loads(answer, parse_constant=pytest.fail))
      return answers
    except ConnectionClosed as closed:
      assert is_named(closed, data), (data, closed)
      self._socket = None
      return [closed.rcvd]

  def close(self):
    with contextlib.suppress(ConnectionClosed):
      if self._socket is not None:
        self._socket.send('{"type":"bye"}')
        self._socket.close()


def test_whatever_comes_the_server_answers_and_its_status_is_valid(server, caplog):
  talk = Talk(server)

  @given(changed_messages(VALID), st.sampled_from(['text', 'text', 'binary', 'msgpack']))
  @settings(120)
  def whatever(data, kind):
    if kind == 'msgpack':
      # What is not JSON any more, or fits into no msgpack, is sent as it is.
      with contextlib.suppress(ValueError, OverflowError):
        data = msgpack.packb(json.loads(data))
    assert talk.say(data, text=kind == 'text')

  whatever()
  talk.close()
  for player in status(server)['players']:
    assert player['name'] == 'deck'
  # Nothing went wrong inside, either.
  assert not tracebacks(caplog)


def test_whoever_comes_is_welcome_or_told_why_not(server, caplog):
  @given(changed_messages([HELLO]))
  @settings(60)
  def whoever(data):
    with connect(f'ws://127.0.0.1:{server.port}/ws', proxy=None) as client:
      client.send(data, text=True)
      try:
        answer = json.loads(client.recv(timeout=60))
        assert answer['type'] in ('welcome', 'error')
        if answer['type'] == 'error':
          assert answer['code'] == 'bad_text'
          client.send(json.dumps(HELLO))
          assert json.loads(client.recv(timeout=60))['type'] == 'welcome'
        client.send('{"type":"bye"}')
        client.recv(timeout=60)
      except ConnectionClosed as closed:
        assert is_named(closed, data), (data, closed)

  whoever()
  status(server)
  assert not tracebacks(caplog)


def osc_packet(address, *values):
  builder = OscMessageBuilder(address)
  for value in values:
    builder.add_arg(value)
  return builder.build().dgram


OSC = [
  osc_packet('/woodshed/weight', 1, 0.5),
  osc_packet('/woodshed/weights', float('nan'), 1e30),
  osc_packet('/woodshed/weight', float('inf'), float('inf')),
  osc_packet('/woodshed/prompt', 2, 'gamelan'),
  osc_packet('/woodshed/prompt', 2, b'\xff\xfe', [1, 2]),
  osc_packet('/woodshed/player/1/cursor', 0.5, True),
  osc_packet('/woodshed/seed', -1),
]


class Players:
  """One player; remembers what it took."""

  limits = LIMITS

  def __init__(self):
    settings = mix.Settings(prompts=mix.on_a_ring(['organ', 'drums']))
    self.player, self.taken = types.SimpleNamespace(settings=settings), []

  def all(self):
    return [self.player]

  def apply_to_all(self, message, number):
    self.taken.append(message)
    return 1


def test_whatever_comes_by_osc_is_taken_or_counted(capfd):
  server = osc.bind('127.0.0.1', 0)
  players = Players()
  listener = osc.OscInput(players, server)
  with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:

    @given(st.sampled_from(OSC).flatmap(lambda packet: mutations(packet, head=len(packet))))
    @settings(150)
    def whatever(packet):
      before = len(players.taken) + listener.refused
      sender.sendto(packet.data, server.server_address)
      server.handle_request()
      assert len(players.taken) + listener.refused == before + 1

    whatever()
    players.taken.clear()
    for packet in OSC:
      sender.sendto(packet, server.server_address)
      server.handle_request()
  server.server_close()
  weights, prompts, cursor = players.taken
  assert weights == {'type': 'weights', 'weights': [0.5, 0.0]}
  assert [prompt['content'] for prompt in prompts['prompts']] == ['organ', 'gamelan']
  assert cursor == {'type': 'cursor', 'x': 0.5, 'y': 1.0}
  assert capfd.readouterr().err == ''
