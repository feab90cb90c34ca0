"""Pictures of the report: inline SVG that follows the page's light or dark colours.

Text and axes are drawn in `currentColor`; the colours of the lines are of middle lightness and
tell the series apart on both backgrounds, with a marker each for those who do not see colours.
"""

import contextlib
import html
import io
import re
from collections.abc import Iterator, Mapping, Sequence

import matplotlib

matplotlib.use('Agg')

import matplotlib.pyplot as plt  # noqa: E402  (after the backend is chosen)
import numpy as np  # noqa: E402

from evaluation import spectra  # noqa: E402

# Okabe and Ito's palette without its black and yellow.
COLOURS = ('#0084c7', '#d95f0e', '#009e73', '#b5529a', '#8a7a00', '#5b6ee1')
MARKERS = ('o', 's', '^', 'D', 'v', 'P')
ANCHOR_COLOUR = '#888888'
INK = '#010203'  # Replaced by currentColor.
_STYLE = {
  'svg.fonttype': 'none',
  'font.family': 'sans-serif',
  'font.size': 10,
  'text.color': INK,
  'axes.labelcolor': INK,
  'axes.edgecolor': INK,
  'axes.spines.top': False,
  'axes.spines.right': False,
  'xtick.color': INK,
  'ytick.color': INK,
  'grid.color': ANCHOR_COLOUR,
  'grid.alpha': 0.25,
  'axes.grid': True,
  'legend.frameon': False,
}


def styled(more: Mapping[str, object] | None = None) -> contextlib.AbstractContextManager:
  """Matplotlib's settings of all pictures, within a `with`."""
  return matplotlib.rc_context({**_STYLE, **(more or {})})


def level_losses(
  rows: Mapping[str, tuple[np.ndarray, np.ndarray, np.ndarray]],
  anchors: Sequence[str],
  context_levels: int,
) -> str:
  """Loss against RVQ level, a line with its interval for each row.

  Args:
    rows: name -> (mean, low, high), each [levels] in nats.
    anchors: names drawn grey and dashed.
    context_levels: the coarse levels, shaded.
  """
  with matplotlib.rc_context(_STYLE):
    figure, axes = plt.subplots(figsize=(8, 3.6))
    number = 0
    for name, (mean, low, high) in rows.items():
      levels = np.arange(len(mean))
      if name in anchors:
        axes.plot(levels, mean, '--', color=ANCHOR_COLOUR, label=name, linewidth=1.5)
        continue
      colour, marker = COLOURS[number % len(COLOURS)], MARKERS[number % len(MARKERS)]
      axes.plot(levels, mean, color=colour, marker=marker, markersize=5, label=name)
      if np.isfinite(low).all():
        axes.fill_between(levels, low, high, color=colour, alpha=0.15, linewidth=0)
      number += 1
    axes.axvspan(-0.5, context_levels - 0.5, color=ANCHOR_COLOUR, alpha=0.08, linewidth=0)
    axes.set(xlabel='RVQ level (shaded: levels of the context)', ylabel='nats per token')
    axes.set_xticks(levels)
    axes.set_xlim(-0.5, len(levels) - 0.5)
    axes.legend(loc='best', fontsize=9)
    return to_svg(figure, 'level')


def curves(
  x: Sequence[float],
  rows: Mapping[str, Sequence[float]],
  xlabel: str,
  ylabel: str,
  key: str,
  *,
  anchors: Mapping[str, float] | None = None,
) -> str:
  """Lines over `x`, and anchors as horizontal dashes; `key` makes the ids of the SVG unique."""
  with matplotlib.rc_context(_STYLE):
    figure, axes = plt.subplots(figsize=(3.5, 2.4))
    for number, (name, values) in enumerate(rows.items()):
      axes.plot(
        x, values, color=COLOURS[number % len(COLOURS)], markersize=5, label=name,
        marker=MARKERS[number % len(MARKERS)] if len(x) <= 12 else None,
      )  # fmt: skip
    for number, (name, value) in enumerate((anchors or {}).items()):
      axes.axhline(value, color=ANCHOR_COLOUR, linestyle=('--', ':', '-.')[number % 3], label=name)
    if len(x) <= 12:
      axes.set_xticks(list(x), [f'{value:g}' for value in x])
    axes.minorticks_off()
    axes.set(xlabel=xlabel, ylabel=ylabel)
    axes.legend(loc='best', fontsize=8)
    return to_svg(figure, key)


