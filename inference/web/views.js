// Spectrogram, style mix over time, and level meters, on canvases that share one time axis.

import {COLORS} from './pad.js';

const PAST_SECS = 24;
const FUTURE_SECS = 6;
const LOW_HZ = 40;
const HIGH_HZ = 16000;
const GRID = '#ffffff14';
const QUIET = '#a99f92';

function fit(canvas) {
  const scale = Math.min(2, devicePixelRatio);
  const [width, height] = [Math.round(canvas.clientWidth * scale), Math.round(canvas.clientHeight * scale)];
  const changed = canvas.width !== width || canvas.height !== height;
  if (changed) Object.assign(canvas, {width, height});
  return {draw: canvas.getContext('2d'), width, height, scale, changed};
}

// Dark to bright: night, plum, ember, straw.
const HEAT = (() => {
  const stops = [[12, 10, 9], [48, 24, 58], [142, 44, 72], [226, 112, 58], [250, 206, 122], [255, 247, 224]];
  const table = new Uint32Array(256);
  for (let i = 0; i < 256; i++) {
    const place = (i / 255) * (stops.length - 1);
    const k = Math.min(Math.floor(place), stops.length - 2);
    const mix = (c) => Math.round(stops[k][c] + (place - k) * (stops[k + 1][c] - stops[k][c]));
    table[i] = (255 << 24) | (mix(2) << 16) | (mix(1) << 8) | mix(0);
  }
  return table;
})();

export class Views {
  constructor({spectrogram, timeline, meters}) {
    Object.assign(this, {spectrogram, timeline, meters});
    this.chunks = [];
    this.peaks = [0, 0];
    this.holds = [0, 0];
    this.column = null;
  }

  // A chunk was made: {start, samples, weights}.
  add(chunk) {
    const at = this.chunks.findIndex((other) => other.start >= chunk.start);
    if (at >= 0) this.chunks.length = at;
    this.chunks.push(chunk);
  }

  takeBack(sample) { this.chunks = this.chunks.filter((chunk) => chunk.start < sample); }
  clear() { this.chunks = []; this.history?.getContext('2d').clearRect(0, 0, 1e4, 1e4); }

  paint(audio, rate) {
    const now = audio.last.position / rate;
    const {width, scale} = this.paintSpectrogram(audio, now, rate);
    this.paintTimeline(now, rate, width, scale);
    this.paintMeters(audio.last.peak);
  }

  paintSpectrogram(audio, now, rate) {
    const {draw, width, height, scale, changed} = fit(this.spectrogram);
    const nowX = Math.round((width * PAST_SECS) / (PAST_SECS + FUTURE_SECS));
    const perSec = nowX / PAST_SECS;
    if (changed || !this.history) {
      this.history = Object.assign(document.createElement('canvas'), {width: nowX, height});
      this.drawn = Math.floor(now * perSec);
      this.bins = Float32Array.from({length: height}, (_, y) =>
        LOW_HZ * (HIGH_HZ / LOW_HZ) ** (1 - y / (height - 1)));
    }
    const x = Math.floor(now * perSec);
    if (x !== this.drawn) {
      this.drawColumns(audio, x, rate, height);
      this.drawn = x;
    }
    draw.fillStyle = '#0c0a09';
    draw.fillRect(0, 0, width, height);
    const split = (((x + 1) % nowX) + nowX) % nowX;  // The oldest column follows the newest.
    if (nowX - split > 0) draw.drawImage(this.history, split, 0, nowX - split, height, 0, 0, nowX - split, height);
    if (split > 0) draw.drawImage(this.history, 0, 0, split, height, nowX - split, 0, split, height);
    draw.font = `${11 * scale}px system-ui, sans-serif`;
    for (const hz of [100, 1000, 10000]) {
      const y = Math.round((1 - Math.log(hz / LOW_HZ) / Math.log(HIGH_HZ / LOW_HZ)) * height);
      draw.fillStyle = GRID;
      draw.fillRect(0, y, width, 1);
      draw.fillStyle = QUIET;
      draw.textAlign = 'right';
      draw.fillText(hz < 1000 ? `${hz} Hz` : `${hz / 1000} kHz`, width - 6 * scale, y - 4 * scale);
    }
    draw.fillStyle = '#ffffffb0';
    draw.fillRect(nowX, 0, scale, height);
    return {width, scale};
  }

