"""What the style model hears of a codec: recordings beside themselves, coded and decoded.

    python -m benchmarks.codec_style --audio_dir=music --codecs tiny before.safetensors

One line of JSON for each codec and depth: the mean cosine of the bundled style model's embeddings
of a recording's excerpt as it is and as the codec plays it, and the mean spectral flatness of what
is played; one line for the originals. docs/bundled.md has the figures of the bundled codec.
"""

import argparse
from collections.abc import Callable, Sequence

import numpy as np

from benchmarks.measuring import report
from evaluation.adherence import cosine
from evaluation.signal_health import spectral_flatness
from models.musiccoca import MusicCoCa
from models.spectrostream import SpectroStream
from preprocessing.audio import read_audio
from preprocessing.manifest import find_audio_files

# As the codec report: from the fifth second on; as long as the style model hears at a time.
START_SECS, EXCERPT_SECS = 5, 10
DEPTHS = (16, 64)


def closeness(
  originals: Sequence[np.ndarray],
  played: Sequence[np.ndarray],
  embed: Callable[[np.ndarray], np.ndarray],
) -> dict[str, float]:
  """{'cosine', 'flatness'}, means over pairs of clips [n, 2]; `embed` gives [D] of one."""
  cosines = [cosine(embed(a), embed(b)) for a, b in zip(originals, played, strict=True)]
  return {
    'cosine': round(float(np.mean(cosines)), 4),
    'flatness': round(float(np.mean([spectral_flatness(clip) for clip in played])), 4),
  }


def main():
  parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
  parser.add_argument('--audio_dir', required=True)
  parser.add_argument('--codecs', nargs='+', default=['tiny'])
  args = parser.parse_args()
  codecs = {name: SpectroStream.load(name) for name in args.codecs}
  style, rate = MusicCoCa.load('tiny'), next(iter(codecs.values())).spec.sample_rate
  paths, _ = find_audio_files(args.audio_dir)
  clips = [read_audio(path, rate, start=START_SECS, duration=EXCERPT_SECS) for path in paths]
  clips = [clip for clip in clips if len(clip) == EXCERPT_SECS * rate]

  def embed(clip: np.ndarray) -> np.ndarray:
    return np.asarray(style.embed_audio(clip, rate)).reshape([-1, style.spec.style_dim]).mean(0)

  report('original', clips=len(clips), **closeness(clips, clips, embed))
  for name, codec in codecs.items():
    codes = [codec.encode(clip) for clip in clips]
    for depth in DEPTHS:
      played = [
        codec.decode(tokens[:, :depth])[: len(clip)]
        for tokens, clip in zip(codes, clips, strict=True)
      ]
      report(name, levels=depth, **closeness(clips, played, embed))


if __name__ == '__main__':
  main()
