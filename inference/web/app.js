// The page: joins the connection, the sound, the pad and the views. The server keeps the settings;
// the page sends what is wanted and shows what came back.

import {Audio, decodeFile} from './audio.js';
import {Connection} from './connection.js';
import {Midi} from './midi.js';
import {Pad, freePlace, throttled} from './pad.js';
import {PromptList} from './prompts.js';
import {Recorder} from './recorder.js';
import {Delay} from './delay.js';
import {Views} from './views.js';

const $ = (id) => document.getElementById(id);
const TOP_KS = [1, 4, 8, 16, 24, 40, 64, 256, 0];
const REPORT_MS = 200;
const PAINT_MS = 40;
const MIC_SECS = 10;

const connection = new Connection();
const audio = new Audio();
const recorder = new Recorder(audio);
const pad = new Pad($('pad'));
const list = new PromptList($('prompts'));
const views = new Views({spectrogram: $('spectrogram'), timeline: $('timeline'), meters: $('meters')});
const midi = new Midi();
const delay = new Delay(audio);
let facts = {sample_rate: 48000, limits: {prompts: 6, buffer_secs: 20, upload_secs: 30, style_secs: 10}};
let settings = {prompts: [], cursor: null, sampling: {}, inject: {}, buffer_secs: 2, version: 0};
let wanted = false;  // The user wants to hear music.
let playClicked = null;
let lastChunk = null;
let uploads = 0;

// What the server says.

connection.addEventListener('welcome', ({detail}) => {
  facts = detail;
  const fresh = !detail.resumed || connection.connections === 1;
  if (fresh) {
    audio.clear(detail.next_sample);
    views.clear();
  }
  if (!detail.resumed && connection.connections > 1) restore(settings);
  else show(detail.settings);
  $('model').textContent = detail.model;
  $('add-preset').hidden = !detail.presets.length;
  $('add-preset').replaceChildren(new Option('Preset', ''), ...detail.presets.map((name) => new Option(name)));
  $('buffer').max = detail.limits.buffer_secs;
  link('good', 'connected');
  say('');
  if (wanted) connection.send('play');
});
connection.addEventListener('settings', ({detail}) => show(detail));
connection.addEventListener('audio', ({detail}) => audio.push(detail));
connection.addEventListener('chunk', ({detail}) => {
  lastChunk = detail;
  views.add(detail);
  delay.made(detail);
  if (detail.slow) {
    say(`The model makes ${detail.real_time_factor.toFixed(2)} s of music a second here, less than is `
      + 'played: it pauses to fill the buffer. A smaller model or a faster machine plays through.');
  } else if (!detail.slow && $('notice').dataset.kind === 'slow') {
    say('');
  }
  $('notice').dataset.kind = detail.slow ? 'slow' : '';
});
for (const type of ['taken_back', 'stopped']) {
  connection.addEventListener(type, ({detail}) => {
    audio.truncate(detail.next_sample);
    views.takeBack(detail.next_sample);
  });
}
connection.addEventListener('asked', ({detail}) => (detail.to === 'play' ? play() : stop()));
connection.addEventListener('notice', ({detail}) => say(detail.message));
connection.addEventListener('error', ({detail}) => say(detail.message, true));
connection.addEventListener('pong', ({detail}) => {
  $('fact-trip').innerHTML = number((performance.now() - detail.time), 0, 'ms');
});
connection.addEventListener('lost', ({detail}) => {
  if (detail.code === 4004) link('bad', 'open in another tab');
  else if (detail.code === 4002) link('bad', 'full, waiting');
  else if (detail.code === 1008) link('bad', 'closed');
  else link('', 'connecting again');
  if (detail.reason) say(`${capital(detail.reason)}.`, true);
});
connection.addEventListener('token', () => $('token-dialog').showModal());
$('token-form').onsubmit = (event) => {
  event.preventDefault();
  connection.token = $('token').value.trim();
  $('token-dialog').close();
  connection.connect();
};

