// Sound out: decoded chunks go into the ring; what is heard goes through volume and analyser.

export class Audio extends EventTarget {
  constructor() {
    super();
    this.context = null;
    this.volume = 0.8;
    this.last = {position: 0, write: 0, state: 'idle', underruns: 0, silent: 0, lost: 0, peak: [0, 0]};
    this.waiting = [];
  }

  // Makes the audio graph; the first call must come from a click or a key.
  async open(sampleRate, maxSecs) {
    if (this.context) return this.context.resume();
    this.opening ??= this.build(sampleRate, maxSecs);
    return this.opening;
  }

  async build(sampleRate, maxSecs) {
    this.sampleRate = sampleRate;
    const context = new AudioContext({sampleRate, latencyHint: 'playback'});
    await context.audioWorklet.addModule('ring.js');
    this.node = new AudioWorkletNode(context, 'ring', {
      numberOfInputs: 0,
      outputChannelCount: [2],
      processorOptions: {capacity: Math.ceil((maxSecs + 8) * sampleRate)},
    });
    this.gain = new GainNode(context, {gain: this.volume});
    this.analyser = new AnalyserNode(context, {fftSize: 4096, smoothingTimeConstant: 0.35,
      minDecibels: -95, maxDecibels: -15});
    this.node.connect(this.analyser);
    this.node.connect(this.gain).connect(context.destination);
    this.node.port.onmessage = (event) => this.take(event.data);
    this.context = context;
    for (const message of this.waiting.splice(0)) this.post(...message);
    await context.resume();
  }

  take(message) {
    if (message.type === 'report') this.last = message;
    this.dispatchEvent(new CustomEvent(message.type, {detail: message}));
  }

  post(message, transfer = []) {
    if (!this.node) this.waiting.push([message, transfer]);
    else this.node.port.postMessage(message, transfer);
  }

  push(frame) {
    const channels = frame.channels;
    this.post({type: 'chunk', start: frame.start, channels}, channels.map((c) => c.buffer));
  }

  play(thresholdSecs) {
    this.post({type: 'play', threshold: Math.round(thresholdSecs * this.sampleRate)});
  }

  stop() { this.post({type: 'stop'}); }
  truncate(sample) { this.post({type: 'truncate', sample}); }
  clear(sample) {
    if (!this.node) this.waiting = [];
    this.post({type: 'clear', sample});
  }
  setTap(on) { this.post({type: 'tap', on}); }
  setRebuffer(secs) {
    if (this.sampleRate) this.post({type: 'threshold', samples: Math.round(secs * this.sampleRate)});
  }

  setVolume(value) {
    this.volume = value;
    if (this.gain) this.gain.gain.setTargetAtTime(value * value, this.context.currentTime, 0.02);
  }

  // Seconds between the ring and the ear.
  get outputLatency() {
    return this.context ? (this.context.outputLatency || this.context.baseLatency || 0) : 0;
  }
}

// Any audio file -> {samples: Int16Array interleaved, channels, sampleRate}, cut to maxSecs.
export async function decodeFile(data, {sampleRate, channels, maxSecs}) {
  const decoder = new OfflineAudioContext(channels, 1, sampleRate);
  const buffer = await decoder.decodeAudioData(data);
  const count = Math.max(1, Math.floor(Math.min(buffer.duration, maxSecs) * sampleRate));
  const mixer = new OfflineAudioContext(channels, count, sampleRate);
  const source = new AudioBufferSourceNode(mixer, {buffer});
  source.connect(mixer.destination);
  source.start();
  const mixed = await mixer.startRendering();
  return {samples: interleave(mixed), channels, sampleRate};
}

export function interleave(buffer) {
  const parts = Array.from({length: buffer.numberOfChannels}, (_, c) => buffer.getChannelData(c));
  const samples = new Int16Array(buffer.length * parts.length);
  for (let i = 0; i < buffer.length; i++) {
    for (let c = 0; c < parts.length; c++) samples[i * parts.length + c] = toInt16(parts[c][i]);
  }
  return samples;
}

export function toInt16(x) {
  return Math.max(-32768, Math.min(32767, Math.round(x * 32767)));
}
