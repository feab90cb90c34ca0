"""OSC input: a controller, a game or a sequencer steers the styles over UDP (python-osc).

    /woodshed/weight  N VALUE    weight of prompt N (1 is the first), 0..2
    /woodshed/weights V1 V2 ...  all weights
    /woodshed/prompt  N TEXT     text of prompt N; N one beyond the last adds one
    /woodshed/cursor  X Y        place on the pad, 0..1
    /woodshed/temperature VALUE  /woodshed/top_k N  /woodshed/guidance VALUE  /woodshed/seed N
    /woodshed/buffer SECS        /woodshed/reset    /woodshed/play            /woodshed/stop

All players hear it; `/woodshed/player/K/...` speaks to the K-th one. What is not understood is
counted and left out: OSC has no answer.
"""

import dataclasses
import json
import threading
from typing import Any

from pythonosc.dispatcher import Dispatcher
from pythonosc.osc_packet import OscPacket
from pythonosc.osc_server import BlockingOSCUDPServer

from inference import addresses
from inference.mix import MixPrompt
from inference.players import Players
from inference.protocol import MAX_PROMPTS, ProtocolError, parse_message

_PREFIX = '/woodshed/'
_SAMPLING = {
  'temperature': 'temperature', 'top_k': 'top_k', 'guidance': 'guidance_weight', 'seed': 'seed'
}  # fmt: skip


class _Server(BlockingOSCUDPServer):
  """Counts packets that are not OSC instead of printing a traceback for each."""

  broken = 0

  def verify_request(self, request: Any, client_address: Any) -> bool:
    try:
      OscPacket(request[0])
    except Exception:  # noqa: BLE001  a parser of foreign bytes fails in many ways
      self.broken += 1
      return False
    return True

  def handle_error(self, request: Any, client_address: Any):
    self.broken += 1


def bind(host: str, port: int) -> _Server:
  """Takes a UDP port (0 takes a free one); `OscInput` listens on it.

  Raises:
    AddressError: the port or the host is impossible, in use or not allowed.
  """
  return addresses.explained(
    lambda: _Server((addresses.bare_host(host), port), Dispatcher()),
    host, port, '--osc_host', '--osc_port',
  )  # fmt: skip


class OscInput:
  """Listens on one UDP port."""

  def __init__(self, players: Players, server: _Server):
    """Nothing is heard before `start`.

    Args:
      players: that are steered.
      server: of `bind`.
    """
    self._players = players
    self.taken = self._refused = 0
    self._server = server
    server.dispatcher.set_default_handler(self._handle)
    self.port = server.server_address[1]
    self._thread = threading.Thread(
      target=self._server.serve_forever, name='jam-osc', daemon=True
    )

  @property
  def refused(self) -> int:
    """Messages and packets that were not understood."""
    return self._refused + self._server.broken

  def start(self):
    """Listens in a thread of its own."""
    self._thread.start()

  def stop(self):
    """Ends the thread and gives the port back."""
    self._server.shutdown()
    self._server.server_close()

  def _handle(self, address: str, *values: Any):
    try:
      number, words = _target(address)
      for k, player in enumerate(self._players.all(), 1):
        if number in (None, k):
          message = osc_message(words, values, player.settings.prompts)
          checked = parse_message(json.dumps(message), self._players.limits)
          self.taken += self._players.apply_to_all(checked, k)
    except (ProtocolError, ValueError, TypeError, OverflowError):
      self._refused += 1


def osc_message(
  words: list[str], values: tuple[Any, ...], prompts: tuple[MixPrompt, ...]
) -> dict[str, Any]:
  """What an OSC message means for a player with these prompts, as a message of the protocol.

  Args:
    words: of the address, without the prefix.
    values: its arguments.
    prompts: of the player.

  Raises:
    ProtocolError: the address is unknown, or a value is missing or of the wrong kind.
  """
  name = words[0]
  if name in ('play', 'stop', 'reset') and len(words) == 1:
    return {'type': name}
  if name in _SAMPLING and len(values) == 1:
    return {'type': 'sampling', _SAMPLING[name]: values[0]}
  if name == 'buffer' and len(values) == 1:
    return {'type': 'buffer', 'secs': values[0]}
  if name == 'cursor' and len(values) == 2:
    return {'type': 'cursor', 'x': float(values[0]), 'y': float(values[1])}
  if name == 'weights' and values:
    return {'type': 'weights', 'weights': [float(value) for value in values]}
  if name in ('weight', 'prompt') and len(values) == 2:
    index = int(values[0]) - 1
    if name == 'weight' and 0 <= index < len(prompts):
      weights = [prompt.weight for prompt in prompts]
      weights[index] = float(values[1])
      return {'type': 'weights', 'weights': weights}
    is_text = isinstance(values[1], str)
    if name == 'prompt' and is_text and 0 <= index <= min(len(prompts), MAX_PROMPTS - 1):
      changed = list(prompts)
      old = prompts[index] if index < len(prompts) else MixPrompt('text', '')
      changed[index : index + 1] = [
        dataclasses.replace(old, kind='text', content=values[1], label='')
      ]
      return {'type': 'prompts', 'prompts': [dataclasses.asdict(prompt) for prompt in changed]}
  raise ProtocolError(f'{_PREFIX}{"/".join(words)} {values} is not understood.')


def _target(address: str) -> tuple[int | None, list[str]]:
  """'/woodshed/player/2/weight' -> (2, ['weight'])."""
  if not address.startswith(_PREFIX):
    raise ProtocolError(f'{address} does not begin with {_PREFIX}.')
  words = address[len(_PREFIX) :].strip('/').split('/')
  if words[0] == 'player' and len(words) > 2:
    return int(words[1]), words[2:]
  return None, words
