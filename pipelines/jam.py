"""What `jam.py` does: loads a model, serves it, opens the page."""

import contextlib
import os
import pathlib
import re
import secrets
import socket
import time
import webbrowser
from collections.abc import Callable, Sequence

from models.bundle import Bundle
from models.figures import exact

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


def make_server(
  bundle: Bundle,
  name: str,
  *,
  host: str = '127.0.0.1',
  port: int = 8765,
  token: str | None = None,
  origins: Sequence[str] = (),
  max_players: int = 8,
  max_batch: int = 4,
  buffer_secs: float = 2.0,
  seed: int = 0,
  prompts: Sequence[str] | None = None,
  listening: socket.socket | None = None,
):
  """A server for one model, not started yet.

  Args:
    bundle: the language model.
    name: of it, for the page.
    host, port: to bind to; port 0 takes a free one.
    token: that clients must show; None makes one where the host is not loopback.
    origins: pages of other origins that may connect.
    max_players: sessions at a time.
    max_batch: players whose chunks are made together, at most.
    buffer_secs: how far ahead of playback a new player is.
    seed: of a new player.
    prompts: that a new player begins with; None for those of `first_prompts`.
    listening: a socket that has the port already; None for `JamServer.bind` to take it.

  Raises:
    ValueError: an option is out of range (see `check_options`), a preset is unknown, or the
      bundle's codec or style model is another one.
  """
  from inference import mix
  from inference.batching import BatchEngine
  from inference.players import Players
  from inference.protocol import Limits
  from inference.server import JamServer, is_loopback
  from inference.styles import StyleBook
  from models.bundle import check_tokens
  from models.musiccoca import MusicCoCa
  from models.spectrostream import SpectroStream

  check_options(
    host=host, token=token, origins=origins, max_players=max_players, max_batch=max_batch,
    buffer_secs=buffer_secs, seed=seed, prompts=prompts,
  )  # fmt: skip
  limits = Limits(max_players=max_players)
  if token is None:
    token = '' if is_loopback(host) else secrets.token_urlsafe(24)
  codec, style = SpectroStream.load(bundle.codec_name), MusicCoCa.load(bundle.style_name)
  check_tokens(bundle, codec, style)
  engine = BatchEngine(bundle, codec, max_batch=max_batch)
  settings = mix.Settings(
    prompts=mix.on_a_ring(prompts or first_prompts(bundle)), seed=seed, buffer_secs=buffer_secs
  )
  styles = StyleBook(style, bundle.presets)
  for prompt in settings.prompts:
    if prompt.kind == 'preset':
      styles.preset(prompt.content)  # Refused here, not while playing.
  players = Players(engine, styles, limits, settings)
  return JamServer(
    players, model_name=name, host=host, port=port, token=token, origins=origins,
    listening=listening,
  )  # fmt: skip


def check_options(
  *,
  host: str = '127.0.0.1',
  token: str | None = None,
  origins: Sequence[str] = (),
  max_players: int = 8,
  max_batch: int = 4,
  buffer_secs: float = 2.0,
  seed: int = 0,
  prompts: Sequence[str] | None = None,
):
  """Refuses what no server can do, before anything is loaded; see `make_server`.

  Raises:
    ValueError: an option is out of range, or a prompt cannot be used.
  """
  from inference import mix
  from inference.protocol import Limits
  from inference.sampling import check_seed
  from inference.server import is_loopback
  from models.musiccoca.inputs import check_unicode

  most = Limits().max_buffer_secs
  if not 0.25 <= buffer_secs <= most:
    raise ValueError(f'buffer_secs={exact(buffer_secs)} is not in 0.25..{most:g}.')
  if max_players < 1:
    raise ValueError(f'max_players={max_players} must be at least 1.')
  if max_batch < 1 or max_batch & (max_batch - 1):
    raise ValueError(f'max_batch={max_batch} is not a power of two.')
  if token == '' and not is_loopback(host):
    raise ValueError(
      f'host={host} can be reached from other machines; set a token that they must show, or leave '
      'it out for a random one.'
    )
  check_seed(seed)
  mix.on_a_ring(prompts or ())
  if token is not None:
    check_unicode(token, 'The token')
    if len(token) > _MAX_TOKEN_CHARS or '\0' in token:
      raise ValueError(
        f'The token of {len(token)} characters cannot be shown by clients; it may have '
        f'{_MAX_TOKEN_CHARS} at most and no NUL.'
      )
  for origin in origins:
    if not _ORIGIN.fullmatch(origin):
      raise ValueError(
        f'allowed_origin={origin!a} is not an origin; write scheme and host as browsers send them, '
        'such as https://studio.example.'
      )


def serve(
  source_path: str,
  *,
  open_page: bool = True,
  osc_port: int | None = None,
  osc_host: str = '127.0.0.1',
  cache: bool = True,
  say: Callable[[str], None] = print,
  **options,
):
  """Runs until Ctrl-C.

  Args:
    source_path: see `checkpoint_sources.load_source`.
    open_page: opens the page in the browser.
    osc_port: UDP port to listen on for OSC; None for none.
    osc_host: address of that port.
    cache: keep compiled programs for the next start.
    say: takes what is to be shown.
    **options: see `make_server`.

  Raises:
    FileNotFoundError: there is no such model.
    ValueError: an option is out of range.
    AddressError: a port cannot be bound.
  """
  from inference import addresses
  from pipelines.checkpoint_sources import load_source

  host, port = options.pop('host', '127.0.0.1'), options.pop('port', 8765)
  check_options(host=host, **options)
  with contextlib.ExitStack() as stack:
    # An address that cannot be had is told before anything is loaded.
    listening = stack.enter_context(addresses.listen(host, port))
    osc_server = None
    if osc_port is not None:
      from inference import osc

      osc_server = osc.bind(osc_host, osc_port)
      stack.callback(osc_server.server_close)
    if cache:
      import jax

      jax.config.update('jax_compilation_cache_dir', str(compile_cache()))
      jax.config.update('jax_persistent_cache_min_compile_time_secs', 0.5)
    start = time.perf_counter()
    source = load_source(source_path)
    server = make_server(
      source.bundle, source.name, host=host, port=port, listening=listening, **options
    )
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
