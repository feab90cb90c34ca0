"""gin, as the root scripts use it: parse, check everything before any work, run, record.

A run file binds the function to run to the macro RUN (`RUN = @runs.train`) and its parameters by
T5X's macro names. gin itself accepts a macro that nothing uses; here it stops the run, like every
other name that leads nowhere, with the nearest right one.
"""

import inspect
import io
import pathlib
import re
import tokenize
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import gin
from gin import config as gin_internals
from pipelines import gin_kinds, gin_paths, gin_values
from pipelines.gin_files import GIN_HOME, ROOT, GinError, GinReader, nearest
from preprocessing import files as file_paths

RUN = 'RUN'
CONFIG_FILE = 'config.gin'
OPERATIVE_CONFIG_FILE = 'operative_config.gin'
PARTITIONER = 'runs.train.partitioner'
_FOLDER = '_DIR'
_FLAG_PREFIX = '--gin.'
_REQUIRED = 'gin.REQUIRED'
# What a function that hands its arguments on to `runs.train` takes besides its own.
_TRAINING_ARGUMENTS = ('dry_run', 'on_start', 'precompile', 'profile_steps')


def split_flags(argv: Sequence[str]) -> tuple[list[str], list[str]]:
  """T5X's `--gin.NAME=VALUE` arguments as bindings ('NAME=VALUE'), and the other arguments.

  Raises:
    GinError: an argument has no '='.
  """
  bindings, others = [], []
  for argument in argv:
    if not argument.startswith(_FLAG_PREFIX):
      others.append(argument)
      continue
    binding = argument.removeprefix(_FLAG_PREFIX)
    if '=' not in binding:
      raise GinError(f'{argument} gives no value; write {argument}=VALUE.')
    bindings.append(binding)
  return bindings, others


def parse_gin(
  files: Sequence[str], bindings: Sequence[str] = (), search_paths: Sequence[str] = ()
) -> None:
  """Sets gin's configuration from files, then bindings; later ones win. Nothing is run.

  Args:
    files: looked up in `search_paths`, the working directory and the checkout, in this order;
      what they include is looked for beside the including file before.
    bindings: 'TRAIN_STEPS = 100' or 'runs.train.seed = 3'.
    search_paths: folders.

  Raises:
    GinError: an unknown file, module, function or parameter; a macro that is used and not set, set
      and not used, required and not given, of another kind than in the files of gin/, out of range,
      or without effect beside the others.
    OSError: a file cannot be read.
  """
  gin.clear_config()
  reader = GinReader([*map(pathlib.Path, search_paths), pathlib.Path(), GIN_HOME])
  shipped: dict[str, Any] = {}
  try:
    for name in files:
      before = _macro_values()
      path = reader.parse(name)
      if path.resolve().is_relative_to(GIN_HOME / 'gin'):
        # Those that the file sets: what stood before it may be a user's.
        values = _macro_values()
        shipped |= {
          name: value
          for name, value in values.items()
          if name not in before or before[name] is not value
        }
    gin.parse_config(list(bindings))
  except (ValueError, AttributeError, ImportError, SyntaxError) as error:
    raise GinError(_explain(error)) from error
  except tokenize.TokenError as error:
    raise GinError(f'A value is not closed: {", ".join(bindings) or files}: {error}') from error
  _check_macros([*(text for _, text in reader.read), *bindings])
  _check_values(shipped)
  _make_folders_absolute()


def _make_folders_absolute():
  """Makes full paths of macros that name a folder, such as MODEL_DIR: Orbax takes no others."""
  for name, value in _macro_values().items():
    if not name.endswith(_FOLDER) or not (paths := gin_paths.texts(value)):
      continue
    if not all(paths):
      raise GinError(f'{name} is empty; give the path of a folder, or leave it out.')
    full = [file_paths.absolute(path) for path in paths]
    gin.bind_parameter(f'{name}/gin.macro.value', full[0] if isinstance(value, str) else full)


def _check_macros(texts: Sequence[str]):
  """Checks that macros are set, used and given; `texts` is all that was parsed.

  A use counts even where a later binding replaced it, since there is no way to unset a macro.
  """
  values = _macro_values()
  needed = _macros_in(v for (_, s), v in gin_internals._CONFIG.items() if s != 'gin.macro')
  frontier = list(needed)
  while frontier:  # Macros that are used by used macros.
    for name in _macros_in([values.get(frontier.pop())]) - needed:
      needed.add(name)
      frontier.append(name)
  used = needed | _macros_in(values.values()) | set().union(*map(_macros_in_text, texts), {RUN})
  for name in sorted(set(values) - used):
    raise GinError(f'Nothing uses {name}.{nearest(name, used)} Used: {", ".join(sorted(used))}')
  for name in sorted(needed - set(values)):
    files = 'gin/models/*.gin' if name == 'MODEL' else 'a gin file'
    raise GinError(
      f'{name} is used and nowhere set. Add --gin.{name}=... or the file that sets it ({files}).'
    )
  missing = [name for name in sorted(needed) if _is_required(values[name])]
  if missing:
    flags = ' '.join(f'--gin.{name}=...' for name in missing)
    raise GinError(f'{", ".join(missing)} must be given: {flags} (strings in quotes: \\"...\\").')


def _macro_values() -> dict[str, Any]:
  return {
    scope: bound.get('value')
    for (scope, selector), bound in gin_internals._CONFIG.items()
    if selector == 'gin.macro'
  }


def _check_values(shipped: dict[str, Any]):
  """Raises a GinError for a macro of another type than in gin/, or for values that conflict."""
  values = _macro_values()
  for name, value in shipped.items():
    if wrong := gin_kinds.mistake(name, values[name], value):
      raise GinError(wrong)
  if wrong := gin_values.mistake(values, shipped):
    raise GinError(wrong)


