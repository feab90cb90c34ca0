"""What `jam.py` does: loads a model, serves it, opens the page."""

import os
import pathlib
import secrets
import time
import webbrowser
from collections.abc import Callable, Sequence

from models.bundle import Bundle

PROMPTS = ('church organ', 'techno drums')


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

  Raises:
    ValueError: a number is out of range, a preset is unknown, or the bundle's codec or style model
      is another one.
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

  limits = Limits(max_players=max_players)
  if not 0.25 <= buffer_secs <= limits.max_buffer_secs:
    raise ValueError(f'buffer_secs={buffer_secs:g} is not in 0.25..{limits.max_buffer_secs:g}.')
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
  return JamServer(players, model_name=name, host=host, port=port, token=token, origins=origins)


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
    OSError: a port cannot be bound.
  """
  from pipelines.checkpoint_sources import load_source

  if cache:
    import jax

    jax.config.update('jax_compilation_cache_dir', str(compile_cache()))
    jax.config.update('jax_persistent_cache_min_compile_time_secs', 0.5)
  start = time.perf_counter()
  source = load_source(source_path)
  server = make_server(source.bundle, source.name, **options)
  server.bind()  # A port in use is told before anything is compiled.
  say(f'{source.name}: loaded, compiling ...')
  secs = server.players.engine.warm()
  server.players.styles.warm()
  osc = None
  if osc_port is not None:
    from inference.osc import OscInput

    osc = OscInput(server.players, osc_host, osc_port)
    osc.start()
    say(f'OSC: udp://{osc_host}:{osc.port}/woodshed/...')
  say(f'Ready after {time.perf_counter() - start:.1f} s ({secs:.1f} s of them compiling).')
  say(f'Play: {server.url}')
  if open_page:
    webbrowser.open(server.url)
  try:
    server.run()
  finally:
    server.players.engine.close()
    if osc is not None:
      osc.stop()
