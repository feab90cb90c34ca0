"""The server over real sockets: who may connect, what is refused, what is bounded, what resumes."""

import errno
import gc
import json
import threading
import time
import tracemalloc
import urllib.error
import urllib.request

import numpy as np
import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

from inference import osc, protocol
from inference.addresses import AddressError, explained, listen
from inference.client import JamClient, JamError
from inference.protocol import Limits
from inference.server import is_loopback, may_connect

from .jam_stand_ins import FRAME, SPEC, Engine, running_server

CHUNK = SPEC.chunk_samples


def assert_chunks(audio, count):
  """Chunk k is a level of (1 + k) / 1000 behind a crossfade of one frame."""
  for k in range(count):
    held = audio[k * CHUNK + FRAME : (k + 1) * CHUNK]
    np.testing.assert_allclose(held, (1 + k) / 1000, rtol=1e-6)


def eventually(condition, secs=300.0):
  end = time.monotonic() + secs
  while not condition():
    assert time.monotonic() < end, 'it did not come about'
    time.sleep(0.01)


def address(server):
  return f'ws://127.0.0.1:{server.port}/ws'


def say_hello(socket, **fields):
  socket.send(json.dumps({'type': 'hello', 'protocol': 1, **fields}))
  return json.loads(socket.recv(timeout=300))


@pytest.fixture(scope='module')
def server():
  with running_server(Limits(max_players=4, hello_secs=600.0)) as server:
    yield server


@pytest.fixture
def jam(server):
  with JamClient(server.url, audio_format='f32le', timeout=300) as client:
    yield client


def test_a_client_steers_and_reads(server, jam):
  assert jam.welcome['sample_rate'] == 8000 and jam.welcome['presets'] == ['mean']
  jam.set_prompts({'organ': 1.0, 'preset:mean': 0.5})
  assert jam.wait_for('settings')['prompts'][1]['kind'] == 'preset'
  jam.play()
  audio = jam.read(2.5)
  assert audio.shape == (20_000, 2)
  assert_chunks(audio, 3)
  chunks = [event for event in jam.events if event['type'] == 'chunk']
  assert [c['start'] for c in chunks] == [k * CHUNK for k in range(len(chunks))]
  assert chunks[0]['weights'] == [1.0, 0.5] and not chunks[0]['slow']
  status = server.status()
  assert status['players'][-1]['name'] == 'python' and status['players'][-1]['playing']


def test_stop_and_play_lose_nothing(jam):
  jam.play()
  first = jam.read(1.0)
  jam.stop()
  jam.play()
  second = jam.read(1.0)
  audio = np.concatenate([first, second])
  assert_chunks(audio, 2)


def test_a_lost_connection_goes_on_without_a_gap(server, jam):
  jam.play()
  parts = []
  for _ in range(5):
    parts.append(jam.read(0.7))
    jam.drop()
  audio = np.concatenate(parts)
  assert jam.connections >= 4 and jam.welcome['resumed']
  assert_chunks(audio, 4)


def test_a_session_that_goes_on_elsewhere_ends_here(server, jam):
  with connect(address(server), proxy=None) as other:
    welcome = say_hello(other, session=jam.session)
    assert welcome['resumed']
    with pytest.raises(JamError, match='goes on in another connection'):
      jam.wait_for('never')


def test_audio_prompts_and_loops_are_uploaded(server, jam):
  name = jam.upload(np.full(800, 0.25, np.float32), 8000)
  jam.set_prompts([{'kind': 'audio', 'content': name}])
  assert jam.wait_for('settings')['prompts'][0]['content'] == name
  loop = jam.upload(np.full([800, 2], 0.25, np.float32), 16_000, purpose='inject')
  jam.inject(loop, 0.7)
  assert jam.wait_for('settings')['inject'] == {'upload': loop, 'amount': 0.7}
  jam.send('inject', upload='nowhere')
  with pytest.raises(JamError, match='upload it first') as refused:
    jam.wait_for('settings')
  assert refused.value.code == 'no_upload'


