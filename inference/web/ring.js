// The ring buffer between the network and the speaker, in the audio thread.
//
// Samples have places in one endless stream. The ring plays from `read` to `write`; it never plays
// what is not there: before it runs dry it fades out, waits until `threshold` samples are there
// again, and fades in where it stopped. So running dry costs silence, never a sample or a click.

const FADE = 480;
const REPORT_EVERY = 1024;
const TAP_BLOCK = 8192;

class Ring extends AudioWorkletProcessor {
  constructor(options) {
    super();
    this.capacity = options.processorOptions.capacity;
    this.channels = [new Float32Array(this.capacity), new Float32Array(this.capacity)];
    this.read = this.write = 0;
    this.state = 'idle';
    this.gain = 0;
    this.threshold = 1;
    this.underruns = this.silent = this.lost = this.sinceReport = 0;
    this.peak = [0, 0];
    this.tap = null;
    this.port.onmessage = (event) => this.take(event.data);
  }

  take(message) {
    if (message.type === 'chunk') {
      this.push(message.start, message.channels);
    } else if (message.type === 'play') {
      this.threshold = message.threshold;
      this.state = 'buffering';
    } else if (message.type === 'threshold') {
      this.threshold = message.samples;
    } else if (message.type === 'stop') {
      this.state = this.gain > 0 ? 'stopping' : 'idle';
      if (this.state === 'idle') this.port.postMessage({type: 'stopped', position: this.read});
    } else if (message.type === 'truncate') {
      if (message.sample < this.write) this.write = Math.max(message.sample, this.read);
    } else if (message.type === 'clear') {
      this.read = this.write = message.sample;
      this.gain = 0;
      if (this.state === 'playing') this.state = 'buffering';
    } else if (message.type === 'tap') {
      if (!message.on) this.flushTap();
      this.tap = message.on ? this.newTap() : null;
    }
  }

  push(start, channels) {
    let skip = this.write - start;
    if (skip < 0) {
      // The stream goes on later than it stopped: nothing can be played in between.
      if (this.write > this.read) this.lost += this.write - this.read;
      this.read = this.write = start;
      this.gain = 0;
      skip = 0;
    }
    const count = Math.min(channels[0].length - skip, this.capacity - (this.write - this.read));
    if (count < channels[0].length - skip) this.lost += channels[0].length - skip - count;
    for (let c = 0; c < 2 && count > 0; c++) {
      const at = this.write % this.capacity;
      const first = Math.min(count, this.capacity - at);
      this.channels[c].set(channels[c].subarray(skip, skip + first), at);
      this.channels[c].set(channels[c].subarray(skip + first, skip + count), 0);
    }
    if (count > 0) this.write += count;
  }

  process(inputs, outputs) {
    const [left, right] = outputs[0];
    const count = left.length;
    if (this.state === 'buffering' && this.write - this.read >= Math.max(this.threshold, 2 * FADE)) {
      this.state = 'playing';
    }
    const enough = this.write - this.read > count + FADE;
    const step = (this.state === 'playing' && enough ? 1 : -1) / FADE;
    for (let i = 0; i < count; i++) {
      this.gain = Math.min(1, Math.max(0, this.gain + step));
      if (this.gain <= 0 || this.read >= this.write) {
        left[i] = right[i] = 0;
        if (this.state !== 'idle') this.silent++;
        continue;
      }
      const at = this.read++ % this.capacity;
      left[i] = this.channels[0][at] * this.gain;
      right[i] = this.channels[1][at] * this.gain;
      if (this.tap) this.keep(left[i], right[i]);
      this.peak[0] = Math.max(this.peak[0], Math.abs(left[i]));
      this.peak[1] = Math.max(this.peak[1], Math.abs(right[i]));
    }
    if (this.gain <= 0 && this.state === 'playing') {
      this.state = 'buffering';
      this.underruns++;
    } else if (this.gain <= 0 && this.state === 'stopping') {
      this.state = 'idle';
      this.port.postMessage({type: 'stopped', position: this.read});
    }
    this.sinceReport += count;
    if (this.sinceReport >= REPORT_EVERY) this.report();
    return true;
  }

  report() {
    this.sinceReport = 0;
    const {read, write, state, underruns, silent, lost, peak} = this;
    this.port.postMessage({type: 'report', position: read, write, state, underruns, silent, lost, peak});
    this.peak = [0, 0];
  }

  newTap() {
    return {start: this.read, count: 0, data: new Float32Array(2 * TAP_BLOCK)};
  }

  keep(left, right) {
    const tap = this.tap;
    if (tap.count === 0) tap.start = this.read - 1;
    tap.data[2 * tap.count] = left;
    tap.data[2 * tap.count + 1] = right;
    if (++tap.count === TAP_BLOCK || this.read - tap.start !== tap.count) this.flushTap();
  }

  flushTap() {
    const tap = this.tap;
    if (!tap || !tap.count) return;
    const data = tap.data.subarray(0, 2 * tap.count);
    this.port.postMessage({type: 'tap', start: tap.start, count: tap.count, data});
    this.tap = this.newTap();
  }
}

registerProcessor('ring', Ring);