def rate_curves(
  codecs: Mapping[str, Sequence[tuple[float, ...]]],
  others: Mapping[str, Sequence[tuple[float, ...]]],
  ylabel: str,
  key: str,
) -> str:
  """A measure over bit rate.

  Args:
    codecs: name -> (kbit/s, mean, low, high) of each depth, with the interval shaded.
    others: the same of codecs to compare with, drawn grey and dashed.
    ylabel: unit of the measure.
    key: makes the ids of the SVG unique.
  """
  with matplotlib.rc_context(_STYLE):
    figure, axes = plt.subplots(figsize=(3.5, 2.6))
    for number, (name, points) in enumerate(codecs.items()):
      colour, marker = COLOURS[number % len(COLOURS)], MARKERS[number % len(MARKERS)]
      rates, mean, low, high = np.array(sorted(points), float).T
      axes.plot(rates, mean, color=colour, marker=marker, markersize=5, label=name)
      if np.isfinite(low).all():
        axes.fill_between(rates, low, high, color=colour, alpha=0.15, linewidth=0)
    for number, (name, points) in enumerate(others.items()):
      rates, mean = np.array(sorted(points), float).T[:2]
      style = ('--', ':')[number % 2]
      axes.plot(
        rates, mean, style, color=ANCHOR_COLOUR, marker='x+'[number % 2], markersize=6, label=name
      )
    axes.set_xscale('log', base=2)
    ticks = sorted({point[0] for points in codecs.values() for point in points})
    axes.set_xticks(ticks, [f'{value:g}' for value in ticks])
    axes.minorticks_off()
    axes.set(xlabel='kbit/s', ylabel=ylabel)
    axes.legend(loc='best', fontsize=8)
    return to_svg(figure, key)


def by_level(
  rows: Mapping[str, Sequence[float]], ylabel: str, key: str, anchors: Mapping[str, float]
) -> str:
  """Something about each RVQ level, a line a codec; anchors as horizontal dashes."""
  with matplotlib.rc_context(_STYLE):
    figure, axes = plt.subplots(figsize=(3.5, 2.6))
    for number, (name, values) in enumerate(rows.items()):
      axes.plot(values, color=COLOURS[number % len(COLOURS)], label=name, linewidth=1.5)
    for number, (name, value) in enumerate(anchors.items()):
      axes.axhline(value, color=ANCHOR_COLOUR, linestyle=('--', ':')[number % 2], label=name)
    axes.set(xlabel='RVQ level', ylabel=ylabel)
    axes.set_ylim(bottom=min(0, axes.get_ylim()[0]))
    axes.legend(loc='best', fontsize=8)
    return to_svg(figure, key)


def learning_curve(streams: Mapping[str, Sequence[Sequence[float]]], key: str) -> str:
  """Loss against step; `streams` gives the (step, loss) points of each."""
  with matplotlib.rc_context(_STYLE):
    figure, axes = plt.subplots(figsize=(3.5, 2.4))
    for number, (name, points) in enumerate(streams.items()):
      steps, losses = np.array(points, float).T
      # Few points are marked, many are drawn as a line.
      marker = MARKERS[number % len(MARKERS)] if len(steps) < 30 else None
      axes.plot(steps, losses, color=COLOURS[number % len(COLOURS)], marker=marker, label=name)
    axes.set(xlabel='step', ylabel='nats per token')
    axes.legend(loc='best', fontsize=8)
    return to_svg(figure, key)


