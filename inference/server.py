"""The server of jam: page, WebSocket and status over one ASGI app, bound to loopback by default.

Who may connect: on loopback any program of this machine, but no page of another site (a browser
sends its Origin, which must be this server's own; the Host must be a name of this machine, against
DNS rebinding). On any other address `hello` must bear the token, too.
"""

import contextlib
import hmac
import ipaddress
import json
import logging
import pathlib
import socket
import threading
from collections.abc import AsyncIterator, Sequence
from typing import Any
from urllib.parse import quote, urlsplit

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Mount, Route, WebSocketRoute
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from starlette.websockets import WebSocket

from inference.addresses import bare_host, listen
from inference.connection import Connection
from inference.players import Players
from inference.protocol import CLOSE_FULL, MAX_PROMPTS, Limits
from models.spec import LiveMusicSpec

WEB = pathlib.Path(__file__).parent / 'web'
_LOOPBACK_NAMES = ('localhost', '127.0.0.1', '::1')
_HEADERS = {
  'Content-Security-Policy': (
    "default-src 'self'; connect-src 'self' ws: wss:; img-src 'self' data: blob:; "
    "media-src 'self' blob:; frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
  ),
  'X-Content-Type-Options': 'nosniff',
  'Referrer-Policy': 'no-referrer',
  'Cache-Control': 'no-cache',
}


def is_loopback(host: str) -> bool:
  """Whether an address to bind to is reached from this machine only."""
  try:
    return ipaddress.ip_address(bare_host(host)).is_loopback
  except ValueError:
    return host == 'localhost'


def may_connect(host: str, origin: str | None, *, loopback: bool, origins: Sequence[str]) -> bool:
  """Whether a WebSocket with these headers comes from our own page, or from no page at all.

  Args:
    host: the Host header.
    origin: the Origin header; None from programs that are no browser.
    loopback: the server is bound to loopback, so only names of this machine are its own.
    origins: others that are allowed, such as 'https://studio.example'.
  """
  try:
    name = urlsplit(f'//{host}').hostname or ''
    parts = urlsplit(origin or '')
  except ValueError:  # No address at all, such as '[::1'.
    return False
  if loopback and name not in _LOOPBACK_NAMES:
    return False
  if origin is None or origin in origins:
    return True
  return parts.scheme in ('http', 'https') and parts.netloc == host