def check_devices():
  """Checks that the partitioner of the parsed run fits the devices of this machine.

  The run itself checks it too, but only once its feed is built, which may take minutes.

  Raises:
    ValueError: the devices do not divide into copies of the model, or the batch into shares.
  """
  partitioner = parameter_value(PARTITIONER)
  if partitioner is not None:
    partitioner.fit(macro_value('BATCH_SIZE'))


def _macros_in(values: Iterable[Any]) -> set[str]:
  return {
    '/'.join(reference.scopes)
    for reference in gin_internals._iterate_flattened_values(list(values))
    if isinstance(reference, gin_internals.ConfigurableReference)
    and reference.configurable.selector == 'gin.macro'
  }


def _is_required(value: Any) -> bool:
  return (
    isinstance(value, gin_internals.ConfigurableReference)
    and '/'.join(value.scopes) == _REQUIRED
  )


def _macros_in_text(text: str) -> set[str]:
  """Names after '%' in gin source, outside of strings and comments."""
  names, after_percent = set(), False
  try:
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
      if after_percent and token.type == tokenize.NAME:
        names.add(token.string)
      after_percent = token.type == tokenize.OP and token.string == '%'
  except (tokenize.TokenError, IndentationError):  # gin's own parser has accepted it.
    pass
  return names - {'gin'}


def _explain(error: Exception) -> str:
  """gin's message with the nearest right name."""
  message = str(error).strip()
  registered = [selector for selector, _ in gin_internals._REGISTRY.items()]
  if match := re.search(r"Configurable '(.+)' doesn't have a parameter named '(.+)'", message):
    wrapped = _registered(match[1])
    parameters = list(inspect.signature(wrapped).parameters) if wrapped else []
    return f'{message}\n{nearest(match[2], parameters, "It has")}'.rstrip()
  if match := re.search(r"No configurable matching (?:reference )?'@?([^'()]+)", message):
    tails = {'.'.join(name.split('.')[-n:]) for name in registered for n in (1, 2, 3)}
    return f'{message}\n{nearest(match[1], tails)}'.rstrip()
  if match := re.search(r"<module '(\S+)' .*has no attribute (\w+)", message):
    module = inspect.sys.modules.get(match[1])
    names = [name for name in dir(module) if name[0] != '_']
    return f'{message}\n{nearest(match[2], names)}'.rstrip()
  if match := re.search(r"No module named '(\S+)'", message):
    parent, _, child = match[1].rpartition('.')
    folder = ROOT.joinpath(*parent.split('.')) if parent else ROOT
    names = [path.stem for path in folder.glob('*')]
    return f'{message}\n{nearest(child, names)}'.rstrip()
  return message


def _registered(name: str) -> Callable[..., Any] | None:
  for selector, configurable in gin_internals._REGISTRY.items():
    if selector == name or selector.endswith('.' + name):
      return configurable.wrapped
  return None


def macro_value(name: str, default: Any = None) -> Any:
  """The value of a macro, references resolved; `default` where it is not set."""
  return parameter_value(f'{name}/gin.macro.value', default)


def parameter_value(name: str, default: Any = None) -> Any:
  """What a parameter ('runs.train.optimizer') is bound to, as `macro_value`."""
  try:
    value = gin.query_parameter(name)
  except ValueError:
    return default
  return gin_internals.copy.deepcopy(value)


def config() -> str:
  """Everything that was parsed, as gin source."""
  return gin.config_str(max_line_length=100)


def operative_config() -> str:
  """Every parameter that was used so far, with its value, as gin source."""
  return gin.operative_config_str(max_line_length=100)


def run(**arguments: Any) -> Any:
  """Calls the function bound to RUN and keeps its configuration in MODEL_DIR.

  Args:
    **arguments: of the function, in place of what is bound; False and None are left out.
      `on_start`, where the function takes it, is called once everything is built; it writes the
      operative configuration.

  Raises:
    GinError: no gin file binds RUN, or its function does not take an argument.
  """
  function = macro_value(RUN)
  if not callable(function):
    raise GinError('No gin file says what to run. Add one of gin/runs/, such as pretrain.gin.')
  parameters = inspect.signature(inspect.unwrap(function)).parameters
  passes_on = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
  takes = {*parameters, *(_TRAINING_ARGUMENTS if passes_on else ())}
  arguments = {name: value for name, value in arguments.items() if value not in (None, False)}
  for name in set(arguments) - takes - {'dry_run', 'operative_config'}:
    raise GinError(f'{function.__name__} takes no {name}.')
  from training.hosts import is_first, only_run_in

  gin_paths.check(
    _macro_values(), writes=not (arguments.get('dry_run') or arguments.get('precompile'))
  )
  if arguments.get('dry_run'):
    if 'dry_run' not in takes:
      print(config())
      return None
    arguments['on_start'] = lambda: print(operative_config())
  if 'operative_config' in takes:
    arguments.setdefault('operative_config', config())
  check_devices()
  folder = macro_value('MODEL_DIR')
  writes_nothing = arguments.get('dry_run') or arguments.get('precompile')
  if writes_nothing or not folder or 'on_start' not in takes:
    return function(**arguments)
  with only_run_in(folder):
    if is_first():
      arguments['on_start'] = _config_writer(pathlib.Path(folder))
    return function(**arguments)


def _config_writer(folder: pathlib.Path) -> Callable[[], Any]:
  """Writes config.gin at once; the function that it returns writes the operative one."""
  (folder / CONFIG_FILE).write_text(config(), encoding='utf-8')
  path = folder / OPERATIVE_CONFIG_FILE
  return lambda: path.write_text(operative_config(), encoding='utf-8')