def test_bad_messages_are_answered_and_many_of_them_end_it(server):
  with connect(address(server), proxy=None) as socket:
    say_hello(socket)
    for bad in ('{', '{"type":"dance"}', '{"type":"hello","protocol":1}', b'noise'):
      socket.send(bad)
      assert json.loads(socket.recv(timeout=300))['type'] == 'error'
    socket.send('{"type":"ping","time":5}')
    assert json.loads(socket.recv(timeout=300)) == {'type': 'pong', 'time': 5.0}
    with pytest.raises(ConnectionClosed) as closed:
      for _ in range(40):
        socket.send('x')
        socket.recv(timeout=300)
    assert closed.value.rcvd.code == 1008 and 'bad messages' in closed.value.rcvd.reason


def test_an_upload_that_is_not_as_announced_is_refused(server):
  upload = {'type': 'upload', 'id': 'a', 'purpose': 'style', 'format': 's16le', 'channels': 1,
            'sample_rate': 8000, 'samples': 10}  # fmt: skip
  with connect(address(server), proxy=None) as socket:
    say_hello(socket)
    socket.send(json.dumps(upload))
    socket.send(b'xx')
    assert '20 bytes; 2 came' in json.loads(socket.recv(timeout=300))['message']
    socket.send(json.dumps(upload))
    socket.send('{"type":"play"}')
    assert 'binary message must come' in json.loads(socket.recv(timeout=300))['message']
    socket.send(json.dumps(upload | {'samples': 10**9}))
    assert json.loads(socket.recv(timeout=300))['code'] == 'too_large'


def test_a_huge_message_is_cut_off_unread(server):
  limit = Limits().max_upload_bytes(SPEC.sample_rate, SPEC.num_channels)
  with connect(address(server), proxy=None, max_size=None) as socket:
    say_hello(socket)
    with pytest.raises(ConnectionClosed) as closed:
      socket.send(bytes(4 * limit))
      socket.recv(timeout=300)
    assert closed.value.rcvd is None or closed.value.rcvd.code == 1009


def test_too_many_messages_end_it():
  # A bucket that does not refill while the test runs, however slow the machine is.
  limits = Limits(messages_per_sec=1e-6)
  with running_server(limits) as server, connect(address(server), proxy=None) as socket:
    say_hello(socket)
    with pytest.raises(ConnectionClosed) as closed:
      for _ in range(1000):
        socket.send('{"type":"ping"}')
      while True:
        socket.recv(timeout=300)
    assert closed.value.rcvd.code == 1008 and 'messages a second' in closed.value.rcvd.reason


@pytest.mark.parametrize(
  ('first', 'says'),
  [
    ('{"type":"play"}', 'first message must be hello'),
    ('{"type":"hello","protocol":2}', 'protocol 1, not 2'),
    ('x', 'must be JSON'),
  ],
)
def test_who_does_not_say_hello_is_let_go(server, first, says):
  with connect(address(server), proxy=None) as socket:
    socket.send(first)
    with pytest.raises(ConnectionClosed) as closed:
      socket.recv(timeout=300)
    assert closed.value.rcvd.code == protocol.CLOSE_NO_HELLO
    assert says in closed.value.rcvd.reason


def test_who_says_nothing_is_let_go():
  limits = Limits(hello_secs=0.1)
  with running_server(limits) as server, connect(address(server), proxy=None) as socket:
    with pytest.raises(ConnectionClosed) as closed:
      socket.recv(timeout=300)
    assert closed.value.rcvd.code == protocol.CLOSE_NO_HELLO
    assert 'no hello came' in closed.value.rcvd.reason


def test_when_all_places_are_taken_the_next_is_told(server):
  clients = [JamClient(server.url, timeout=300) for _ in range(4)]
  with pytest.raises(JamError, match='All 4 places are taken') as refused:
    JamClient(server.url, timeout=300)
  assert refused.value.code == str(protocol.CLOSE_FULL)
  # Who has lost the connection makes room for who comes.
  clients[0]._socket.close()
  with JamClient(server.url, timeout=10, retry_secs=300):
    pass
  for client in clients[1:]:
    client.close()


def test_pages_of_others_are_refused(server):
  for header in ({'Origin': 'https://evil.example'}, {'Origin': 'null'}):
    with pytest.raises(InvalidStatus) as refused:
      connect(address(server), proxy=None, additional_headers=header)
    assert refused.value.response.status_code == 403
  own = f'http://127.0.0.1:{server.port}'
  with connect(address(server), proxy=None, origin=own) as socket:
    assert say_hello(socket)['type'] == 'welcome'