class JamServer:
  """Page, WebSocket and status for the players of one model."""

  def __init__(
    self,
    players: Players,
    *,
    model_name: str,
    host: str = '127.0.0.1',
    port: int = 8765,
    token: str = '',
    origins: Sequence[str] = (),
    listening: socket.socket | None = None,
  ):
    """Checks the address; nothing is bound yet, unless `listening` is.

    Args:
      players: sessions and limits.
      model_name: shown by the page.
      host: address to bind to.
      port: 0 takes a free one.
      token: that clients must show; needed where `host` is not loopback.
      origins: pages besides our own that may connect.
      listening: of `addresses.listen(host, port)`; None for `bind` to take the port.

    Raises:
      ValueError: the host is not loopback and there is no token.
    """
    if not is_loopback(host) and not token:
      raise ValueError(
        f'host={host} can be reached from other machines; set a token that they must show.'
      )
    self.players, self.token, self.origins = players, token, tuple(origins)
    self.host, self.port = host, port
    self.limits: Limits = players.limits
    self.spec: LiveMusicSpec = players.engine.spec
    self._model_name = model_name
    self._connections = 0
    self._server: uvicorn.Server | None = None
    self._thread: threading.Thread | None = None
    self._socket = listening

  @property
  def url(self) -> str:
    """Of the page; the token stands behind the #, where browsers do not send it."""
    host = f'[{bare_host(self.host)}]' if ':' in self.host else self.host
    fragment = f'#token={quote(self.token, safe="")}' if self.token else ''
    return f'http://{host}:{self.port}/{fragment}'

  def app(self) -> ASGIApp:
    """The ASGI app."""
    routes = [
      WebSocketRoute('/ws', self._serve_websocket),
      Route('/api/status', self._serve_status),
      Mount('/', StaticFiles(directory=WEB, html=True)),
    ]
    return _WithHeaders(Starlette(routes=routes, lifespan=self._lifespan))

  def bind(self):
    """Takes the port; `url` names it from now on.

    Raises:
      AddressError: it is in use, or the address is not one of this machine's.
    """
    if self._socket is None:
      self._socket = listen(self.host, self.port)
    self.port = self._socket.getsockname()[1]

  def run(self):
    """Serves until Ctrl-C or `stop`."""
    self.bind()
    config = uvicorn.Config(
      self.app(),
      log_level='warning',
      access_log=False,
      ws='websockets-sansio',
      ws_max_size=self.limits.max_upload_bytes(self.spec.sample_rate, self.spec.num_channels),
      ws_max_queue=8,
      # Music does not deflate, and trying costs more than making it.
      ws_per_message_deflate=False,
      limit_concurrency=self.limits.max_connections,
      timeout_graceful_shutdown=2,
      server_header=False,
    )
    logging.getLogger('uvicorn.error').addFilter(_in_one_line)
    self._server = uvicorn.Server(config)
    self._server.run(sockets=[self._socket])

  def start(self):
    """`run` in a thread of its own; returns when it serves."""
    self.bind()
    self._thread = threading.Thread(target=self.run, name='jam-server', daemon=True)
    self._thread.start()
    while self._server is None or not self._server.started:
      self._thread.join(0.01)
      if not self._thread.is_alive():
        raise RuntimeError('The server ended while it started.')

  def stop(self):
    """Ends `run`."""
    if self._server is not None:
      self._server.should_exit = True
    if self._thread is not None:
      self._thread.join(10)

  def status(self) -> dict[str, Any]:
    """What `/api/status` tells."""
    return {
      'model': self._model_name,
      'connections': self._connections,
      'players': [player.status() for player in self.players.all()],
    }

  @contextlib.asynccontextmanager
  async def _lifespan(self, app: Starlette) -> AsyncIterator[None]:
    yield
    self.players.close()

  async def _serve_websocket(self, websocket: WebSocket):
    headers = websocket.headers
    own = may_connect(
      headers.get('host', ''),
      headers.get('origin'),
      loopback=is_loopback(self.host),
      origins=self.origins,
    )
    if not own:
      # Refused before the handshake: the browser sees 403.
      await websocket.close()
      return
    await websocket.accept()
    if self._connections >= self.limits.max_connections - 4:  # Some are left for the page itself.
      await websocket.close(CLOSE_FULL, 'too many connections')
      return
    self._connections += 1
    try:
      await Connection(websocket, self.players, self._facts(), self.token).serve()
    finally:
      self._connections -= 1

  async def _serve_status(self, request: Request) -> Response:
    given = request.headers.get('authorization', '').removeprefix('Bearer ')
    if not hmac.compare_digest(given.encode(), self.token.encode()):
      text = 'Show the token: Authorization: Bearer TOKEN\n'
      return PlainTextResponse(text, 401)
    # Escaped: whatever a name holds, the page stays valid for everybody.
    text = json.dumps(self.status(), ensure_ascii=True, allow_nan=False)
    return Response(text, media_type='application/json')

  def _facts(self) -> dict[str, Any]:
    spec = self.spec
    return {
      'model': self._model_name,
      'presets': sorted(self.players.styles.presets),
      'sample_rate': spec.sample_rate,
      'channels': spec.num_channels,
      'chunk_samples': spec.chunk_samples,
      'limits': {
        'prompts': MAX_PROMPTS,
        'prompt_chars': self.limits.max_prompt_chars,
        'upload_secs': self.limits.max_upload_secs,
        'style_secs': spec.style_window_secs,
        'buffer_secs': self.limits.max_buffer_secs,
        'top_k': spec.codebook_size,
      },
    }


def _in_one_line(entry: logging.LogRecord) -> bool:
  """Leaves the traceback out where a client sent text that is not UTF-8, and keeps the message."""
  if entry.exc_info and isinstance(entry.exc_info[1], UnicodeDecodeError):
    entry.exc_info = None
  return True


class _WithHeaders:
  """Adds the security headers to every HTTP response."""

  def __init__(self, app: ASGIApp):
    self._app = app

  async def __call__(self, scope: Scope, receive: Receive, send: Send):
    async def send_with_headers(message: Message):
      if message['type'] == 'http.response.start':
        extra = [(k.lower().encode(), v.encode()) for k, v in _HEADERS.items()]
        message = {**message, 'headers': [*message['headers'], *extra]}
      await send(message)

    await self._app(scope, receive, send_with_headers)
