"""One WebSocket connection: hello, then messages in and sound out, side by side.

What goes out is bounded: sound by how far the player may be ahead of what the listener has
reported, messages by a short queue. A listener that does not take them is let go; its session
waits for it.
"""

import asyncio
import contextlib
import hmac
import json
import logging
import time
from typing import Any

from starlette.websockets import WebSocket, WebSocketDisconnect, WebSocketState

from inference import protocol
from inference.player import Chunk, Player
from inference.players import Players
from inference.protocol import AudioFrame, Limits, ProtocolError

_MAX_EVENTS = 256  # Messages that may wait for a listener.
_SETTINGS = ('prompts', 'weights', 'cursor', 'sampling', 'reset', 'buffer', 'inject')
_PREFERRED_FORMAT = 's16le'
_CLOSE_INTERNAL = 1011
_INTERNAL = "The server failed at this; its log says why. It is not the client's fault."


class RateLimit:
  """A bucket of `burst` messages that refills at `per_sec`."""

  def __init__(self, per_sec: float, burst: int):
    self._per_sec, self._burst = per_sec, burst
    self._left, self._since = float(burst), time.monotonic()

  def take(self) -> bool:
    """Whether one more message is allowed now."""
    now = time.monotonic()
    self._left = min(self._burst, self._left + (now - self._since) * self._per_sec)
    self._since = now
    if self._left < 1:
      return False
    self._left -= 1
    return True


