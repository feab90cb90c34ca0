"""The training loop, from a trainable and a feed to a trained state; resumes where it stopped."""

import contextlib
import functools
import inspect
import json
import pathlib
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import optax

from training import data_state, disk, hosts
from training.best import KeepBest
from training.checkpoints import Checkpoints
from training.due_evaluation import DueEvaluation
from training.meter import Meter
from training.metrics import NoWriters, Writers
from training.partitioning import Partitioning, PjitPartitioner
from training.prefetch import Prefetcher
from training.profiling import ProfileWindow
from training.progress import Progress
from training.state import TrainState
from training.step import make_train_step
from training.stopping import StopRequest, stop_on_signals
from training.wrappers import restart_average

SKIPPED_FILE = 'skipped_steps.jsonl'
Evaluator = Callable[[TrainState], Iterable[tuple[str, float]]]
Derived = Callable[[Mapping[str, float]], Mapping[str, float]]


def _checked_and_alone(function: Callable[..., TrainState]) -> Callable[..., TrainState]:
  """Checks the numbers of a run, then holds the lock of its `model_dir` while it lasts."""
  signature = inspect.signature(function)
  least = {
    'total_steps': 0, 'log_period': 1, 'eval_period': 0, 'checkpoint_period': 1,
    'keep_checkpoints': 1,
  }  # fmt: skip

  @functools.wraps(function)
  def locked(*args: Any, **kwargs: Any) -> TrainState:
    given = signature.bind(*args, **kwargs)
    given.apply_defaults()
    check_numbers(**{name: (given.arguments[name], number) for name, number in least.items()})
    with hosts.only_run_in(given.arguments['model_dir']):
      return function(*args, **kwargs)

  return locked


