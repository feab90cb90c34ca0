"""A player keeps ahead by its buffer, takes back what was not heard, and hears loops."""

import dataclasses
import gc
import time
import tracemalloc

import numpy as np
import pytest

from inference import continuation, mix
from inference.player import Player
from inference.protocol import Limits, ProtocolError
from inference.session import SessionState
from inference.styles import StyleBook

from .jam_stand_ins import FRAME, SPEC, Codec, Engine, Style

CHUNK = SPEC.chunk_samples
RATE = SPEC.sample_rate


def eventually(condition, secs=300.0):
  """Waits until `condition()` holds; nothing else may hold it up for `secs`."""
  end = time.monotonic() + secs
  while not condition():
    assert time.monotonic() < end, 'it did not come about'
    time.sleep(0.002)


def settled(player):
  """Where the stream ends once the player wants no more; what is in the making counts as wanted."""
  eventually(lambda: not player._wants_more())
  return player.end


@pytest.fixture
def player():
  settings = mix.Settings(prompts=mix.on_a_ring(['organ', 'drums']), buffer_secs=1.0)
  player = Player(
    Engine(), StyleBook(Style(), {'mean': np.full(5, 2, np.float32)}), Limits(), settings=settings
  )
  yield player
  player.close()


def test_no_more_is_made_than_the_buffer_asks_for(player):
  assert CHUNK == 0.8 * RATE
  player.play()
  # Ahead 0, 0.8: made; at 1.6 s it is more than the buffer of 1 s ahead.
  eventually(lambda: player.end == 2 * CHUNK)
  assert settled(player) == 2 * CHUNK
  player.report(int(0.5 * RATE))  # 1.1 s ahead: enough.
  assert settled(player) == 2 * CHUNK
  player.report(int(0.6 * RATE))  # 1.0 s ahead: not any more.
  assert settled(player) == 3 * CHUNK
  # What was heard is forgotten, what may be asked for again is kept.
  player.report(CHUNK)
  assert player.first_kept() == CHUNK
  assert player.next_chunk(0).frame.start == CHUNK
  player.report(10**9)  # No more can be heard than was made.
  eventually(lambda: player.end > 3 * CHUNK)


def test_the_stream_is_one_line_and_follows_the_style(player):
  player.play()
  settled(player)
  player.apply({'type': 'weights', 'weights': [0.0, 1.0]})
  player.report(CHUNK)
  settled(player)
  first, last = player.next_chunk(CHUNK), player.next_chunk(player.end - 1)
  assert first.frame.settings_version == 0 and first.weights == (1, 0)
  assert last.frame.settings_version == 1 and last.weights == (0, 1)
  assert [chunk.frame.start % CHUNK for chunk in (first, last)] == [0, 0]
  requests = player.engine.requests
  assert [request.chunk_index for request in requests] == list(range(len(requests)))
  # 'organ' has 5 letters and so has 'drums'; the preset is another style.
  player.apply({'type': 'prompts', 'prompts': [{'kind': 'preset', 'content': 'mean'}]})
  player.report(player.end)
  settled(player)
  np.testing.assert_array_equal(player.engine.requests[-1].inputs[-2:], [40 + 2, 40 + 8 + 3])
  np.testing.assert_array_equal(player.engine.requests[-1].unconditional_inputs[-2:], [1, 1])


def test_stopping_takes_back_what_was_not_begun(player):
  player.apply({'type': 'buffer', 'secs': 4.0})
  player.play()
  assert settled(player) == 6 * CHUNK
  end = player.stop(int(1.5 * CHUNK))
  assert end == 2 * CHUNK and player.next_chunk(2 * CHUNK) is None
  assert settled(player) == 2 * CHUNK
  before = len(player.engine.requests)
  player.play()
  settled(player)
  again = player.engine.requests[before]
  assert again.chunk_index == 2
  np.testing.assert_array_equal(again.inputs, player.engine.requests[2].inputs)