class Connection:
  """What listens to a player on behalf of one WebSocket."""

  def __init__(self, websocket: WebSocket, players: Players, facts: dict[str, Any], token: str):
    """Prepares to `serve`.

    Args:
      websocket: accepted already.
      players: where the session is kept.
      facts: that `welcome` tells besides the session.
      token: that `hello` must bear; '' for none.
    """
    self._websocket, self._players, self._facts, self._token = websocket, players, facts, token
    self._limits: Limits = players.limits
    self._loop = asyncio.get_running_loop()
    self._wake = asyncio.Event()
    self._events: list[dict[str, Any]] = []
    self._rate = RateLimit(self._limits.messages_per_sec, self._limits.burst)
    self._format = _PREFERRED_FORMAT
    self._next = 0
    self._upload: dict[str, Any] | None = None
    self._bad = 0
    self._close: tuple[int, str] | None = None

  async def serve(self):
    """Runs until either side closes; what the protocol refuses closes with its code."""
    try:
      player = await self._enter()
    except _Closing as closing:
      await self._end(closing.code, closing.reason)
      return
    except WebSocketDisconnect:
      return
    except Exception:  # Whatever it is, who connects must hear of it, and others must not.
      logging.exception('A connection could not begin.')
      await self._end(_CLOSE_INTERNAL, _INTERNAL)
      return
    sender = asyncio.create_task(self._send_all(player))
    reader = asyncio.create_task(self._read_all(player))
    try:
      done, _ = await asyncio.wait({sender, reader}, return_when=asyncio.FIRST_COMPLETED)
      for task in done:
        self._note_end(task.exception())
    finally:
      player.detach(self)
      for task in (sender, reader):
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError, Exception):
          await task
    await self._end(*(self._close or (1000, '')))

  # The player's side; called from any thread.

  def chunk_ready(self):
    self._call(self._wake.set)

  def event(self, message: dict[str, Any]):
    self._call(self._queue, message)

  def end_from(self, code: int, reason: str):
    """Closes the connection, from any thread."""
    self._call(self._set_close, code, reason)

  def _call(self, function: Any, *arguments: Any):
    with contextlib.suppress(RuntimeError):  # The server's loop has ended.
      self._loop.call_soon_threadsafe(function, *arguments)

  def _queue(self, message: dict[str, Any]):
    # Of settings only the last ones matter.
    if message['type'] == 'settings':
      self._events = [event for event in self._events if event['type'] != 'settings']
    self._events.append(message)
    if len(self._events) > _MAX_EVENTS:
      self._set_close(protocol.CLOSE_TOO_SLOW, 'too many messages wait to be read')
    self._wake.set()

  def _set_close(self, code: int, reason: str):
    self._close = self._close or (code, reason)
    self._wake.set()

  # Hello.

  async def _enter(self) -> Player:
    try:
      async with asyncio.timeout(self._limits.hello_secs):
        hello = await self._hello()
    except TimeoutError:
      reason = f'no hello came within {self._limits.hello_secs:g} s'
      raise _Closing(protocol.CLOSE_NO_HELLO, reason) from None
    if not hmac.compare_digest(hello.get('token', '').encode(), self._token.encode()):
      raise _Closing(protocol.CLOSE_UNAUTHORIZED, 'the token is missing or wrong')
    try:
      player, resumed = self._players.enter(hello.get('session'), hello.get('name', ''))
    except ProtocolError as error:
      raise _Closing(protocol.CLOSE_FULL, str(error)) from None
    player.pace = hello.get('pace', 'reports')
    before = player.attach(self)
    if isinstance(before, Connection):
      before.end_from(protocol.CLOSE_TAKEN_OVER, 'the session goes on in another connection')
    self._format = hello.get('format', _PREFERRED_FORMAT)
    first = player.first_kept()
    self._next = first
    if resumed:  # Beyond the end there is nothing that it could have heard.
      self._next = max(min(hello.get('next_sample', first), player.end), first)
    await self._send_json(
      {
        'type': 'welcome',
        'protocol': protocol.PROTOCOL_VERSION,
        'session': player.session,
        'resumed': resumed,
        'playing': player.playing,
        'next_sample': self._next,
        'settings': player.settings.to_json(),
        **self._facts,
      }
    )
    return player

  async def _hello(self) -> dict[str, Any]:
    """The first message, checked; a text in it that is not valid Unicode may be sent anew."""
    while True:
      received = await self._websocket.receive()
      if received['type'] != 'websocket.receive':
        raise WebSocketDisconnect
      try:
        hello = protocol.parse_message(received.get('text') or '', self._limits)
        if hello['type'] != 'hello':
          raise ProtocolError(f'The first message must be hello, not {hello["type"]}.')
        if hello['protocol'] != protocol.PROTOCOL_VERSION:
          raise ProtocolError(
            f'This server speaks protocol {protocol.PROTOCOL_VERSION}, not {hello["protocol"]}.'
          )
        return hello
      except ProtocolError as error:
        self._bad += 1
        if error.code != 'bad_text' or self._bad >= self._limits.max_bad_messages:
          raise _Closing(protocol.CLOSE_NO_HELLO, str(error)) from None
        await self._send_json({'type': 'error', 'code': error.code, 'message': str(error)})

  # Sound and messages out.

  async def _send_all(self, player: Player):
    while True:
      await self._wake.wait()
      self._wake.clear()
      while True:
        if self._close:
          return
        events, self._events = self._events, []
        for event in events:
          if event['type'] in ('stopped', 'taken_back'):
            self._next = min(self._next, event['next_sample'])
          await self._send_json(event)
        chunk = player.next_chunk(self._next)
        if chunk is None:
          break
        await self._send_chunk(chunk)

  async def _send_chunk(self, chunk: Chunk):
    frame = chunk.frame
    skipped = max(self._next - frame.start, 0)  # Heard before the connection was lost.
    part = AudioFrame(
      frame.index, frame.start + skipped, frame.settings_version, frame.audio[skipped:]
    )
    message = {
      'type': 'chunk',
      'index': frame.index,
      'start': part.start,
      'samples': len(part.audio),
      'settings_version': frame.settings_version,
      'weights': list(chunk.weights),
      **chunk.facts,
    }
    self._next = chunk.end
    await self._send_json(message)
    await self._websocket.send_bytes(protocol.pack_audio(part, self._format))

  async def _send_json(self, message: dict[str, Any]):
    await self._websocket.send_text(json.dumps(message, separators=(',', ':')))

  # Messages in.

  async def _read_all(self, player: Player):
    self._wake.set()  # A resumed session may have sound waiting.
    while True:
      received = await self._websocket.receive()
      if received['type'] != 'websocket.receive':
        return
      if not self._rate.take():
        self._set_close(
          protocol.CLOSE_POLICY,
          f'more than {self._limits.messages_per_sec:g} messages a second',
        )
        return
      try:
        if await self._take(player, received):
          return
        self._bad = 0
      except (WebSocketDisconnect, OSError):
        raise
      except Exception as error:  # Whatever it is, one message must not end the session.
        self._bad += 1
        self._queue(_as_answer(error))
        if self._bad >= self._limits.max_bad_messages:
          self._set_close(protocol.CLOSE_POLICY, f'{self._bad} bad messages in a row')
          return

  async def _take(self, player: Player, received: dict[str, Any]) -> bool:
    """Acts on one message; True ends the connection."""
    if received.get('text') is None:
      await self._take_upload(player, received.get('bytes') or b'')
      return False
    if self._upload is not None:
      self._upload = None
      raise ProtocolError('An upload was announced; its binary message must come next.')
    message = protocol.parse_message(received['text'], self._limits)
    kind = message['type']
    if kind == 'played':
      player.report(message['sample'], message.get('underruns', 0))
    elif kind == 'play':
      player.play()
    elif kind == 'stop':
      end = player.stop(message.get('next_sample'))
      self._queue({'type': 'stopped', 'next_sample': end})
    elif kind == 'upload':
      self._upload = message
    elif kind == 'ping':
      self._queue({'type': 'pong', 'time': message.get('time')})
    elif kind == 'bye':
      self._players.leave(player)
      self._set_close(1000, 'bye')
      return True
    elif kind in _SETTINGS:
      # Embedding takes milliseconds, and minutes where somebody sends an hour of text.
      await asyncio.to_thread(player.apply, message)
    else:
      raise ProtocolError('hello is the first message only.')
    return False

  async def _take_upload(self, player: Player, data: bytes):
    upload, self._upload = self._upload, None
    if upload is None:
      raise ProtocolError('A binary message must follow an upload message.')
    audio = protocol.decode_upload(upload, data)
    await asyncio.to_thread(player.add_upload, upload, audio)
    if note := protocol.clipped_note(upload, data):
      self._queue({'type': 'notice', 'code': 'clipped', 'message': note})
    self._queue({'type': 'uploaded', 'id': upload['id']})

  # The end.

  def _note_end(self, error: BaseException | None):
    if error is not None and not isinstance(error, (WebSocketDisconnect, RuntimeError, OSError)):
      raise error

  async def _end(self, code: int, reason: str):
    states = self._websocket.application_state, self._websocket.client_state
    if WebSocketState.DISCONNECTED not in states:
      with contextlib.suppress(RuntimeError, OSError, WebSocketDisconnect):
        # A close frame holds 123 bytes of reason.
        short = reason.encode(errors='backslashreplace')[:120].decode(errors='ignore')
        await self._websocket.close(code, short)


def _as_answer(error: Exception) -> dict[str, Any]:
  """What a client is told about its message; what is not its fault is logged here."""
  if isinstance(error, ProtocolError):
    return {'type': 'error', 'code': error.code, 'message': str(error)}
  if isinstance(error, ValueError):
    return {'type': 'error', 'code': 'bad_message', 'message': str(error)}
  logging.error('A message could not be acted on.', exc_info=error)
  return {'type': 'error', 'code': 'internal', 'message': _INTERNAL}


class _Closing(Exception):
  """A connection that is refused, with its close code."""

  def __init__(self, code: int, reason: str):
    super().__init__(reason)
    self.code, self.reason = code, reason