@_checked_and_alone
def train(
  trainable: Any,
  feed: Any,
  *,
  model_dir: str | pathlib.Path,
  total_steps: int,
  optimizer: optax.GradientTransformation,
  seed: int = 42,
  log_period: int = 50,
  checkpoint_period: int = 1000,
  keep_checkpoints: int = 5,
  eval_period: int = 0,
  eval_at_start: bool = False,
  evaluators: Mapping[str, Evaluator] | None = None,
  initial_params: Any | None = None,
  initial_optimizer_state: Callable[[Any], Any] | None = None,
  num_microbatches: int = 1,
  max_skipped_steps: int = 0,
  time_budget_secs: float | None = None,
  tensorboard: bool = True,
  progress: bool = True,
  partitioning: Partitioning | None = None,
  keep_best: KeepBest | None = None,
  profile: ProfileWindow | None = None,
  derive: Derived | None = None,
  allow_other_data: bool = False,
) -> TrainState:
  """Trains until `total_steps`, a signal, or the end of the time budget; the last step is saved.

  Started again with the same `model_dir` it goes on with the next batch, the same random numbers
  and the same optimizer state. At the start the newest checkpoint in `model_dir` comes first, then
  `initial_params`, then `trainable.init`.

  Args:
    trainable: `init(rng)` and `loss_fn(params, batch, rng)`, or a `train_step` of its own; optional
      `init_aux`, `calibration_steps` with `calibrate(state, get_batch)`, and `summarize`.
    feed: `batch(index)` or `batches(start)`, giving dicts of NumPy arrays with the batch first.
    model_dir: checkpoints, metrics.jsonl and events go here.
    total_steps: steps of the whole run, those before a restart included.
    optimizer: one with a `learning_rate(step)` gets it logged.
    seed: of initial values and dropout.
    log_period: steps from one line of metrics to the next.
    checkpoint_period: steps from one checkpoint to the next.
    keep_checkpoints: how many of the newest stay.
    eval_period: steps from one evaluation to the next and one at the end; 0 for none.
    eval_at_start: evaluate the state before the first step, too.
    evaluators: stream such as 'training_eval/demo' -> called with the state, yields (name, value).
      One with a `stop_reason` that is not None, asked behind each evaluation and at the start, ends
      the run as the time budget does.
    initial_params: start from these; optimizer and step start anew.
    initial_optimizer_state: of the optimizer's first state, the one to start from in its place.
    num_microbatches: parts of a batch whose gradients are added up, for less memory.
    max_skipped_steps: maximum number of consecutive steps that are skipped because their loss or
      gradient is not finite. They are logged to skipped_steps.jsonl with the indices of their
      examples; 0 stops at the first.
    time_budget_secs: stop cleanly once this call has lasted so long.
    tensorboard: also write TensorBoard events.
    progress: show a progress bar.
    partitioning: how the run lies on the devices; None shares each batch among all of them.
    keep_best: which checkpoints stay beside the newest ones.
    profile: steps to trace.
    derive: from the metrics of one line, more of them, such as `efficiency.Efficiency`.
    allow_other_data: go on with other data than that of the checkpoint.

  Returns:
    The state after the last step made.

  Raises:
    FloatingPointError: the loss or the gradient was not finite in more than `max_skipped_steps`
      consecutive steps; names the step.
    ValueError: a number of steps or checkpoints is too small, or the checkpoint is of a run on
      other data (`data_state`).
    DiskError: a file could not be written; the newest checkpoint is whole.
    FolderInUseError: another run works in `model_dir`.
  """
  stop = StopRequest(time_budget_secs)
  agreed = hosts.AgreedStop(stop)
  meter = Meter(
    trainable,
    optimizer,
    max_skipped_steps=max_skipped_steps,
    on_skip=functools.partial(_tell_skipped, pathlib.Path(model_dir)),
  )
  first = hosts.is_first()
  say = functools.partial(print, flush=True) if first else lambda text: None
  writers = Writers(model_dir, tensorboard=tensorboard) if first else NoWriters()
  evaluators = evaluators or {}
  partitioning = partitioning or PjitPartitioner().fit(getattr(feed, 'batch_size', None))
  own_feed = partitioning.local_feed(feed)
  shared = own_feed is not feed

  # Set-up: keys, then the newest checkpoint, the given parameters, or initial values.
  init_rng, step_rng = jax.random.split(jax.random.key(seed))
  checkpoints = Checkpoints(model_dir, keep_checkpoints, keep_best)
  with meter.timed('init_or_restore'):
    if checkpoints.latest_step is not None:
      like = partitioning.state_like(trainable, optimizer, init_rng)
      state, data = checkpoints.restore(like)
      origin = f'from checkpoint_{int(state.step)}'
      warning = data_state.check_same_data(
        f'{model_dir}/checkpoint_{int(state.step)}', data.get('data'),
        data_state.content_of(feed), allow_other=allow_other_data,
      )  # fmt: skip
      if warning:
        say(warning)
      position = data_state.next_batch(data, feed)
    else:
      state = partitioning.create_state(trainable, optimizer, init_rng, initial_params)
      if initial_optimizer_state is not None:
        kept = initial_optimizer_state(state.opt_state)
        state = state.replace(opt_state=partitioning.like(kept, state.opt_state))
      position = 0
      origin = 'from scratch' if initial_params is None else 'from the given parameters'
  first_step = step = evaluated_at = int(state.step)
  due = DueEvaluation(model_dir, writes=first)
  owed = bool(eval_period) and (due.is_owed(step) or eval_at_start and step == 0)
  # What the evaluators before the one that failed wrote is written again.
  writers.rewind(step, anew=evaluators if owed else ())
  say(f'{model_dir}: {origin}, {step} of {total_steps} steps made, {partitioning}.')
  train_step = make_train_step(
    trainable,
    optimizer,
    partitioning.step_compiler(state, shared),
    num_microbatches=num_microbatches,
    skip_nonfinite=max_skipped_steps > 0,
  )
  if profile is not None:
    train_step = profile.wrap(train_step, step)
  step_rng = partitioning.replicate(step_rng)

  # The loop. The device works on one step while the next batch is fetched.
  with (
    stop_on_signals(stop),
    checkpoints,
    profile or contextlib.nullcontext(),
    Prefetcher(own_feed, position, place=partitioning.placer(shared)) as batches,
    Progress(total_steps, step, enabled=progress and first) as bar,
  ):
    if owed:
      with meter.timed('evaluate'):
        _evaluate(evaluators, state, step, writers)
      due.done()
    stop.wish(_stop_reason(evaluators))
    while step < total_steps and not agreed.vote():
      if step in getattr(trainable, 'calibration_steps', ()):
        with meter.timed('calibrate'):
          calibrated = trainable.calibrate(state, feed.batch)
          if step == 0:  # It may have set the parameters.
            calibrated = restart_average(calibrated)
          state = partitioning.like(calibrated, state)
      with meter.timed('data_wait'):
        # Who waits for data must hear a signal; several processes can only stop together.
        batch = batches.next(lambda: bool(stop.reason) and agreed.alone)
      if batch is None:
        break
      with meter.timed('compilation') if step == first_step else contextlib.nullcontext():
        state, metrics = train_step(state, batch, step_rng)
      step += 1
      meter.add(step, metrics, batch)
      checkpoints.check()
      bar.update()

      if step % log_period == 0:
        _log(meter, step, writers, bar, derive)
      is_due = eval_period and step % eval_period == 0
      if is_due:
        due.begin(step)
      if step % checkpoint_period == 0:
        meter.check()
        with meter.timed('checkpoint'):
          checkpoints.save(state, data_state.position(batches.position, feed))
      if is_due:
        with meter.timed('evaluate'):
          _evaluate(evaluators, state, step, writers)
        due.done()
        evaluated_at = step
        stop.wish(_stop_reason(evaluators))

    # The end, whatever the reason for it: the last step is on disk before anything else.
    meter.check()
    is_due = eval_period and evaluated_at < step and not agreed.signalled
    if is_due:
      due.begin(step)
    with meter.timed('checkpoint'):
      checkpoints.save(state, data_state.position(batches.position, feed))
      checkpoints.wait()
    if meter.has_steps:
      _log(meter, step, writers, bar, derive)
    if is_due:
      _evaluate(evaluators, state, step, writers)
      due.done()
  writers.close()
  end = 'finished' if step >= total_steps else f'stopped because {agreed.reason}'
  say(f'{model_dir}: {end}; {step} steps are saved in checkpoint_{step}.')
  if keep_best is not None and keep_best.keep and eval_period:
    say(f'{model_dir}: {keep_best.describe(model_dir)}')
  return state