@pytest.mark.parametrize(
  ('host', 'origin', 'loopback', 'allowed'),
  [
    ('127.0.0.1:8765', None, True, True),
    ('localhost:8765', 'http://localhost:8765', True, True),
    ('[::1]:8765', 'http://[::1]:8765', True, True),
    ('localhost:8765', 'http://localhost:9999', True, False),
    ('rebound.example:8765', 'http://rebound.example:8765', True, False),
    ('', None, True, False),
    ('[::1', None, True, False),
    ('localhost:8765', 'http://[::1', True, False),
    ('studio.lan:8765', 'http://studio.lan:8765', False, True),
    ('studio.lan:8765', 'https://friend.example', False, True),
    ('studio.lan:8765', 'https://evil.example', False, False),
    ('studio.lan:8765', 'file://studio.lan:8765', False, False),
  ],
)
def test_origin_and_host_are_checked(host, origin, loopback, allowed):
  origins = ['https://friend.example']
  assert may_connect(host, origin, loopback=loopback, origins=origins) is allowed


def test_hosts_that_others_reach_need_a_token():
  assert is_loopback('127.0.0.1') and is_loopback('::1') and is_loopback('localhost')
  assert not is_loopback('0.0.0.0') and not is_loopback('studio.lan')
  with pytest.raises(ValueError, match='0.0.0.0 can be reached'), running_server(host='0.0.0.0'):
    pass
  with running_server(token='secret') as server:
    assert server.url.endswith('#token=secret')
    with JamClient(server.url, timeout=300) as jam:
      assert jam.session
    for token in ('', 'wrong', 'sécret'):
      with pytest.raises(JamError, match='token is missing or wrong'):
        JamClient(server.url, token=token, timeout=300)
    with pytest.raises(urllib.error.HTTPError) as refused:
      urllib.request.urlopen(f'http://127.0.0.1:{server.port}/api/status')
    assert refused.value.code == 401
    request = urllib.request.Request(
      f'http://127.0.0.1:{server.port}/api/status', headers={'Authorization': 'Bearer secret'}
    )
    assert json.load(urllib.request.urlopen(request))['model'] == 'toy'


def test_the_page_is_served_whole_and_asks_nobody_else(server):
  base = f'http://127.0.0.1:{server.port}'
  page = urllib.request.urlopen(base + '/')
  policy = page.headers['Content-Security-Policy']
  assert "default-src 'self'" in policy and 'unsafe' not in policy
  text = page.read().decode()
  assert 'https://' not in text and 'http://' not in text
  for name in ('app.js', 'ring.js', 'style.css', 'icon.svg'):
    answer = urllib.request.urlopen(f'{base}/{name}')
    assert answer.status == 200
    assert 'https://' not in answer.read().decode()
  with pytest.raises(urllib.error.HTTPError):
    urllib.request.urlopen(f'{base}/../server.py')


@pytest.mark.parametrize('many', [90, pytest.param(1000, marks=pytest.mark.slow)])
def test_many_connections_leave_nothing_behind(server, many):
  def come_and_go(count):
    for k in range(count):
      with connect(address(server), proxy=None, compression=None) as socket:
        if k % 3:
          say_hello(socket)
        if k % 3 == 2:
          socket.send('{"type":"play"}')

  come_and_go(30)
  threads = threading.active_count()
  gc.collect()
  tracemalloc.start()
  before = tracemalloc.take_snapshot()
  come_and_go(many)
  eventually(lambda: not server.status()['connections'])
  gc.collect()
  after = tracemalloc.take_snapshot()
  tracemalloc.stop()
  grown = sum(entry.size_diff for entry in after.compare_to(before, 'filename'))
  assert grown < 1_000_000, f'{grown} bytes'
  assert threading.active_count() <= threads + 4
  assert len(server.players.all()) <= 4


def test_sessions_of_the_lost_are_forgotten_in_time():
  with running_server(Limits(resume_secs=0.2)) as server:
    jam = JamClient(server.url, timeout=300)
    jam._socket.close()

    def forgotten():
      server.players.forget_lost()
      return not server.players.all()

    eventually(forgotten)


def test_a_listener_that_does_not_read_is_bounded():
  engine = Engine()
  with running_server(engine=engine) as server, connect(address(server), proxy=None) as socket:
    say_hello(socket)
    socket.send('{"type":"play"}')
    eventually(lambda: server.status()['players'][0]['ahead_secs'] == 0.8)
    (player,) = server.players.all()
    eventually(lambda: not player._wants_more())
    # Half a second is asked for: nothing is made beyond that, whoever waits.
    assert len(engine.requests) == 1
    assert server.status()['players'][0]['ahead_secs'] == 0.8