def test_a_reset_begins_anew_behind_what_is_about_to_be_heard(player):
  player.apply({'type': 'buffer', 'secs': 4.0})
  player.play()
  settled(player)
  events = []

  class Listener:
    def chunk_ready(self):
      pass

    def event(self, message):
      events.append(message)

  player.attach(Listener())
  player.apply({'type': 'reset', 'seed': 7})
  # Half a second is left untouched: the chunk that holds it plays to its end.
  assert events[0] == {'type': 'taken_back', 'next_sample': CHUNK}
  settled(player)
  fresh = next(r for r in player.engine.requests if r.seed == 7)
  assert fresh.chunk_index == 0 and (fresh.inputs[: SPEC.context_length] == 1).all()
  # No click: the new start fades out of what the old one held back.
  old = player.next_chunk(CHUNK - 1).frame.audio[-1]
  new = player.next_chunk(CHUNK).frame.audio[0]
  np.testing.assert_allclose(new, old, rtol=0.05)


def test_a_chunk_in_the_making_does_not_outlive_a_reset(player):
  player.engine.hold.clear()
  player.play()
  eventually(lambda: player.engine.requests)
  player.apply({'type': 'reset', 'seed': 3})
  player.engine.hold.set()
  settled(player)
  assert player.next_chunk(0).before.state.seed == 3


def test_running_dry_doubles_the_buffer_and_calm_halves_it(player, monkeypatch):
  player.report(0, underruns=1)
  assert player.settings.buffer_secs == 2
  player.report(0, underruns=1)
  assert player.settings.buffer_secs == 2
  for count in range(2, 9):
    player.report(0, underruns=count)
  assert player.settings.buffer_secs == Limits().max_buffer_secs
  player.report(0, underruns=8)
  assert player.settings.buffer_secs == Limits().max_buffer_secs  # A minute has not passed.
  monkeypatch.setattr('inference.player.CALM_SECS', -1.0)
  seen = []
  for _ in range(7):
    player.report(0, underruns=8)
    seen.append(player.settings.buffer_secs)
  assert seen == [10, 5, 2.5, 1.25, 1, 1, 1]
  # What is asked for stays.
  player.apply({'type': 'buffer', 'secs': 6.0})
  player.report(0, underruns=8)
  assert player.settings.buffer_secs == 6


def test_playing_on_takes_no_more_memory(player):
  def play(count):
    for _ in range(count):
      player.report(player.end)
      settled(player)
    player.engine.requests.clear()
    gc.collect()

  tracemalloc.start()
  player.play()
  play(30)
  before = tracemalloc.take_snapshot()
  play(150)
  grown = tracemalloc.take_snapshot().compare_to(before, 'filename')
  tracemalloc.stop()
  # One chunk of sound alone is 51 kB here.
  assert sum(entry.size_diff for entry in grown) < 150_000


def test_the_clock_plays_without_reports(player):
  player.pace = 'clock'
  player.play()
  assert settled(player) == 0  # Nobody listens.
  player.attach(type('Nobody', (), {'chunk_ready': lambda s: None, 'event': lambda s, m: None})())
  player.play()
  start = time.monotonic()
  eventually(lambda: player.end >= 4 * CHUNK)
  # Four chunks are 3.2 s; two of them may be ahead.
  assert time.monotonic() - start > 1.0


def test_options_without_a_program_wait_for_it(player):
  player.play()
  settled(player)
  player.engine.ready = False
  player.apply({'type': 'sampling', 'top_k': 200, 'temperature': 0.5})
  player.report(player.end)
  settled(player)
  assert player.engine.requests[-1].sampling.top_k == 40
  assert player.engine.requests[-1].sampling.temperature == 0.5
  player.engine.ready = True
  player.report(player.end)
  settled(player)
  assert player.engine.requests[-1].sampling.top_k == 200


