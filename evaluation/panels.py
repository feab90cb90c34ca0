"""Small multiples: a panel a metric, models in colour, anchors and what is flagged in grey."""

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np

from evaluation import plots

_COLUMNS = 3
_MOST_LABEL = 26


def colours_of(columns: Sequence[Mapping[str, Any]]) -> dict[str, tuple[str, str]]:
  """Column -> (colour, marker); anchors are grey."""
  styles, number = {}, 0
  for column in columns:
    if column['kind'] == 'model':
      place = number % len(plots.COLOURS)
      styles[column['name']] = plots.COLOURS[place], plots.MARKERS[place]
      number += 1
    else:
      styles[column['name']] = plots.ANCHOR_COLOUR, '|'
  return styles


def dots(table: Mapping[str, Any], key: str) -> str:
  """A panel for each row of a table: a dot with its interval for every column.

  Args:
    table: 'columns' and 'rows' of `metric_table.build`. Rows with 'ordered' False are all grey and
      say so.
    key: makes the ids of the SVG unique.
  """
  styles, rows = colours_of(table['columns']), table['rows']
  names = list(styles)
  height = 0.55 + 0.17 * len(names)
  lines = -(-len(rows) // _COLUMNS)
  with plots.styled({'axes.grid.axis': 'x', 'font.size': 8}):
    figure, axes = plt.subplots(
      lines, _COLUMNS, figsize=(9, height * lines), sharey=True, squeeze=False,
      layout='constrained',
    )  # fmt: skip
    for place, panel in enumerate(axes.flat):
      if place >= len(rows):
        panel.set_axis_off()
        continue
      _panel(panel, rows[place], names, styles)
    return plots.to_svg(figure, key)


def _panel(panel: plt.Axes, row: Mapping[str, Any], names: Sequence[str], styles: Mapping):
  flagged = row['ordered'] is False
  for y, name in enumerate(names):
    mean, low, high = (
      np.nan if x is None else x for x in row['values'].get(name, [np.nan] * 3)
    )
    colour, marker = styles[name]
    colour = plots.ANCHOR_COLOUR if flagged else colour
    if np.isfinite(low) and np.isfinite(high):
      panel.plot([low, high], [y, y], color=colour, linewidth=1.5, alpha=0.6)
    if np.isfinite(mean):
      panel.plot([mean], [y], marker, color=colour, markersize=7 if marker == '|' else 5)
  unit = f' ({row["unit"]})' if row['unit'] else ''
  title = f'{row["label"]}{unit}'
  panel.set_title(title + (' ⚠' if flagged else ''), fontsize=8, loc='left',
                  color=plots.ANCHOR_COLOUR if flagged else plots.INK)  # fmt: skip
  panel.set_yticks(range(len(names)), [shortened(name) for name in names], fontsize=7)
  panel.set_ylim(max(len(names), 1) - 0.5, -0.5)
  panel.locator_params(axis='x', nbins=4)


def shortened(name: str) -> str:
  """Names that would not fit beside a plot, with their end cut."""
  return name if len(name) <= _MOST_LABEL else name[: _MOST_LABEL - 1] + '…'


def series(
  curves: Mapping[str, Mapping[str, Sequence[float]]],
  titles: Mapping[str, str],
  columns: Sequence[Mapping[str, Any]],
  x: Sequence[float],
  xlabel: str,
  key: str,
  flagged: Sequence[str] = (),
) -> str:
  """A panel for each series: a line for every column over `x`.

  Args:
    curves: panel -> column -> values.
    titles: panel -> title.
    columns: with 'name' and 'kind'.
    x: places; shorter lines end earlier.
    xlabel: below the last panels.
    key: makes the ids of the SVG unique.
    flagged: panels that are drawn grey.
  """
  styles = colours_of(columns)
  dashes = {c['name']: ('--', ':', '-.')[i % 3] for i, c in enumerate(
    column for column in columns if column['kind'] != 'model')}  # fmt: skip
  lines = -(-len(curves) // _COLUMNS)
  with plots.styled({'font.size': 8}):
    figure, axes = plt.subplots(
      lines, min(_COLUMNS, len(curves)), figsize=(9, 0.3 + 1.75 * lines), squeeze=False,
      layout='constrained',
    )  # fmt: skip
    for place, panel in enumerate(axes.flat):
      if place >= len(curves):
        panel.set_axis_off()
        continue
      name = list(curves)[place]
      for column, values in curves[name].items():
        colour, marker = styles[column]
        y = np.array([np.nan if value is None else value for value in values], float)
        panel.plot(
          x[: len(y)], y, dashes.get(column, '-'), label=shortened(column), markersize=4,
          color=plots.ANCHOR_COLOUR if name in flagged else colour,
          marker=marker if column not in dashes else None,
        )  # fmt: skip
      panel.set_title(titles[name] + (' ⚠' if name in flagged else ''), fontsize=8, loc='left')
      panel.set_xlabel(xlabel, fontsize=8)
    handles, labels = axes.flat[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc='outside lower center', ncols=3, fontsize=8)
    return plots.to_svg(figure, key)