def _stop_reason(evaluators: Mapping[str, Evaluator]) -> str | None:
  """Why an evaluator wants the run to end, in words, or None."""
  reasons = (getattr(evaluator, 'stop_reason', None) for evaluator in evaluators.values())
  return next((reason for reason in reasons if reason), None)


def check_numbers(**values: tuple[int, int]):
  """Raises ValueError naming the first (value, least) that is smaller, or no whole number."""
  for name, (value, least) in values.items():
    if not isinstance(value, int) or value < least:
      raise ValueError(f'{name}={value!r} is not a whole number of at least {least}.')


def _tell_skipped(model_dir: pathlib.Path, step: int, indices: list[int]):
  """Appends a skipped step and its examples to MODEL_DIR/skipped_steps.jsonl."""
  if hosts.is_first():
    try:
      with open(model_dir / SKIPPED_FILE, 'a', encoding='utf-8') as file:
        file.write(json.dumps({'step': step, 'index': indices}) + '\n')
    except OSError as error:
      way_out = 'Started again, the run goes on from its newest checkpoint.'
      raise disk.disk_error(SKIPPED_FILE, model_dir, error.errno, way_out) from error


def _log(meter: Meter, step: int, writers: Writers, bar: Progress, derive: Derived | None):
  values = meter.summary(step)
  if derive is not None:
    values = {**values, **derive(values)}
  writers.write(step, values)
  bar.show(values)


def _evaluate(
  evaluators: Mapping[str, Evaluator], state: TrainState, step: int, writers: Writers
):
  for name, evaluator in evaluators.items():
    values = {metric: float(value) for metric, value in evaluator(state)}
    if values:
      writers.write(step, values, stream=name)
