"""How far a run is, on one line: a bar on a terminal, a line every 15 s in a log file."""

import sys
import time
from collections.abc import Mapping
from typing import Any

from tqdm import tqdm

_LINE_SECS = 15.0
_BAR_SECS = 0.5
# Tag of a line of metrics -> how it is shown; of each group the first that is there.
_SHOWN = (
  (('loss_per_nonpadding_target_token', 'loss {:.4g}'), ('loss', 'loss {:.4g}')),
  (('accuracy', 'accuracy {:.1%}'),),
  (('timing/target_tokens_per_second', '{:,.0f} tokens/s'),
   ('timing/seqs_per_second', '{:,.1f} examples/s')),
  (('timing/mfu', 'MFU {:.1%}'),),
  (('timing/data_wait_fraction', 'data wait {:.1%}'),),
  (('skipped_steps', '{:.0f} skipped'),),
)  # fmt: skip


def progress_text(values: Mapping[str, float]) -> str:
  """'loss 5.312, accuracy 12.3%, 1,234 tokens/s, MFU 31.0%, data wait 0.2%'; what there is."""
  parts = []
  for group in _SHOWN:
    found = [form.format(values[name]) for name, form in group if name in values]
    parts += found[:1]
  return ', '.join(parts)


def duration_text(secs: float) -> str:
  """'2 d 3 h', '1 h 5 min', '4 min 10 s' or '12 s'."""
  secs = round(secs)
  units = (('d', 86_400), ('h', 3600), ('min', 60), ('s', 1))
  for (name, size), (next_name, next_size) in zip(units, units[1:], strict=False):
    if secs >= size:
      return f'{secs // size} {name} {secs % size // next_size} {next_name}'
  return f'{secs} s'


class Progress:
  """Shows the steps of a run; a context manager."""

  def __init__(self, total_steps: int, step: int, *, enabled: bool = True, file: Any = None):
    """Begins at `step`.

    Args:
      total_steps: of the whole run.
      step: steps that were made before.
      enabled: False shows nothing.
      file: None for standard error.
    """
    self._file = file or sys.stderr
    self._total, self._first, self._step = total_steps, step, step
    self._text = ''
    on_terminal = enabled and self._file.isatty()
    self._lines = enabled and not on_terminal
    self._told = time.monotonic()
    self._began: float | None = None  # After the first step, which compiles.
    self._bar = tqdm(
      total=total_steps, initial=step, unit='step', disable=not on_terminal, file=self._file,
      mininterval=_BAR_SECS, maxinterval=_BAR_SECS, dynamic_ncols=True,
    )  # fmt: skip

  def update(self):
    """One more step was made."""
    self._step += 1
    self._began = self._began or time.monotonic()
    self._bar.update()
    if self._lines and time.monotonic() - self._told >= _LINE_SECS:
      self._tell()

  def show(self, values: Mapping[str, float]):
    """Takes the newest line of metrics."""
    self._text = progress_text(values)
    self._bar.set_postfix_str(self._text, refresh=False)

  def line(self) -> str:
    """'step 120/1000 (12%), 1.25 steps/s, 11 min 44 s left, loss 5.312, ...'."""
    parts = [f'step {self._step:,}/{self._total:,} ({self._step / max(self._total, 1):.0%})']
    if self._step > self._first + 1:
      rate = (self._step - self._first - 1) / max(time.monotonic() - self._began, 1e-9)
      left = duration_text((self._total - self._step) / rate)
      parts += [f'{rate:.3g} steps/s', f'{left} left']
    return ', '.join([*parts, self._text] if self._text else parts)

  def _tell(self):
    self._told = time.monotonic()
    print(self.line(), file=self._file, flush=True)

  def __enter__(self) -> 'Progress':
    return self

  def __exit__(self, *unused: Any):
    self._bar.close()
    if self._lines and self._step > self._first:
      self._tell()