def test_osc_steers_all_players_and_one(server):
  from pythonosc.udp_client import SimpleUDPClient

  listener = osc.OscInput(server.players, osc.bind('127.0.0.1', 0))
  listener.start()
  client = SimpleUDPClient('127.0.0.1', listener.port)
  with JamClient(server.url, timeout=300) as one, JamClient(server.url, timeout=300) as two:
    client.send_message('/woodshed/weights', [0.25, 0.75])
    assert [p['weight'] for p in one.wait_for('settings')['prompts']] == [0.25, 0.75]
    two.wait_for('settings')
    number = [p.session for p in server.players.all()].index(two.session) + 1
    client.send_message(f'/woodshed/player/{number}/prompt', [2, 'gamelan'])
    assert two.wait_for('settings')['prompts'][1]['content'] == 'gamelan'
    client.send_message('/woodshed/weight', [1, 1.0])
    settings = one.wait_for('settings')
    assert [p['weight'] for p in settings['prompts']] == [1.0, 0.75]
    assert settings['prompts'][1]['content'] == 'drums'
    client.send_message('/woodshed/temperature', 0.5)
    assert one.wait_for('settings')['sampling']['temperature'] == 0.5
    client.send_message('/woodshed/play', [])
    assert one.wait_for('asked') == {'type': 'asked', 'to': 'play'}
    refused = listener.refused
    client.send_message('/woodshed/weight', [9, 1.0])
    client.send_message('/woodshed/top_k', ['x'])
    client.send_message('/else', [1])
    client.send_message('/woodshed/guidance', 2.0)
    one.wait_for('settings')
    assert listener.refused == refused + 3
  listener.stop()


SURROGATE = '\ud800'


@pytest.mark.parametrize(
  'message',
  [
    {'type': 'prompts', 'prompts': [{'kind': 'text', 'content': SURROGATE}]},
    {'type': 'prompts', 'prompts': [{'kind': 'text', 'content': 'a', 'label': SURROGATE}]},
    {'type': 'prompts', 'prompts': [{'kind': SURROGATE, 'content': 'a'}]},
    {'type': 'inject', 'upload': SURROGATE},
    {'type': 'hello', 'protocol': 1, 'name': SURROGATE},
    {'type': SURROGATE},
    {'type': 'play', SURROGATE: 1},
  ],
)
def test_text_that_is_no_unicode_is_answered_and_the_connection_lives(server, message):
  with connect(address(server), proxy=None) as socket:
    say_hello(socket)
    socket.send(json.dumps(message))
    answer = json.loads(socket.recv(timeout=60))
    assert answer['type'] == 'error' and 'ud800' in answer['message']
    socket.send('{"type":"ping","time":5}')
    assert json.loads(socket.recv(timeout=60))['type'] == 'pong'
    socket.send('{"type":"bye"}')


@pytest.mark.parametrize('field', ['token', 'name', 'session'])
def test_a_hello_that_is_no_unicode_may_be_said_anew(server, field):
  with connect(address(server), proxy=None) as socket:
    answer = say_hello(socket, **{field: SURROGATE})
    assert (answer['type'], answer['code']) == ('error', 'bad_text')
    assert f"hello.{field} has the lone surrogate '\\ud800'" in answer['message']
    # Nobody else has noticed.
    status = urllib.request.urlopen(f'http://127.0.0.1:{server.port}/api/status').read().decode()
    assert json.loads(status)['model'] == 'toy'
    assert say_hello(socket, name='café')['type'] == 'welcome'
    status = urllib.request.urlopen(f'http://127.0.0.1:{server.port}/api/status').read().decode()
    assert json.loads(status)['players'][-1]['name'] == 'café'
    socket.send('{"type":"bye"}')
  with pytest.raises(JamError, match='name has the lone surrogate') as refused:
    JamClient(server.url, name=SURROGATE, timeout=60)
  assert refused.value.code == 'bad_text'


