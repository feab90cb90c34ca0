"""SpectroStream's spectrum: an STFT that looks ahead, without its Nyquist bin, and its inverse.

Frames are two hops long, the window is a periodic Hann, nothing is scaled. Frame t covers samples
hop * t .. hop * (t + 2) - 1: nothing is padded in front, zeros are appended behind.
"""

import jax
import jax.numpy as jnp
import numpy as np


def _window(hop: int) -> np.ndarray:
  return 0.5 - 0.5 * np.cos(np.pi * np.arange(2 * hop) / hop)


def stft(x: jax.Array, hop: int) -> jax.Array:
  """Audio to spectrum.

  Args:
    x: [B, n, 2], or mono [B, n] or [B, n, 1], which is copied to both channels.
    hop: samples between frames; also the number of bins.

  Returns:
    [B, ceil(n / hop), hop, 4] float32: left real, left imaginary, right real, right imaginary.
  """
  if x.ndim == 2:
    x = x[..., None]
  batch, num_samples, channels = x.shape
  num_frames = -(-num_samples // hop)
  x = jnp.pad(x, [(0, 0), (0, (num_frames + 1) * hop - num_samples), (0, 0)])
  x = jnp.transpose(x, [0, 2, 1]).reshape([batch, channels, num_frames + 1, hop])
  frames = jnp.concatenate([x[:, :, :-1], x[:, :, 1:]], axis=-1)
  spectrum = jnp.fft.rfft(frames * _window(hop).astype(np.float32), axis=-1)[..., :hop]
  planes = jnp.stack([jnp.real(spectrum), jnp.imag(spectrum)], axis=-1)  # [B, ch, T, F, 2]
  planes = jnp.broadcast_to(planes, [batch, 2, *planes.shape[2:]])
  return jnp.transpose(planes, [0, 2, 3, 1, 4]).reshape([batch, num_frames, hop, 4])


def inverse_stft(spectrum: jax.Array, hop: int) -> jax.Array:
  """Spectrum [B, T, hop, 4] to audio [B, T * hop, 2].

  Block t of the output is the second half of frame t - 1 plus the first half of frame t, so it is
  aligned with the STFT's input; the first block has no earlier frame and is not exact.
  """
  batch, num_frames = spectrum.shape[:2]
  planes = jnp.reshape(spectrum, [batch, num_frames, hop, 2, 2])
  planes = jnp.transpose(planes, [0, 3, 1, 2, 4])  # [B, ch, T, F, 2]
  bins = jnp.pad(_complex(planes), [(0, 0), (0, 0), (0, 0), (0, 1)])
  frames = jnp.fft.irfft(bins, 2 * hop, axis=-1) * _synthesis_window(hop)
  late = jnp.pad(frames[:, :, :-1, hop:], [(0, 0), (0, 0), (1, 0), (0, 0)])
  audio = frames[..., :hop] + late
  return jnp.transpose(audio.reshape([batch, 2, num_frames * hop]), [0, 2, 1])


def _complex(planes: jax.Array) -> jax.Array:
  """[..., 2] real and imaginary parts -> [...] complex64."""
  return jax.lax.complex(planes[..., 0], planes[..., 1])


def _synthesis_window(hop: int) -> np.ndarray:
  """The window that makes overlap-add the exact inverse for a consistent STFT."""
  window = _window(hop)
  return (window / (window**2 + np.roll(window, hop) ** 2)).astype(np.float32)
