"""What `jam.py` does: loads a model, serves it, opens the page."""

import contextlib
import dataclasses
import os
import pathlib
import re
import secrets
import socket
import time
import webbrowser
from collections.abc import Callable, Sequence

import jax

from inference import addresses, mix, osc
from inference.batching import BatchEngine
from inference.players import Players
from inference.protocol import Limits
from inference.sampling import check_seed
from inference.server import JamServer, is_loopback
from inference.styles import StyleBook
from models.bundle import Bundle, check_tokens
from models.figures import exact
from models.musiccoca import MusicCoCa
from models.musiccoca.inputs import check_unicode
from models.spectrostream import SpectroStream
from pipelines.checkpoint_sources import load_source

PROMPTS = ('church organ', 'techno drums')
_MAX_TOKEN_CHARS = 256  # As many as `hello` takes.
_ORIGIN = re.compile(r'https?://[^\s/?#@]+', re.ASCII)


def compile_cache() -> pathlib.Path:
  """Where compiled programs are kept between starts."""
  base = os.environ.get('XDG_CACHE_HOME') or pathlib.Path.home() / '.cache'
  return pathlib.Path(base) / 'woodshed' / 'programs'


def first_prompts(bundle: Bundle) -> list[str]:
  """What a player begins with: presets of a tuned bundle, as many as stand clear of each other."""
  return [f'preset:{name}' for name in list(bundle.presets)[:4]] or list(PROMPTS)


@dataclasses.dataclass(frozen=True)
class JamOptions:
  """How a model is served.

  Attributes:
    host, port: address of the page; port 0 takes a free one.
    token: that clients must show; None makes a random one where the host is not loopback.
    origins: pages of other origins that may connect.
    max_players: sessions at a time.
    max_batch: players whose chunks are generated together, at most; a power of 2.
    buffer_secs: how far ahead of playback a new player is.
    seed: of a new player.
    prompts: that a new player begins with; none for those of `first_prompts`.

  Raises:
    ValueError: an option is out of range, or a prompt cannot be used.
  """

  host: str = '127.0.0.1'
  port: int = 8765
  token: str | None = None
  origins: Sequence[str] = ()
  max_players: int = 8
  max_batch: int = 4
  buffer_secs: float = 2.0
  seed: int = 0
  prompts: Sequence[str] = ()

  def __post_init__(self):
    if not 0.25 <= self.buffer_secs <= Limits().max_buffer_secs:
      raise ValueError(
        f'buffer_secs={exact(self.buffer_secs)} is not in 0.25..{Limits().max_buffer_secs:g}.'
      )
    if self.max_players < 1:
      raise ValueError(f'max_players={self.max_players} must be at least 1.')
    if self.max_batch < 1 or self.max_batch & (self.max_batch - 1):
      raise ValueError(f'max_batch={self.max_batch} is not a power of two.')
    check_seed(self.seed)
    mix.on_a_ring(self.prompts)
    self._check_access()

  def _check_access(self):
    if self.token == '' and not is_loopback(self.host):
      raise ValueError(
        f'host={self.host} can be reached from other machines; set a token that they must show, or '
        'leave it out for a random one.'
      )
    if self.token is not None:
      check_unicode(self.token, 'The token')
      if len(self.token) > _MAX_TOKEN_CHARS or '\0' in self.token:
        raise ValueError(
          f'The token of {len(self.token)} characters cannot be shown by clients; it may have '
          f'{_MAX_TOKEN_CHARS} at most and no NUL.'
        )
    for origin in self.origins:
      if not _ORIGIN.fullmatch(origin):
        raise ValueError(
          f'allowed_origin={origin!a} is not an origin; write scheme and host as browsers send '
          'them, such as https://studio.example.'
        )


def make_server(
  bundle: Bundle,
  name: str,
  options: JamOptions | None = None,
  listening: socket.socket | None = None,
) -> JamServer:
  """A server for one model, not started yet.

  Args:
    bundle: the language model.
    name: of it, for the page.
    options: None for the defaults.
    listening: a socket that has the port already; None for `JamServer.bind` to take it.

  Raises:
    ValueError: a preset is unknown, or the bundle's codec or style model is another one.
  """
  options = options or JamOptions()
  token = options.token
  if token is None:
    token = '' if is_loopback(options.host) else secrets.token_urlsafe(24)
  codec, style = SpectroStream.load(bundle.codec_name), MusicCoCa.load(bundle.style_name)
  check_tokens(bundle, codec, style)
  settings = mix.Settings(
    prompts=mix.on_a_ring(options.prompts or first_prompts(bundle)),
    seed=options.seed,
    buffer_secs=options.buffer_secs,
  )
  styles = StyleBook(style, bundle.presets)
  for prompt in settings.prompts:
    if prompt.kind == 'preset':
      styles.preset(prompt.content)  # Refused here, not while playing.
  engine = BatchEngine(bundle, codec, max_batch=options.max_batch)
  players = Players(engine, styles, Limits(max_players=options.max_players), settings)
  return JamServer(
    players,
    model_name=name,
    host=options.host,
    port=options.port,
    token=token,
    origins=options.origins,
    listening=listening,
  )


def serve(
  source_path: str,
  options: JamOptions | None = None,
  *,
  open_page: bool = True,
  osc_port: int | None = None,
  osc_host: str = '127.0.0.1',
  cache: bool = True,
  say: Callable[[str], None] = print,
):
  """Runs until Ctrl-C.

  Args:
    source_path: see `checkpoint_sources.load_source`.
    options: None for the defaults.
    open_page: opens the page in the browser.
    osc_port: UDP port to listen on for OSC; None for none.
    osc_host: address of that port.
    cache: keep compiled programs for the next start.
    say: takes what is to be shown.

  Raises:
    FileNotFoundError: there is no such model.
    ValueError: see `make_server`.
    AddressError: a port cannot be bound.
  """
  options = options or JamOptions()
  with contextlib.ExitStack() as stack:
    # An address that cannot be bound is refused before anything is loaded.
    listening = stack.enter_context(addresses.listen(options.host, options.port))
    osc_server = None
    if osc_port is not None:
      osc_server = osc.bind(osc_host, osc_port)
      stack.callback(osc_server.server_close)
    if cache:
      jax.config.update('jax_compilation_cache_dir', str(compile_cache()))
      jax.config.update('jax_persistent_cache_min_compile_time_secs', 0.5)
    start = time.perf_counter()
    source = load_source(source_path)
    server = make_server(source.bundle, source.name, options, listening)
    stack.callback(server.players.engine.close)
    server.bind()
    for prompt in server.players.first_settings.prompts:
      for note in server.players.styles.notes(prompt.content) if prompt.kind == 'text' else ():
        say(note)
    say(f'{source.name}: loaded, compiling ...')
    secs = server.players.engine.warm()
    server.players.styles.warm()
    if osc_server is not None:
      osc_input = osc.OscInput(server.players, osc_server)
      osc_input.start()
      stack.callback(osc_input.stop)
      say(f'OSC: udp://{osc_host}:{osc_input.port}/woodshed/...')
    say(f'Ready after {time.perf_counter() - start:.1f} s ({secs:.1f} s of them compiling).')
    say(f'Play: {server.url}')
    if open_page:
      webbrowser.open(server.url)
    server.run()
