"""MFU, rates by chip, goodput: arithmetic on the times of each line; what the progress shows."""

import io
import types

import pytest

from training.efficiency import Efficiency, Peak, num_chips
from training.progress import Progress, duration_text, progress_text


def _device(process, index, platform='gpu', **more):
  return types.SimpleNamespace(process_index=process, id=index, platform=platform, **more)


def test_mfu_and_tokens_by_chip():
  efficiency = Efficiency(4, step_flops=2e12, peak=Peak(80e12, 'of a table'))
  got = efficiency({'timing/steps_per_second': 10.0, 'timing/target_tokens_per_second': 600.0})
  assert got == {'timing/mfu': 0.25, 'timing/target_tokens_per_second_per_chip': 150.0}
  assert str(efficiency) == 'MFU counts 2 TFLOP a step against 80 TFLOP/s, of a table'
  assert 'timing/mfu' not in Efficiency(1)({'timing/steps_per_second': 10.0})


def test_shares_of_the_time_add_up_over_lines():
  efficiency = Efficiency(1)
  first = {'timing/compilation_seconds': 6.0, 'timing/step_seconds': 2.0, 'timing/uptime': 8.0}
  assert efficiency(first) == {'goodput/compilation': 0.75, 'goodput/step': 0.25}
  second = {
    'timing/step_seconds': 7.0, 'timing/data_wait_seconds': 1.0,
    'timing/evaluate_seconds': 3.0, 'timing/checkpoint_seconds': 1.0,
  }  # fmt: skip
  got = efficiency(second)
  assert got == {
    'goodput/compilation': 0.3, 'goodput/step': 0.45, 'goodput/data_wait': 0.05,
    'goodput/evaluate': 0.15, 'goodput/checkpoint': 0.05,
  }  # fmt: skip
  assert sum(got.values()) == pytest.approx(1.0)


def test_chips_behind_devices():
  assert num_chips([_device(0, 0), _device(0, 1), _device(1, 2)]) == 3
  cores = [_device(0, i, 'tpu', coords=[i // 2, 0, 0], core_on_chip=i % 2) for i in range(8)]
  assert num_chips(cores) == 4
  # Simulated devices of one host share its cores.
  assert num_chips([_device(i // 4, i, 'cpu') for i in range(8)]) == 2


def test_progress_shows_what_there_is():
  values = {
    'loss': 4000.0, 'loss_per_nonpadding_target_token': 5.3121, 'accuracy': 0.1234,
    'timing/target_tokens_per_second': 12345.6, 'timing/seqs_per_second': 3.0,
    'timing/mfu': 0.4, 'timing/data_wait_fraction': 0.001, 'skipped_steps': 2.0,
  }  # fmt: skip
  assert progress_text(values) == (
    'loss 5.312, accuracy 12.3%, 12,346 tokens/s, MFU 40.0%, data wait 0.1%, 2 skipped'
  )
  assert progress_text({'loss': 0.25, 'timing/seqs_per_second': 3.0}) == (
    'loss 0.25, 3.0 examples/s'
  )
  assert progress_text({}) == ''


@pytest.mark.parametrize(
  'secs, text',
  [(0.4, '0 s'), (59, '59 s'), (61, '1 min 1 s'), (3600, '1 h 0 min'), (200_000, '2 d 7 h')],
)
def test_durations(secs, text):
  assert duration_text(secs) == text


def test_log_files_get_whole_lines(monkeypatch):
  clock = iter(range(0, 1000, 10))
  monkeypatch.setattr('training.progress.time.monotonic', lambda: float(next(clock)))
  file = io.StringIO()
  with Progress(50, 10, file=file) as progress:
    for step in range(8):
      progress.update()
      progress.show({'loss': 2.0 + step})
  lines = file.getvalue().split('\n')
  assert lines.pop() == '' and len(lines) >= 4
  assert lines[0].startswith('step 1')
  assert lines[-1].startswith('step 18/50 (36%), ') and lines[-1].endswith('left, loss 9')
  quiet = io.StringIO()
  with Progress(50, 10, enabled=False, file=quiet) as progress:
    progress.update()
  assert quiet.getvalue() == ''