function show(next) {
  delay.settingsCame(next.version);
  settings = next;
  list.show(next.prompts);
  pad.show(next.prompts, next.cursor);
  $('mix-hint').textContent = next.prompts.length > 1
    ? (next.cursor ? 'the ring mixes by distance' : 'mixed by the sliders') : 'add another to mix';
  const {sampling} = next;
  setSlider('temperature', sampling.temperature, sampling.temperature.toFixed(2));
  setSlider('guidance', sampling.guidance_weight, sampling.guidance_weight.toFixed(2));
  const at = TOP_KS.indexOf(sampling.top_k);
  setSlider('top-k', at < 0 ? TOP_KS.findIndex((k) => !k || k >= sampling.top_k) : at, sampling.top_k || 'all');
  setSlider('buffer', next.buffer_secs, `${next.buffer_secs} s`);
  if (document.activeElement !== $('seed')) $('seed').value = sampling.seed;
  setSlider('loop-amount', next.inject.amount, `${Math.round(next.inject.amount * 100)}%`, 'loop-value');
  $('loop-off').hidden = !next.inject.upload;
  if (!next.inject.upload) $('loop-name').textContent = 'none';
  audio.setRebuffer(next.buffer_secs);
}

// After a session was lost for good: a new one with what can be sent anew.
function restore(old) {
  const prompts = old.prompts.filter((prompt) => prompt.kind !== 'audio');
  connection.send('prompts', {prompts, ...(old.cursor ? {cursor: old.cursor} : {})});
  connection.send('sampling', old.sampling);
  connection.send('buffer', {secs: old.buffer_secs});
}

function change(type, fields) {
  if (connection.send(type, fields)) delay.changed(type);
}

// Play, stop, record.

async function play() {
  if (wanted) return;
  wanted = true;
  playClicked = performance.now();
  showPlaying();
  await audio.open(facts.sample_rate, facts.limits.buffer_secs);
  audio.setRebuffer(settings.buffer_secs);
  audio.play(Math.min(settings.buffer_secs, 1));
  connection.send('play');
}

function stop() {
  if (!wanted) return;
  wanted = false;
  showPlaying();
  audio.stop();
}

function showPlaying() {
  $('play').setAttribute('aria-pressed', wanted);
  $('play-label').textContent = wanted ? 'Stop' : 'Play';
}

audio.addEventListener('stopped', ({detail}) => connection.send('stop', {next_sample: detail.position}));
let reported = 0;
let dry = 0;
audio.addEventListener('report', ({detail}) => {
  if (detail.state === 'playing' && playClicked !== null) {
    $('fact-first').innerHTML = number((performance.now() - playClicked) / 1000, 2, 's');
    jam.firstSoundSecs = (performance.now() - playClicked) / 1000;
    playClicked = null;
    audio.setRebuffer(settings.buffer_secs);
  }
  delay.heard(detail.position);
  if (detail.underruns > dry && !lastChunk?.slow) {
    say('The sound paused: what was made ahead was used up. From now on more is made ahead.');
  }
  dry = detail.underruns;
  const now = performance.now();
  if (now - reported > REPORT_MS && wanted) {
    reported = now;
    connection.send('played', {sample: detail.position, underruns: detail.underruns});
    connection.remember(detail.position);
  }
});
delay.addEventListener('measured', ({detail}) => {
  $('fact-delay').innerHTML = number(detail, 1, 's');
  $('fact-delay-sub').textContent = 'from change to ear, last one';
});

$('play').onclick = () => (wanted ? stop() : play());
$('record').onclick = record;
async function record() {
  if (recorder.on) return recorder.stop();
  await audio.open(facts.sample_rate, facts.limits.buffer_secs);
  recorder.start();
  $('record').setAttribute('aria-pressed', true);
}
recorder.addEventListener('done', ({detail}) => {
  $('record').setAttribute('aria-pressed', false);
  $('record-label').textContent = 'Record';
  if (!recorder.frames) return say('Nothing was playing, so nothing was recorded.');
  const stamp = new Date().toISOString().slice(0, 19).replace(/[-:]/g, '').replace('T', '-');
  const link = Object.assign(document.createElement('a'), {
    href: URL.createObjectURL(detail), download: `jam-${stamp}.wav`,
  });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60000);
});
$('volume').oninput = () => {
  audio.setVolume(Number($('volume').value));
  fill($('volume'));
};

// Prompts.

const sendCursor = throttled(([x, y]) => change('cursor', {x, y}));
const sendPrompts = throttled((prompts, cursor) =>
  change('prompts', {prompts, ...(cursor ? {cursor} : {})}));
const sendWeights = throttled((weights) => change('weights', {weights}));