def test_the_status_page_is_valid_whatever_a_name_holds(server, jam):
  player = server.players.all()[-1]
  player.name = SURROGATE
  status = urllib.request.urlopen(f'http://127.0.0.1:{server.port}/api/status').read()
  assert json.loads(status.decode())['players'][-1]['name'] == SURROGATE


def test_what_a_style_model_cannot_do_is_answered(server, jam, monkeypatch, caplog):
  def embed(text):
    raise {'nan': RuntimeError('broken model')}[text]

  monkeypatch.setattr(server.players.styles, 'text', embed)
  jam.set_prompts({'nan': 1.0})
  with pytest.raises(JamError, match='its log says why') as refused:
    jam.wait_for('settings')
  assert refused.value.code == 'internal' and 'broken model' in caplog.text
  monkeypatch.undo()
  model = server.players.styles._model
  monkeypatch.setattr(model, 'embed_text', lambda texts: np.full([1, 5], np.nan))
  jam.set_prompts({'never said before': 1.0})
  with pytest.raises(JamError, match='NaN or infinite coordinates') as refused:
    jam.wait_for('settings')
  assert refused.value.code == 'bad_style'
  monkeypatch.undo()
  jam.set_prompts({'organ': 1.0})
  assert jam.wait_for('settings')['prompts'][0]['content'] == 'organ'


def test_what_is_odd_about_an_upload_is_told(server, jam):
  jam.upload(np.zeros(800, np.float32), 8000)
  assert 'is silent' in jam.events[-2]['message'] and jam.events[-2]['code'] == 'silent'
  with pytest.raises(JamError, match='0.0999 s of audio; at least 0.1 s'):
    jam.upload(np.ones(799, np.float32), 8000)
  for value, reason in ((np.nan, 'the first is nan at 0.000 s'), (32768, '90 dB above full scale')):
    with pytest.raises(JamError, match=reason):
      jam.upload(np.full(800, value, np.float32), 8000)
  loud = np.float32([[0.5, -2]] * 800)
  jam.send('upload', id='loud', purpose='style', format='f32le', channels=2, sample_rate=8000,
           samples=800)  # fmt: skip
  jam._socket.send(loud.tobytes())
  assert "800 of 1600 samples of the upload 'loud'" in jam.wait_for('notice')['message']
  jam.wait_for('uploaded')


def test_a_resumed_stream_cannot_begin_beyond_its_end(server, jam):
  jam.play()
  jam.read(0.5)
  with connect(address(server), proxy=None) as other:
    welcome = say_hello(other, session=jam.session, next_sample=2**53)
    assert welcome['resumed'] and welcome['next_sample'] <= server.players.all()[-1].end


@pytest.mark.parametrize(
  ('host', 'port', 'reason'),
  [
    ('127.0.0.1', 65536, r'--port=65536 is not in 0\.\.65535'),
    ('127.0.0.1', -1, r'--port=-1 is not in 0\.\.65535'),
    ('192.0.2.7', 0, '--host=192.0.2.7 is not an address of this machine'),
    ('no host', 0, '--host=no host is not an address of this machine'),
    ('::zz', 0, 'is not an address of this machine'),
    ('a' * 300, 0, 'is not an address of this machine'),
    ('\udcff', 0, 'is not an address of this machine'),
    ('', 0, '--host is empty'),
  ],
)
def test_addresses_that_cannot_be_had_are_told(host, port, reason):
  with pytest.raises(AddressError, match=reason):
    listen(host, port)
  with pytest.raises(AddressError, match=reason.replace('--', '--osc_')):
    osc.bind(host, port)


def test_rights_that_a_port_takes_are_told():
  def refuse():
    raise PermissionError(errno.EACCES, 'Permission denied')

  with pytest.raises(AddressError, match='80 cannot be bound .* take one above 1023'):
    explained(refuse, '127.0.0.1', 80)


def test_a_port_in_use_is_told(server):
  taken = type(server)(server.players, model_name='x', port=server.port)
  with pytest.raises(AddressError, match='another program has the port.*--port=0'):
    taken.bind()
  with listen('127.0.0.1', 0) as first:  # Not even one that has not accepted anybody yet.
    with pytest.raises(AddressError, match='cannot be bound'):
      listen('127.0.0.1', first.getsockname()[1])
  first = osc.bind('127.0.0.1', 0)
  with pytest.raises(AddressError, match='--osc_port=0'):
    osc.bind('127.0.0.1', first.server_address[1])
  first.server_close()
