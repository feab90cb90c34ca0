"""Checks and binds the addresses that jam listens on; an error is one line with the way out."""

import errno
import socket
from collections.abc import Callable
from typing import TypeVar

_Bound = TypeVar('_Bound')
_BACKLOG = 128


class AddressError(OSError, ValueError):
  """An address cannot be bound; the message says why and what to change."""


def bare_host(host: str) -> str:
  """Removes the brackets of an IPv6 host: '[::1]' -> '::1'."""
  return host[1:-1] if host.startswith('[') and host.endswith(']') else host


def listen(host: str, port: int) -> socket.socket:
  """Returns a TCP socket that listens on the port; clients wait until they are accepted.

  Raises:
    AddressError: the port or the host is impossible, in use or not allowed.
  """

  def bind() -> socket.socket:
    family = socket.AF_INET6 if ':' in host else socket.AF_INET
    bound = socket.socket(family, socket.SOCK_STREAM)
    try:
      bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
      bound.bind((bare_host(host), port))
      # Two sockets that only bind could share a port; the second one to listen would fail, late.
      bound.listen(_BACKLOG)
    except BaseException:
      bound.close()
      raise
    return bound

  return explained(bind, host, port)


def explained(
  bind: Callable[[], _Bound],
  host: str,
  port: int,
  host_flag: str = '--host',
  port_flag: str = '--port',
) -> _Bound:
  """Calls `bind` and returns its result; explains its errors.

  Args:
    bind: takes the address.
    host, port: that it takes.
    host_flag, port_flag: which give them.

  Raises:
    AddressError: it fails; the message names the address, the reason and the flag to change.
  """
  if not 0 <= port <= 65535:
    raise AddressError(f'{port_flag}={port} is not in 0..65535 (0 takes a free port).')
  if not host:
    raise AddressError(f'{host_flag} is empty; 127.0.0.1 is this machine alone, 0.0.0.0 all of it.')
  try:
    return bind()
  except (OSError, ValueError, TypeError) as error:
    number = getattr(error, 'errno', None)
    reason = getattr(error, 'strerror', None) or error
    # Of a host that is no text at all, sockets raise a TypeError or a ValueError.
    odd = isinstance(error, socket.gaierror) or not isinstance(error, OSError)
    if odd or number == errno.EADDRNOTAVAIL:
      way_out = (
        f'{host_flag}={host} is not an address of this machine; take 127.0.0.1 (this machine '
        'alone) or 0.0.0.0 (every address of it)'
      )
    elif number == errno.EADDRINUSE:
      way_out = f'another program has the port; stop it, or take a free one with {port_flag}=0'
    elif number in (errno.EACCES, errno.EPERM):
      way_out = f'this port takes more rights; take one above 1023, such as {port_flag}=8765'
    else:
      way_out = f'change {host_flag} or {port_flag}'
    raise AddressError(f'{host}:{port} cannot be bound ({reason}): {way_out}.') from None