pad.addEventListener('cursor', ({detail}) => settings.prompts.length && sendCursor(detail));
pad.addEventListener('place', ({detail: {index, place}}) => {
  const prompts = settings.prompts.map((prompt, i) => (i === index ? {...prompt, x: place[0], y: place[1]} : prompt));
  settings.prompts = prompts;
  sendPrompts(prompts, settings.cursor);
});
list.addEventListener('weight', ({detail: {index, weight}}) => setWeight(index, weight));
list.addEventListener('solo', ({detail}) => solo(detail));
list.addEventListener('remove', ({detail}) =>
  sendPrompts(settings.prompts.filter((_, i) => i !== detail), settings.cursor));
list.addEventListener('text', ({detail: {index, text}}) =>
  sendPrompts(settings.prompts.map((prompt, i) => (i === index ? {...prompt, content: text, label: ''} : prompt)),
    settings.cursor));

function setWeight(index, weight) {
  if (index >= settings.prompts.length) return;
  settings.prompts[index].weight = weight;
  settings.cursor = null;
  list.show(settings.prompts);
  pad.show(settings.prompts, null);
  sendWeights(settings.prompts.map((prompt) => prompt.weight));
}

function solo(index) {
  const prompt = settings.prompts[index];
  if (prompt) sendCursor([prompt.x, prompt.y]);
}

function addPrompt(prompt) {
  if (settings.prompts.length >= facts.limits.prompts) {
    return say(`A mix has at most ${facts.limits.prompts} prompts; remove one first.`, true);
  }
  const weight = settings.prompts.length ? 0 : 1;
  settings.prompts = [...settings.prompts, {weight, ...freePlace(settings.prompts), ...prompt}];
  sendPrompts(settings.prompts, settings.cursor);
}

$('add-form').onsubmit = (event) => {
  event.preventDefault();
  const text = $('add-text').value.trim();
  if (!text) return $('add-text').focus();
  addPrompt({kind: 'text', content: text});
  $('add-text').value = '';
};
$('add-preset').onchange = (event) => {
  if (event.target.value) addPrompt({kind: 'preset', content: event.target.value});
  event.target.value = '';
};
$('add-file').onchange = (event) => takeFiles(event.target, addAudio);
$('loop-file').onchange = (event) => takeFiles(event.target, addLoop);

function takeFiles(input, act) {
  if (input.files.length) act(input.files[0]);
  input.value = '';
}

async function addAudio(file, name = file.name) {
  await attempt(`${name} cannot be used as a style`, async () => {
    const decoded = await decodeFile(await file.arrayBuffer(),
      {sampleRate: 16000, channels: 1, maxSecs: facts.limits.upload_secs});
    const id = await send('style', name, decoded);
    addPrompt({kind: 'audio', content: id, label: name.slice(0, 60)});
  });
}

async function addLoop(file) {
  await attempt(`${file.name} cannot be used as a loop`, async () => {
    const decoded = await decodeFile(await file.arrayBuffer(),
      {sampleRate: facts.sample_rate, channels: facts.channels, maxSecs: facts.limits.upload_secs});
    const id = await send('inject', file.name, decoded);
    change('inject', {upload: id, amount: Number($('loop-amount').value)});
    $('loop-name').textContent = file.name;
  });
}

async function send(purpose, name, decoded) {
  const id = `page-${Date.now().toString(36)}-${uploads++}`;
  const answer = connection.next('uploaded', (message) => message.id === id);
  if (!connection.upload(id, purpose, name, decoded)) throw new Error('There is no connection.');
  await answer;
  return id;
}

async function attempt(what, act) {
  try {
    await act();
  } catch (error) {
    say(`${what}: ${error.message}`, true);
  }
}

let microphone = null;
$('add-mic').onclick = () => attempt('The microphone cannot be used', async () => {
  if (microphone) return microphone.stop();
  const stream = await navigator.mediaDevices.getUserMedia({audio: true});
  const parts = [];
  microphone = new MediaRecorder(stream);
  microphone.ondataavailable = (event) => parts.push(event.data);
  microphone.onstop = () => {
    stream.getTracks().forEach((track) => track.stop());
    microphone = null;
    $('add-mic').classList.remove('live');
    $('add-mic').textContent = 'Mic';
    addAudio(new Blob(parts), `recorded ${new Date().toTimeString().slice(0, 5)}`);
  };
  microphone.start();
  $('add-mic').classList.add('live');
  $('add-mic').textContent = 'Stop';
  setTimeout(() => microphone?.state === 'recording' && microphone.stop(), MIC_SECS * 1000);
});

