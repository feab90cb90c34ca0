"""Jam for a long time: memory, times that it ran dry, latencies; JSON lines, the last one sums up.

    python -m benchmarks.jam --minutes=30
    python -m benchmarks.jam --minutes=5 --others=2

Starts `jam.py` with a model and plays it in a headless Chromium (the `browser` extra, and a
Chromium on the path). Every 20 s the style changes, every 5 minutes the connection is lost.
`--others` adds players in Python, paced by the clock, who share the model.

Told are the seconds of a chunk from its request to its sound being ready, of a change of style
until it is heard, and of a message there and back; the resident memory of the server and of the
page's JavaScript heap; how often the sound paused. A machine that does other things tells more of
them than of jam: `load` is the system's, once a minute.
"""

import argparse
import os
import pathlib
import re
import shutil
import subprocess
import sys
import threading
import time

import numpy as np

from benchmarks.measuring import report, resident_mib
from inference.client import JamClient, JamError

ROOT = pathlib.Path(__file__).parents[1]
FLAGS = ['--no-sandbox', '--autoplay-policy=no-user-gesture-required', '--mute-audio']
CHANGE_SECS, DROP_SECS = 20, 300
WATCH = """() => {
  window.seen = {chunks: [], trips: []};
  const {connection} = window.jam;
  connection.addEventListener('chunk', ({detail}) => seen.chunks.push(
    [detail.turnaround_secs, detail.generate_secs, detail.batch_size]));
  connection.addEventListener('pong', ({detail}) =>
    seen.trips.push((performance.now() - detail.time) / 1000));
}"""
STATE = """() => ({
  last: jam.audio.last, delays: jam.delay.measured, connections: jam.connection.connections,
  heap: performance.memory ? performance.memory.usedJSHeapSize : 0, seen, first: jam.firstSoundSecs,
  buffer: jam.settings.buffer_secs})"""


def percentiles(values: list[float]) -> dict[str, float]:
  """p50, p95, p99 and the largest, in the values' unit."""
  if not values:
    return {}
  found = np.percentile(values, [50, 95, 99, 100])
  return dict(zip(('p50', 'p95', 'p99', 'max'), found.round(3).tolist(), strict=True))


def cpu_secs(pid: int) -> float:
  """Processor seconds that a process has used on Linux."""
  fields = pathlib.Path(f'/proc/{pid}/stat').read_text().rsplit(') ', 1)[1].split()
  return (int(fields[11]) + int(fields[12])) / os.sysconf('SC_CLK_TCK')


def start_server(bundle: str, buffer_secs: float) -> tuple[subprocess.Popen, str, float]:
  """The server's process, its page, and the seconds until it was ready."""
  begun = time.perf_counter()
  server = subprocess.Popen(
    [sys.executable, 'jam.py', '--noopen', '--port=0', f'--bundle={bundle}',
     f'--buffer_secs={buffer_secs}', '--prompt=church organ', '--prompt=ambient pad',
     '--prompt=techno drums'],
    cwd=ROOT, stdout=subprocess.PIPE, text=True, env={**os.environ, 'PYTHONUNBUFFERED': '1'},
  )  # fmt: skip
  for line in server.stdout:
    if found := re.match(r'Play: (\S+)', line):
      return server, found[1], time.perf_counter() - begun
  raise RuntimeError('jam.py ended before it served.')


def play_along(url: str, stop: threading.Event):
  """Another player, in real time."""
  try:
    with JamClient(url, name='other', pace='clock') as jam:
      jam.play()
      for _ in jam.frames():
        if stop.is_set():
          return
  except JamError as error:
    report('other', error=str(error))


def watch(page, server: subprocess.Popen, minutes: float) -> tuple[dict, list[float]]:
  """Plays, changes and drops for `minutes`; the page's last state, and the server's memory."""
  memory, end, begun = [], time.monotonic() + 60 * minutes, time.monotonic()
  next_change, next_drop, next_line = begun + CHANGE_SECS, begun + DROP_SECS, begun + 60
  turn = 0
  while (now := time.monotonic()) < end:
    page.wait_for_timeout(500)
    if now > next_change:
      next_change += CHANGE_SECS
      turn += 1
      page.keyboard.press(str(1 + turn % 3))
    if now > next_drop:
      next_drop += DROP_SECS
      page.evaluate('jam.connection.socket.close()')
    if now > next_line:
      next_line += 60
      memory.append(resident_mib(server.pid))
      state = page.evaluate(STATE)
      report(
        'minute', minute=round((now - begun) / 60), server_mib=memory[-1],
        heap_mib=round(state['heap'] / 2**20, 1), chunks=len(state['seen']['chunks']),
        underruns=state['last']['underruns'], load=os.getloadavg()[0],
        turnaround=percentiles([chunk[0] for chunk in state['seen']['chunks'][-30:]]),
      )  # fmt: skip
  return page.evaluate(STATE), memory


def main():
  parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
  parser.add_argument('--minutes', type=float, default=30)
  parser.add_argument('--bundle', default='tiny')
  parser.add_argument('--buffer_secs', type=float, default=2.0)
  parser.add_argument('--others', type=int, default=0, help='players in Python beside the page')
  options = parser.parse_args()
  from playwright.sync_api import sync_playwright

  chromium = next(filter(None, map(shutil.which, ('chromium', 'google-chrome'))), None)
  server, url, ready_secs = start_server(options.bundle, options.buffer_secs)
  stop = threading.Event()
  try:
    report('start', ready_secs=round(ready_secs, 1), server_mib=resident_mib(server.pid))
    with sync_playwright() as playwright:
      browser = playwright.chromium.launch(executable_path=chromium, args=FLAGS)
      page = browser.new_page(viewport={'width': 1280, 'height': 860})
      page.goto(url)
      page.locator('#link', has_text=re.compile('^connected$')).wait_for()
      page.evaluate(WATCH)
      page.click('#play')
      cpu_before = cpu_secs(server.pid)
      for _ in range(options.others):
        threading.Thread(target=play_along, args=(url, stop), daemon=True).start()
      state, memory = watch(page, server, options.minutes)
      browser.close()
      cpu = cpu_secs(server.pid) - cpu_before
  finally:
    stop.set()
    server.terminate()
    server.wait(20)
  chunks = state['seen']['chunks']
  report(
    'all', minutes=options.minutes, others=options.others, first_sound_secs=state['first'],
    chunks=len(chunks), turnaround_secs=percentiles([chunk[0] for chunk in chunks]),
    generate_secs=percentiles([chunk[1] for chunk in chunks]),
    server_cpu_secs_per_chunk=round(cpu / len(chunks) / (1 + options.others), 3),
    batch_sizes=sorted({chunk[2] for chunk in chunks}),
    control_delay_secs=percentiles(state['delays']),
    round_trip_secs=percentiles(state['seen']['trips']),
    played_secs=round(state['last']['position'] / 48_000, 1), underruns=state['last']['underruns'],
    silent_secs=round(state['last']['silent'] / 48_000, 2), lost_samples=state['last']['lost'],
    connections=state['connections'], buffer_secs_at_end=state['buffer'],
    server_mib={'first': memory[0], 'last': memory[-1], 'most': max(memory)} if memory else {},
    heap_mib=round(state['heap'] / 2**20, 1),
  )  # fmt: skip


if __name__ == '__main__':
  main()
