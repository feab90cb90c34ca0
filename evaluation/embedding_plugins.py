"""Embeddings of others, from local weights: CLAP, VGGish, OpenL3, PaSST.

Nothing is downloaded and nothing of theirs is shipped. Whoever has the weights exports the audio
tower to TorchScript or ONNX (docs/evaluation.md says with which input) and puts it into a folder
`embeddings/` of the asset directory; a report then uses it. Where it is not there, the report says
"skipped: weights absent".
"""

import dataclasses
import pathlib
from collections.abc import Callable

import numpy as np
import soxr


class WeightsAbsent(Exception):
  """The plug-in's file, or the program that runs it, is not here; the message says what."""


@dataclasses.dataclass(frozen=True)
class Plugin:
  """What an exported tower takes and gives.

  Attributes:
    name: of the embedding.
    stem: of its file, `<stem>.onnx` or `<stem>.pt`, whose input is mono float32 [N, samples].
    sample_rate: of the input in Hz.
    window_secs: length of a window; audio is cut into windows, the last one zero-padded.
    about: which published figures it belongs to.
  """

  name: str
  stem: str
  sample_rate: int
  window_secs: float
  about: str


PLUGINS = (
  Plugin('clap', 'clap_music', 48_000, 10.0, 'LAION-CLAP music checkpoint: FAD-CLAP, CLAP score'),
  Plugin('vggish', 'vggish', 16_000, 0.96, 'VGGish: the original FAD'),
  Plugin('openl3', 'openl3', 48_000, 1.0, 'OpenL3 mel256 music, 512: FD_openl3'),
  Plugin('passt', 'passt', 32_000, 10.0, 'PaSST s-swa class probabilities: KL_passt'),
)


def find(plugin: Plugin, folder: str | pathlib.Path | None) -> pathlib.Path:
  """The plug-in's file.

  Raises:
    WeightsAbsent: there is no such file.
  """
  if folder is None:
    raise WeightsAbsent('weights absent (no asset directory)')
  for suffix in ('.onnx', '.pt'):
    path = pathlib.Path(folder) / 'embeddings' / (plugin.stem + suffix)
    if path.is_file():
      return path
  raise WeightsAbsent(f'weights absent (embeddings/{plugin.stem}.onnx or .pt)')


def load(
  plugin: Plugin, folder: str | pathlib.Path | None
) -> Callable[[np.ndarray, int], np.ndarray]:
  """(audio [samples, channels], sample rate) -> [windows, D] float64.

  Raises:
    WeightsAbsent: the file is not there, or what runs it is not installed.
  """
  run = _runner(find(plugin, folder))

  def embed(audio: np.ndarray, sample_rate: int) -> np.ndarray:
    mono = np.asarray(audio, np.float32).mean(1)
    return np.asarray(run(cut(plugin, mono, sample_rate)), np.float64)

  return embed


def cut(plugin: Plugin, mono: np.ndarray, sample_rate: int) -> np.ndarray:
  """Mono audio -> windows [N, samples] float32 at the plug-in's rate."""
  if sample_rate != plugin.sample_rate:
    mono = soxr.resample(mono, sample_rate, plugin.sample_rate)
  size = round(plugin.window_secs * plugin.sample_rate)
  number = max(1, -(-len(mono) // size))
  return np.pad(mono, (0, number * size - len(mono))).reshape(number, size).astype(np.float32)


def _runner(path: pathlib.Path) -> Callable[[np.ndarray], np.ndarray]:
  if path.suffix == '.onnx':
    try:
      import onnxruntime
    except ImportError:
      raise WeightsAbsent(f'{path.name} is here, onnxruntime is not installed') from None
    session = onnxruntime.InferenceSession(str(path), providers=['CPUExecutionProvider'])
    name = session.get_inputs()[0].name
    return lambda x: session.run(None, {name: x})[0]
  try:
    import torch
  except ImportError:
    raise WeightsAbsent(f'{path.name} is here, torch is not installed') from None
  module = torch.jit.load(str(path), map_location='cpu').eval()

  def run(x: np.ndarray) -> np.ndarray:
    with torch.no_grad():
      return module(torch.from_numpy(x)).numpy()

  return run