// Dropped files.

let depth = 0;
const holdsFiles = (event) => [...(event.dataTransfer?.types || [])].includes('Files');
addEventListener('dragenter', (event) => {
  if (holdsFiles(event) && ++depth) $('drop').hidden = false;
});
addEventListener('dragleave', (event) => {
  if (holdsFiles(event) && --depth <= 0) closeDrop();
});
addEventListener('dragover', (event) => {
  if (!holdsFiles(event)) return;
  event.preventDefault();
  for (const zone of $('drop').children) zone.classList.toggle('over', zone.contains(event.target));
});
addEventListener('drop', (event) => {
  if (!holdsFiles(event)) return;
  event.preventDefault();
  closeDrop();
  const purpose = event.target.closest?.('[data-purpose]')?.dataset.purpose || 'style';
  for (const file of [...event.dataTransfer.files].slice(0, purpose === 'style' ? 6 : 1)) {
    purpose === 'style' ? addAudio(file) : addLoop(file);
  }
});
function closeDrop() {
  depth = 0;
  $('drop').hidden = true;
}

// Sliders.

let sampling = {};
const flushSampling = throttled(() => {
  change('sampling', sampling);
  sampling = {};
}, 80);
const sendSampling = (fields) => {
  Object.assign(sampling, fields);  // Two knobs at a time are both sent.
  flushSampling();
};
const sendBuffer = throttled((secs) => change('buffer', {secs}), 150);
const sendLoop = throttled((amount) => settings.inject.upload
  && change('inject', {upload: settings.inject.upload, amount}), 120);
const onInput = {
  temperature: (v) => { sendSampling({temperature: v}); return v.toFixed(2); },
  guidance: (v) => { sendSampling({guidance_weight: v}); return v.toFixed(2); },
  'top-k': (v) => { sendSampling({top_k: TOP_KS[v]}); return TOP_KS[v] || 'all'; },
  buffer: (v) => { sendBuffer(v); return `${v} s`; },
  'loop-amount': (v) => { sendLoop(v); return `${Math.round(v * 100)}%`; },
};
for (const [id, act] of Object.entries(onInput)) {
  $(id).dataset.control = id;
  $(id).oninput = () => {
    const text = act(Number($(id).value));
    $(id === 'loop-amount' ? 'loop-value' : `${id}-value`).textContent = text;
    fill($(id));
  };
}
$('volume').dataset.control = 'volume';
fill($('volume'));

function setSlider(id, value, text, output = `${id}-value`) {
  if ($(id).matches(':active')) return;
  $(id).value = value;
  $(output).textContent = text;
  fill($(id));
}

function fill(slider) {
  const share = (slider.value - slider.min) / (slider.max - slider.min);
  slider.style.setProperty('--fill', `${share * 100}%`);
}

$('seed').onchange = () => {
  const seed = Math.min(2 ** 31 - 1, Math.max(0, Math.round(Number($('seed').value) || 0)));
  change('sampling', {seed});
};
$('dice').onclick = () => change('reset', {seed: Math.floor(Math.random() * 100000)});
$('reset').onclick = () => change('reset', {});
$('loop-off').onclick = () => change('inject', {amount: Number($('loop-amount').value)});

// Keys and MIDI.

addEventListener('keydown', (event) => {
  const typing = event.target.matches('input[type="text"], input[type="number"], input[type="password"], select');
  if (typing || event.ctrlKey || event.metaKey || event.altKey || document.querySelector('dialog[open]')) return;
  const digit = Number(event.key);
  if (event.key === ' ') {
    if (event.target.matches('button, .button')) event.target.blur();
    wanted ? stop() : play();
  } else if (digit >= 1 && digit <= 6) solo(digit - 1);
  else if (event.key === '0') change('reset', {});
  else if (event.key.toLowerCase() === 'r') record();
  else if (event.key === '?') $('help').showModal();
  else if (event.key === '[' || event.key === ']') nudge('temperature', event.key === ']' ? 1 : -1);
  else if ('+=-'.includes(event.key)) nudge('guidance', event.key === '-' ? -1 : 1);
  else return;
  event.preventDefault();
});

