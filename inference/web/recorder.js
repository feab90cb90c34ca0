// What is heard -> a WAV file. Samples come from the ring with their places in the stream, so a
// recording has neither gaps nor repeats; silence while the buffer ran dry is left out.

import {toInt16} from './audio.js';

const MAX_SECS = 3600;
const BLOB_EVERY = 4 * 1024 * 1024;

export class Recorder extends EventTarget {
  constructor(audio) {
    super();
    this.audio = audio;
    this.on = false;
    this.gaps = 0;
    audio.addEventListener('tap', (event) => this.take(event.detail));
  }

  start() {
    Object.assign(this, {on: true, stopping: false, parts: [], blobs: [], bytes: 0, held: 0,
      frames: 0, next: null, gaps: 0});
    this.audio.setTap(true);
  }

  // The file comes with a 'done' event, once the last block has arrived.
  stop() {
    if (!this.on) return;
    this.audio.setTap(false);
    setTimeout(() => this.finish(), 150);
  }

  take({start, count, data}) {
    if (!this.on) return;
    if (this.next !== null && start !== this.next) this.gaps++;
    this.next = start + count;
    const pcm = new Int16Array(data.length);
    for (let i = 0; i < data.length; i++) pcm[i] = toInt16(data[i]);
    this.parts.push(pcm);
    this.frames += count;
    this.held += pcm.byteLength;
    // A Blob may lie on disk; arrays lie in memory.
    if (this.held >= BLOB_EVERY) {
      this.blobs.push(new Blob(this.parts));
      this.parts = [];
      this.held = 0;
    }
    if (this.frames >= MAX_SECS * this.audio.sampleRate) this.stop();
  }

  finish() {
    this.on = false;
    const bytes = this.frames * 4;
    const header = wavHeader(bytes, this.audio.sampleRate, 2);
    this.file = new Blob([header, ...this.blobs, ...this.parts], {type: 'audio/wav'});
    this.blobs = this.parts = [];
    this.dispatchEvent(new CustomEvent('done', {detail: this.file}));
  }

  get secs() { return this.frames / (this.audio.sampleRate || 1); }
}

function wavHeader(bytes, sampleRate, channels) {
  const view = new DataView(new ArrayBuffer(44));
  const text = (at, value) => [...value].forEach((c, i) => view.setUint8(at + i, c.charCodeAt(0)));
  text(0, 'RIFF');
  view.setUint32(4, 36 + bytes, true);
  text(8, 'WAVEfmt ');
  view.setUint32(16, 16, true);
  view.setUint16(20, 1, true);
  view.setUint16(22, channels, true);
  view.setUint32(24, sampleRate, true);
  view.setUint32(28, sampleRate * channels * 2, true);
  view.setUint16(32, channels * 2, true);
  view.setUint16(34, 16, true);
  text(36, 'data');
  view.setUint32(40, bytes, true);
  return view.buffer;
}