  drawColumns(audio, x, rate, height) {
    const history = this.history.getContext('2d');
    const count = Math.min(this.history.width, Math.max(1, x - this.drawn));
    const levels = new Uint8Array(audio.analyser ? audio.analyser.frequencyBinCount : 2);
    audio.analyser?.getByteFrequencyData(levels);
    this.column ??= history.createImageData(1, height);
    if (this.column.height !== height) this.column = history.createImageData(1, height);
    const pixels = new Uint32Array(this.column.data.buffer);
    const perHz = (2 * levels.length) / rate;
    for (let y = 0; y < height; y++) {
      const bin = this.bins[y] * perHz;
      const low = Math.min(levels.length - 2, Math.floor(bin));
      pixels[y] = HEAT[Math.round(levels[low] + (bin - low) * (levels[low + 1] - levels[low]))];
    }
    for (let i = 0; i < count; i++) {
      const at = (x - i + this.history.width * 2) % this.history.width;
      history.putImageData(this.column, at, 0);
    }
  }

  paintTimeline(now, rate, width, scale) {
    const {draw, height} = fit(this.timeline);
    const nowX = Math.round((width * PAST_SECS) / (PAST_SECS + FUTURE_SECS));
    const perSec = nowX / PAST_SECS;
    const axis = Math.round(17 * scale);
    const tall = height - axis;
    draw.fillStyle = '#0c0a09';
    draw.fillRect(0, 0, width, height);
    const oldest = (now - PAST_SECS) * rate;
    while (this.chunks.length && this.chunks[0].start + this.chunks[0].samples < oldest) this.chunks.shift();
    for (const chunk of this.chunks) {
      const left = nowX + (chunk.start / rate - now) * perSec;
      const right = nowX + ((chunk.start + chunk.samples) / rate - now) * perSec;
      const sum = chunk.weights.reduce((a, b) => a + b, 0);
      let y = tall;
      chunk.weights.forEach((weight, i) => {
        const share = sum ? (weight / sum) * tall : 0;
        draw.fillStyle = COLORS[i];
        draw.globalAlpha = left >= nowX - 1 ? 0.5 : 0.92;
        draw.fillRect(left, y - share, right - left - scale, share);
        y -= share;
      });
      draw.globalAlpha = 1;
      if (!sum) {
        draw.fillStyle = '#3b332c';
        draw.fillRect(left, 2, right - left - scale, tall - 2);
      }
    }
    draw.font = `${11 * scale}px system-ui, sans-serif`;
    draw.textAlign = 'center';
    for (let secs = -20; secs <= FUTURE_SECS; secs += 5) {
      const x = nowX + secs * perSec;
      draw.fillStyle = GRID;
      draw.fillRect(x, 0, 1, tall);
      draw.fillStyle = QUIET;
      if (x > width - 14 * scale) continue;
      if (secs) draw.fillText(`${secs > 0 ? '+' : '−'}${Math.abs(secs)} s`, x, height - 5 * scale);
      else draw.fillText('now', x, height - 5 * scale);
    }
    draw.fillStyle = '#ffffffb0';
    draw.fillRect(nowX, 0, scale, tall);
  }

  paintMeters(peak) {
    const {draw, width, height, scale} = fit(this.meters);
    draw.clearRect(0, 0, width, height);
    const tall = Math.floor((height - 4 * scale) / 2);
    peak.forEach((value, c) => {
      const db = Math.max(-60, 20 * Math.log10(Math.max(value, 1e-4)));
      const level = 1 + db / 60;
      this.peaks[c] = Math.max(level, this.peaks[c] - 0.025);
      this.holds[c] = Math.max(level, this.holds[c] - 0.006);
      const y = c * (tall + 4 * scale);
      draw.fillStyle = '#2c2621';
      draw.fillRect(0, y, width, tall);
      const shade = draw.createLinearGradient(0, 0, width, 0);
      shade.addColorStop(0, '#5d7f56');
      shade.addColorStop(0.72, '#8fbf7f');
      shade.addColorStop(0.88, '#e0a458');
      shade.addColorStop(1, '#ec7c68');
      draw.fillStyle = shade;
      draw.fillRect(0, y, width * this.peaks[c], tall);
      draw.fillStyle = '#f3ece2';
      if (this.holds[c] > 0.02) draw.fillRect(width * this.holds[c] - 2 * scale, y, 2 * scale, tall);
    });
  }
}
