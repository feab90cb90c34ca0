"""What a user can mend is one line with its name in it; the rest is a defect."""

import errno
import os
import pathlib
import subprocess
import sys
import textwrap

import numpy as np
import pytest

import gin
from pipelines import startup, user_errors

ROOT = pathlib.Path(__file__).parents[2]


def _raised(call):
  try:
    call()
  except Exception as error:
    return error
  raise AssertionError('nothing was raised')


@pytest.mark.parametrize('number', sorted(errno.errorcode))
def test_every_errno_with_a_file_is_one_line_that_names_it(number):
  error = OSError(number, os.strerror(number), '/a/file')
  text = user_errors.message(error)
  assert "'/a/file'" in text and os.strerror(number) in text and '\n' not in text


def test_ways_out_follow():
  text = user_errors.message(OSError(errno.ENOSPC, 'No space left on device', 'out/x'))
  assert text == (
    "No space left on device: 'out/x'. Make room there, or give a path on another disk."
  )
  text = user_errors.message(OSError(errno.EMFILE, 'Too many open files'))
  assert text == (
    'Too many open files. Too many files are open: raise the limit (`ulimit -n 4096`).'
  )
  moved = OSError(errno.EXDEV, 'Invalid cross-device link', 'a', None, 'b')
  assert user_errors.message(moved) == "Invalid cross-device link: 'a' -> 'b'."


def test_a_file_without_its_name_is_found_in_the_traceback(tmp_path):
  path = tmp_path / 'notes.json'
  path.write_bytes(b'{"a": "\xff"}')
  text = user_errors.message(_raised(lambda: path.read_text(encoding='utf-8')))
  assert text == f"Not utf-8 text at byte 7: '{path}'. Save it as UTF-8."

  def full():
    with open('/dev/full', 'w', buffering=1) as file:
      file.write('a line\n')

  text = user_errors.message(_raised(full))
  assert text.startswith("No space left on device: '/dev/full'. Make room")
  text = user_errors.message(_raised(lambda: pathlib.Path('a\0b').read_text()))
  assert text == "A path holds a NUL character: 'a\\x00b'."


def test_names_that_are_no_text_or_endless_can_be_printed():
  text = user_errors.message(_raised(lambda: 'song \udcff'.encode()))
  assert text.startswith("'song \\udcff' is not valid text: character 6 ")
  text = user_errors.message(_raised(lambda: pathlib.Path('n' * 3000).read_text()))
  assert text.startswith("File name too long: 'nnn") and '(3000 characters)' in text
  assert len(text) < 400
  assert user_errors.message(ValueError('a\x1b[2Jb')) == 'a\\x1b[2Jb'


@gin.configurable
def _fails(error):
  raise error


def test_what_gin_adds_hides_nothing():
  gin.clear_config()
  error = _raised(lambda: _fails(OSError(errno.ENOSPC, 'No space left on device', '/full/x')))
  assert error.errno is None and 'In call to configurable' in str(error)
  assert user_errors.message(error).startswith("No space left on device: '/full/x'.")
  assert user_errors.message(_raised(lambda: _fails(ValueError('seed=x')))) == 'seed=x'
  assert user_errors.message(_raised(lambda: _fails(KeyError('x')))) is None


def test_what_beam_adds_hides_nothing():
  remote = RuntimeError(
    'Traceback (most recent call last):\n  File "x.py", line 1\n'
    "ValueError: track.wav: no sound [while running 'Work']\n"
  )
  assert user_errors.message(remote) == 'track.wav: no sound.'
  wrapped = RuntimeError(
    "FileNotFoundError: [Errno 2] No such file or directory: '/a' [while running 'Work']"
  )
  assert user_errors.message(wrapped) == "[Errno 2] No such file or directory: '/a'."
  try:
    try:
      raise OSError(errno.EROFS, 'Read-only file system', '/a')
    except OSError:
      wrapped._tagged_with_step = True
      raise wrapped  # noqa: B904
  except RuntimeError as error:
    assert user_errors.message(error).startswith("Read-only file system: '/a'.")