def test_a_model_that_fails_says_so_and_stops(player):
  events = []
  listener = type('L', (), {'chunk_ready': lambda s: None, 'event': lambda s, m: events.append(m)})
  player.attach(listener())
  player.engine.error = ValueError('no more notes')
  player.play()
  eventually(lambda: events)
  assert events[0]['message'] == 'no more notes' and not player.playing


def test_uploads_are_few_and_those_in_use_stay(player):
  upload = {'purpose': 'style', 'sample_rate': RATE}
  for k in range(Limits().max_uploads + 2):
    audio = np.full([800, 1], k / 100, np.float32)
    player.add_upload({'id': f'u{k}', **upload}, audio)
  with pytest.raises(ProtocolError, match="no audio prompt 'u1'"):
    player.apply({'type': 'prompts', 'prompts': [{'kind': 'audio', 'content': 'u1'}]})
  player.apply({'type': 'prompts', 'prompts': [{'kind': 'audio', 'content': 'u5'}]})
  for k in range(20, 40):
    player.add_upload({'id': f'u{k}', **upload}, np.zeros([800, 1], np.float32))
  np.testing.assert_allclose(player._embed('audio', 'u5'), 0.05)
  with pytest.raises(ProtocolError, match="no preset 'x'"):
    player.apply({'type': 'prompts', 'prompts': [{'kind': 'preset', 'content': 'x'}]})
  with pytest.raises(ProtocolError, match="no loop 'gone'"):
    player.apply({'type': 'inject', 'upload': 'gone'})


def test_a_loop_is_heard_by_the_conditioned_row_only(player):
  rng = np.random.default_rng(0)
  loop = rng.uniform(0.2, 0.9, [3000, 2]).astype(np.float32)
  player.play()
  settled(player)
  player.add_upload({'id': 'loop', 'purpose': 'inject', 'sample_rate': RATE}, loop)
  player.apply({'type': 'inject', 'upload': 'loop', 'amount': 1.0})
  end = player.end
  player.report(end)
  settled(player)
  request, length = player.engine.requests[2], SPEC.context_length
  assert not np.array_equal(request.inputs[:length], request.unconditional_inputs[:length])
  # First comes silence that compiles the encoder. The model hears the loop from where the stream
  # stood: of what it knows only the frame that is held back lies there.
  np.testing.assert_allclose(player.engine.codec.encoded[1][-FRAME:], loop[:FRAME], atol=1e-6)
  player.apply({'type': 'inject'})
  for _ in range(4):
    player.report(player.end)
    settled(player)
  last = player.engine.requests[-1]
  np.testing.assert_array_equal(last.inputs[:length], last.unconditional_inputs[:length])


def test_a_loop_repeats_and_keeps_its_place():
  loop = continuation.Loop(np.arange(10, dtype=np.float32)[:, None] * [1, 1], 100, 0.5)
  assert loop.between(98, 113)[:, 0].tolist() == [0, 0, *range(10), 0, 1, 2]


def test_the_newest_chunk_is_heard_mixed_the_older_as_before():
  codec = Codec()
  tail = np.full([FRAME, 2], 0.2, np.float32)
  state = dataclasses.replace(SessionState.initial(SPEC, 1), tail=tail)
  recent = np.full([2 * CHUNK, 2], 0.4, np.float32)
  at = continuation.Continuation(state, 2 * CHUNK, None, recent)
  loop = continuation.Loop(np.full([7, 2], 0.8, np.float32), 0, 0.25)
  heard = continuation.with_loop(at, loop, codec, SPEC).heard
  mixed = np.r_[np.full(2 * CHUNK, 0.75 * 0.4 + 0.2), np.full(FRAME, 0.75 * 0.2 + 0.2)]
  np.testing.assert_allclose(codec.encoded[0], np.stack([mixed, mixed], 1), rtol=1e-6)
  assert (heard[:2] == -1).all()  # Not known before, not known now.
  np.testing.assert_array_equal(heard[2:5], [[5, 50 % 8, 500 % 8]] * 3)
  assert continuation.with_loop(at, None, codec, SPEC) is at
