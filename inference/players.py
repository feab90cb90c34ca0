"""All players of one server: made, found again after a lost connection, forgotten in time."""

import threading
import time
from typing import Any

from inference.batching import BatchEngine
from inference.mix import Settings
from inference.player import Player
from inference.protocol import Limits, ProtocolError
from inference.styles import StyleBook


class Players:
  """Keeps at most `limits.max_players` players; safe to call from any thread."""

  def __init__(
    self, engine: BatchEngine, styles: StyleBook, limits: Limits, settings: Settings | None = None
  ):
    """Starts with none.

    Args:
      engine: makes the chunks.
      styles: embeds the prompts.
      limits: how many there may be and for how long.
      settings: that a new player begins with.
    """
    self.engine, self.styles, self.limits = engine, styles, limits
    self.first_settings = settings or Settings()
    self._players: dict[str, Player] = {}
    self._lock = threading.Lock()

  def enter(self, session: str | None, name: str = '') -> tuple[Player, bool]:
    """The player of a session that is still kept, or a new one; and whether it is resumed.

    Raises:
      ProtocolError: all places are taken by players who are there.
    """
    self.forget_lost()
    with self._lock:
      if session is not None and session in self._players:
        return self._players[session], True
      if len(self._players) >= self.limits.max_players:
        # Who has been away longest makes room.
        away = [player for player in self._players.values() if not player.attached]
        if not away:
          raise ProtocolError(
            f'All {self.limits.max_players} places are taken; try again later, or start the '
            'server with a larger --max_players.',
            'full',
          )
        oldest = min(away, key=lambda player: player.detached_since)
        self._players.pop(oldest.session).close()
      player = Player(
        self.engine, self.styles, self.limits, name=name, settings=self.first_settings
      )
      self._players[player.session] = player
      return player, False

  def leave(self, player: Player):
    """Forgets a player at once."""
    with self._lock:
      self._players.pop(player.session, None)
    player.close()

  def forget_lost(self):
    """Forgets those who have been away for longer than `limits.resume_secs`."""
    before = time.monotonic() - self.limits.resume_secs
    with self._lock:
      lost = [p for p in self._players.values() if not p.attached and p.detached_since < before]
      for player in lost:
        del self._players[player.session]
    for player in lost:
      player.close()

  def all(self) -> list[Player]:
    """The players there are, oldest first."""
    with self._lock:
      return list(self._players.values())

  def apply_to_all(self, message: dict[str, Any], number: int | None = None) -> int:
    """Applies a checked message to all players, or to the one of this number (1 is the oldest).

    `play` and `stop` are understood, too. Returns how many players took it; those whom it does
    not fit (weights of another number of prompts) are left out.
    """
    players = self.all() if number is None else self.all()[number - 1 : number]
    taken = 0
    for player in players:
      try:
        if message['type'] in ('play', 'stop'):
          player.ask(message['type'])
        else:
          player.apply(message)
        taken += 1
      except ProtocolError:
        continue
    return taken

  def close(self):
    """Forgets everybody."""
    for player in self.all():
      self.leave(player)
