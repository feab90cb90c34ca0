"""The report in a headless Chromium: no error, tables sort, audio plays, nothing overflows.

Needs the `browser` extra and a Chromium; skipped without them.
"""

import shutil

import pytest

from evaluation.report import write_report

from .test_report import report as report  # The fixture.

sync_api = pytest.importorskip('playwright.sync_api')
NAMES = ('chromium', 'chromium-browser', 'google-chrome')
CHROMIUM = next(filter(None, map(shutil.which, NAMES)), None)
FLAGS = ['--no-sandbox', '--autoplay-policy=no-user-gesture-required', '--mute-audio']
WIDTHS = (390, 1440)

pytestmark = [
  pytest.mark.slow,
  pytest.mark.skipif(CHROMIUM is None, reason='no Chromium on this machine'),
]


@pytest.fixture(scope='module')
def address(report, tmp_path_factory):  # noqa: F811
  return write_report(report, tmp_path_factory.mktemp('report')).as_uri()


@pytest.fixture(scope='module')
def browser():
  with sync_api.sync_playwright() as playwright:
    browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
    yield browser
    browser.close()


@pytest.fixture(params=WIDTHS)
def page(browser, address, request):
  """The page at a width, without a network; an error in it fails the test."""
  context = browser.new_context(
    viewport={'width': request.param, 'height': 900}, color_scheme='light', offline=True
  )
  page, errors = context.new_page(), []
  page.on('pageerror', lambda error: errors.append(str(error)))
  page.on('console', lambda m: errors.append(m.text) if m.type in ('error', 'warning') else None)
  page.on('requestfailed', lambda r: errors.append(r.url[:80]))
  page.goto(address)
  yield page
  context.close()
  assert errors == []


def column(page, number):
  cells = page.locator(f'#sample-table tbody tr td:nth-child({number})')
  return [text.strip() for text in cells.all_inner_texts()]


def test_the_page_is_no_wider_than_the_screen(page):
  width = page.viewport_size['width']
  assert page.evaluate('document.documentElement.scrollWidth') <= width
  for name in ('summary', 'tokens', 'samples', 'health', 'drift'):
    box = page.locator(f'#{name}').bounding_box()
    assert box['x'] >= 0 and box['x'] + box['width'] <= width
  sizes = page.evaluate(
    "[...document.querySelectorAll('p, td, th, li')].map(e => parseFloat(getComputedStyle(e)"
    ".fontSize))"
  )
  assert min(sizes) >= 11


def test_the_sample_table_sorts_by_mouse_and_by_keyboard(page):
  head = page.locator('#sample-table thead th', has_text='Distance from A')
  button = head.locator('button')
  button.scroll_into_view_if_needed()
  button.click()
  assert head.get_attribute('aria-sort') == 'ascending'
  assert column(page, 6) == ['0.50', '2.00', 'n/a']  # What has no number comes last.
  button.focus()
  page.keyboard.press('Enter')
  assert head.get_attribute('aria-sort') == 'descending'
  assert column(page, 6) == ['2.00', '0.50', 'n/a']
  page.locator('#sample-table thead button', has_text='Clip').click()
  assert head.get_attribute('aria-sort') == 'none'


def test_audio_plays_one_at_a_time_and_seeks(page):
  play = """async (id) => {
    const audio = document.getElementById(id);
    await audio.play();
    return new Promise((done) => audio.addEventListener('timeupdate', () => {
      if (audio.currentTime > 0) done(audio.duration);
    }));
  }"""
  assert page.evaluate(play, 'audio-m0_p0') == pytest.approx(1, abs=0.1)
  assert page.locator('.clip .playhead:not([hidden])').count() == 1
  page.evaluate(play, 'audio-m0_c0')
  assert page.evaluate("document.getElementById('audio-m0_p0').paused")
  page.evaluate("document.getElementById('audio-m0_c0').pause()")
  page.locator('.jump').click()
  page.wait_for_function("document.getElementById('audio-m0_c0').currentTime >= 0.25")


def test_every_player_and_picture_says_what_it_is(page):
  names = page.evaluate(
    "[...document.querySelectorAll('audio, [role=img], [role=region]')].map(e => "
    "e.getAttribute('aria-label'))"
  )
  assert len(names) > 20 and all(names)
  # Whatever scrolls sideways can be reached with the keyboard.
  assert page.evaluate(
    "[...document.querySelectorAll('#samples .scroll, #health .scroll')].every(e => "
    'e.tabIndex === 0)'
  )
  page.keyboard.press('Tab')
  assert page.evaluate('document.activeElement.className') == 'skip'


def test_light_and_dark(page):
  paper = "getComputedStyle(document.body).backgroundColor"
  light = page.evaluate(paper)
  page.emulate_media(color_scheme='dark')
  dark = page.evaluate(paper)
  assert light == 'rgb(251, 250, 247)' and dark == 'rgb(20, 23, 27)'
  page.emulate_media(color_scheme='light')
  page.locator('.theme').click()
  assert page.evaluate(paper) == dark
  ink = page.evaluate("getComputedStyle(document.querySelector('#health svg')).color")
  assert ink == 'rgb(232, 230, 225)'  # Pictures follow the page.


def test_print_leaves_out_what_paper_cannot_do(page):
  page.emulate_media(media='print')
  assert not page.locator('nav').is_visible()
  assert not page.locator('audio').first.is_visible()
  assert page.locator('#health table').is_visible()
  overflow = "getComputedStyle(document.querySelector('#health .scroll')).overflowX"
  assert page.evaluate(overflow) == 'visible'