def spectrogram(
  audio: np.ndarray, sample_rate: int, key: str, *, given_secs: float = 0, chunk_secs: float = 0
) -> str:
  """Mel spectrogram of the mid signal, 0 to -80 dB, with seams and the end of what was given."""
  window, hop = 2048, max(480, len(audio) // 900)
  levels = spectra.decibels(
    spectra.magnitudes(audio.mean(1), window, hop) @ spectra.mel_filters(sample_rate, window, 96),
    -80.0,
  )
  secs = len(audio) / sample_rate
  with matplotlib.rc_context({**_STYLE, 'axes.grid': False}):
    figure, axes = plt.subplots(figsize=(5.4, 1.9))
    axes.imshow(
      levels.T, origin='lower', aspect='auto', cmap='magma', vmin=-80, vmax=0,
      extent=(0, secs, 0, levels.shape[1]), interpolation='nearest',
    )  # fmt: skip
    ticks = _mel_ticks(sample_rate, levels.shape[1])
    axes.set_yticks(list(ticks), [f'{hz / 1000:g} kHz' for hz in ticks.values()], fontsize=8)
    axes.tick_params(labelsize=8)
    axes.set_xlabel('seconds', fontsize=8)
    if chunk_secs:
      for seam in np.arange(given_secs + chunk_secs, secs - 0.01, chunk_secs):
        axes.axvline(seam, ymax=0.06, color='white', linewidth=1)
    if given_secs:
      axes.axvline(given_secs, color='white', linewidth=1.5, linestyle='--')
    axes.set_xlim(0, secs)
    return to_svg(figure, key)


def _mel_ticks(sample_rate: int, num_mels: int) -> dict[float, int]:
  top = np.log10(1 + sample_rate / 2 / 700)
  wanted = [hz for hz in (250, 1000, 4000, 16000) if hz < sample_rate / 2]
  return {num_mels * float(np.log10(1 + hz / 700) / top): hz for hz in wanted}


def scatter(
  points: np.ndarray, labels: Sequence[str], names: Sequence[str], key: str
) -> str:
  """Points [N, 2] in the colours and markers of their labels; `names` show under the pointer."""
  order = sorted(set(labels), key=lambda label: (label == '', label))
  with matplotlib.rc_context({**_STYLE, 'axes.grid': False}):
    figure, axes = plt.subplots(figsize=(8, 6))
    for number, label in enumerate(order):
      rows = np.array([i for i, own in enumerate(labels) if own == label])
      # A line of markers without the line: each point is an element of its own in the SVG.
      axes.plot(
        *points[rows].T, linestyle='none', markersize=5, color=COLOURS[number % len(COLOURS)],
        markeredgewidth=0, alpha=0.85,
        marker=MARKERS[(number + number // len(COLOURS)) % len(MARKERS)],
        label=label or 'unknown', gid=f'{key}-group-{number}',
      )  # fmt: skip
    axes.set_axis_off()
    axes.set_aspect('equal', adjustable='datalim')
    figure.legend(
      loc='outside lower center', ncols=4, fontsize=9, bbox_to_anchor=(0.5, -0.16),
      handletextpad=0.2, columnspacing=1.0,
    )  # fmt: skip
    return _titled(to_svg(figure, key), [
      [names[i] for i, own in enumerate(labels) if own == label] for label in order
    ], key)  # fmt: skip


def _titled(svg: str, names: Sequence[Sequence[str]], key: str) -> str:
  """Gives each drawn point of `scatter` a <title>: its name, which a pointer over it shows."""
  for number, own in enumerate(names):
    start = svg.index(f'id="{key}-{key}-group-{number}"')
    waiting = (f'><title>{html.escape(name)}</title></use>' for name in own)

    def name_point(match: re.Match, waiting: Iterator[str] = waiting) -> str:
      return f'<use {match[1].rstrip()}{next(waiting, "/>")}'

    svg = svg[:start] + re.sub(r'<use ([^>]*?)/>', name_point, svg[start:], count=len(own))
  return svg


def to_svg(figure: plt.Figure, key: str) -> str:
  """The figure as an <svg> element for inlining: own ids, page's ink, no outside reference."""
  buffer = io.StringIO()
  with matplotlib.rc_context({'svg.hashsalt': key}):
    figure.savefig(
      buffer, format='svg', bbox_inches='tight', transparent=True, dpi=100,
      metadata={name: None for name in ('Date', 'Creator', 'Format', 'Type')},
    )  # fmt: skip
  plt.close(figure)
  text = buffer.getvalue()
  text = text[text.index('<svg') :]
  text = re.sub(r'<metadata>.*?</metadata>', '', text, flags=re.DOTALL)
  text = re.sub(r'\sxmlns(:\w+)?="[^"]*"', '', text)
  text = text.replace('xlink:href', 'href').replace(INK, 'currentColor')
  text = re.sub(r'\bid="', f'id="{key}-', text)
  text = re.sub(r'href="#', f'href="#{key}-', text)
  text = re.sub(r'url\(#', f'url(#{key}-', text)
  text = re.sub(r'<svg [^>]*?viewBox="([^"]*)"[^>]*>', r'<svg viewBox="\1">', text, count=1)
  return text.strip()