function nudge(id, steps) {
  $(id).value = Number($(id).value) + steps * Number($(id).step);
  $(id).oninput();
}

$('help-button').onclick = () => $('help').showModal();
$('midi-button').onclick = () => attempt('MIDI cannot be used', () => midi.open());
midi.addEventListener('devices', ({detail}) => {
  $('midi-button').textContent = detail ? `MIDI · ${detail}` : 'MIDI · none';
});
midi.addEventListener('solo', ({detail}) => solo(detail));
midi.addEventListener('control', ({detail: {name, value}}) => {
  if (name === 'pad-x' || name === 'pad-y') {
    const [x, y] = pad.cursor || [0.5, 0.5];
    return pad.moveCursor(name === 'pad-x' ? [value, y] : [x, value]);
  }
  const slider = document.querySelector(`[data-control="${name}"]`);
  if (!slider) return;
  slider.value = Number(slider.min) + value * (slider.max - slider.min);
  slider.oninput();
});
$('learn').onclick = () => attempt('MIDI cannot be used', async () => {
  await midi.open();
  midi.learning = '';
  document.body.classList.add('learning');
  $('help').close();
  say('Touch the slider to bind, then move a knob.');
});
addEventListener('pointerdown', (event) => {
  const control = event.target.dataset?.control;
  if (midi.learning === '' && control) {
    midi.learning = control;
    say(`Now move the knob for ${control}.`);
  }
}, true);
midi.addEventListener('learnt', ({detail}) => {
  document.body.classList.remove('learning');
  say(`Controller ${detail.number} moves ${detail.name} now.`);
});

// What is shown all the time.

function paint() {
  const rate = facts.sample_rate;
  const {position, write, state, underruns, silent} = audio.last;
  const secs = position / rate;
  $('time').textContent = `${Math.floor(secs / 60)}:${(secs % 60).toFixed(1).padStart(4, '0')}`;
  const doing = {idle: 'stopped', stopping: 'stopped', buffering: 'filling the buffer', playing: 'playing'}[state];
  $('doing').textContent = wanted && state === 'idle' ? 'starting' : doing;
  const ahead = Math.max(0, write - position) / rate;
  $('fact-ahead').innerHTML = number(ahead, 1, 's');
  const scale = settings.buffer_secs + 2 * (facts.chunk_samples / rate || 2);
  $('fact-gauge').style.width = `${Math.min(100, (ahead / scale) * 100)}%`;
  $('fact-mark').style.left = `${(settings.buffer_secs / scale) * 100}%`;
  if (lastChunk) {
    $('fact-speed').innerHTML = number(lastChunk.real_time_factor, 1, '×');
    $('fact-speed').classList.toggle('bad', lastChunk.slow);
    $('fact-speed-sub').textContent = `a chunk takes ${lastChunk.turnaround_secs.toFixed(2)} s`;
  }
  $('fact-dry').textContent = underruns;
  $('fact-dry').classList.toggle('bad', underruns > 0);
  $('fact-dry-sub').textContent = underruns ? `${(silent / rate).toFixed(1)} s of waiting` : 'times';
  if (recorder.on) $('record-label').textContent = `${Math.floor(recorder.secs / 60)}:${String(Math.floor(recorder.secs % 60)).padStart(2, '0')}`;
  views.paint(audio, rate);
}

let painted = 0;
function frame(time) {
  if (time - painted >= PAINT_MS) {
    painted = time;
    paint();
  }
  requestAnimationFrame(frame);
}
requestAnimationFrame(frame);
setInterval(() => connection.send('ping', {time: performance.now()}), 2000);

function number(value, digits, unit) { return `${value.toFixed(digits)}<small>${unit}</small>`; }
function capital(text) { return text[0].toUpperCase() + text.slice(1); }
function link(kind, text) {
  $('link').className = `pill state ${kind}`;
  $('link').textContent = text;
}

let noticeTimer = null;
function say(text, bad = false) {
  clearTimeout(noticeTimer);
  $('notice').hidden = !text;
  $('notice').textContent = text;
  $('notice').classList.toggle('bad', bad);
  $('notice').dataset.kind = '';
  if (text) noticeTimer = setTimeout(() => { $('notice').hidden = true; }, 12000);
}

// For tests and for the console.
const jam = {connection, audio, recorder, delay, views, get settings() { return settings; }};
window.jam = jam;
connection.connect();