def test_errors_of_libraries(tmp_path):
  import safetensors
  import soundfile
  from jax.errors import JaxRuntimeError
  from safetensors.numpy import save_file

  missing = _raised(lambda: soundfile.SoundFile('/none/x.wav'))
  assert '/none/x.wav' in user_errors.message(missing)
  out = JaxRuntimeError('RESOURCE_EXHAUSTED: Out of memory allocating 99 bytes.\nmore')
  assert user_errors.message(out).startswith('The memory of the device does not suffice.')
  assert 'NUM_MICROBATCHES' in user_errors.message(out)
  assert user_errors.message(JaxRuntimeError('INTERNAL: a bug')) is None
  broken = _raised(lambda: safetensors.deserialize(b'x'))
  assert user_errors.message(broken)
  full = _raised(lambda: save_file({'x': np.zeros([1, 9], np.float32)}, tmp_path))
  assert user_errors.message(full).endswith(f": '{tmp_path}'")
  temporary = FileNotFoundError(errno.ENOENT, "No usable temporary directory found in ['/tmp']")
  assert user_errors.message(temporary) == "No usable temporary directory found in ['/tmp']"
  text = user_errors.message(MemoryError('Unable to allocate 36 TiB'))
  assert text.startswith('The memory of this machine does not suffice: Unable to allocate 36 TiB.')
  assert user_errors.message(FloatingPointError('loss is nan at step 3. Lower')) == (
    'loss is nan at step 3. Lower'
  )
  backend = "Unable to initialize backend 'tpu': not found\nmore"
  assert 'JAX_PLATFORMS' in user_errors.message(RuntimeError(backend))
  assert "'starlette'" in user_errors.message(
    ModuleNotFoundError("No module named 'starlette'", name='starlette')
  )


class OpError(Exception):
  """As TensorFlow's, which takes seconds to import."""

  __module__ = 'tensorflow.python.framework.errors_impl'


class DataLossError(OpError):
  __module__ = OpError.__module__


class InvalidArgumentError(OpError):
  __module__ = OpError.__module__


def test_tensorflow_errors_about_files():
  assert user_errors.message(DataLossError('/a: corrupted record at 0')) == (
    '/a: corrupted record at 0'
  )
  assert user_errors.message(InvalidArgumentError('shapes differ')) is None


@pytest.mark.parametrize('error', [
  KeyError('x'), TypeError('x'), ZeroDivisionError('x'), AssertionError(), RuntimeError('ours'),
  ValueError(), OSError(errno.EBADF, 'Bad file descriptor'), AttributeError('x'),
  ModuleNotFoundError("No module named 'training.nothing'", name='training.nothing'),
  ImportError("cannot import name 'x' from 'models'", name='models'),
])  # fmt: skip
def test_defects_keep_their_traceback_and_say_so(error):
  assert user_errors.message(error) is None
  with pytest.raises(type(error)) as raised, startup.plain_errors('train.py'):
    raise error
  assert raised.value.__notes__[-1].startswith('train.py: This is a defect of Woodshed. Please rep')


def _script(body, **popen):
  code = f'from pipelines import startup\nimport sys, threading\n{textwrap.dedent(body)}'
  return subprocess.Popen(
    [sys.executable, '-c', code], cwd=ROOT, stderr=subprocess.PIPE, text=True, **popen
  )


def test_no_thread_holds_up_the_end():
  """The thread waits for ever: only force ends the process."""
  process = _script('''
    startup._SECS_TO_END = 0.1
    threading.Thread(target=threading.Event().wait).start()
    def main():
      with startup.plain_errors('train.py'):
        raise ValueError('steps=0 is too few')
    startup.run_module(main)
    ''')
  assert process.communicate()[1] == 'train.py: steps=0 is too few\n'
  assert process.returncode == 1


def test_the_end_of_an_error_is_not_the_interpreters():
  """Exit handlers are called; what the interpreter does after them may abort in native threads."""
  process = _script('''
    import atexit, os
    class Abort:
      def __del__(self):
        os.abort()
    kept = Abort()
    atexit.register(lambda: print('handled', file=sys.stderr))
    def main():
      with startup.plain_errors('prepare.py'):
        raise KeyboardInterrupt
    startup.run_module(main)
    ''')
  said = 'prepare.py: interrupted; the same command goes on from here.\nhandled\n'
  assert process.communicate()[1] == said
  assert process.returncode == 130


def test_a_closed_pipe_is_told_once():
  reading, writing = os.pipe()
  os.close(reading)
  process = _script('''
    def main():
      with startup.plain_errors('prepare.py'):
        print('to nobody')
    startup.run_module(main)
    ''', stdout=writing)  # fmt: skip
  os.close(writing)
  assert process.communicate()[1] == (
    'prepare.py: the output cannot be written: its pipe is closed.\n'
  )
  assert process.returncode == 1
