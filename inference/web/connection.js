// The WebSocket: hello, messages, audio frames, and taking a lost session up again (docs/jam.md).

const HEADER = 24;
const S16 = 1;
const RETRY_MS = [100, 250, 500, 1000, 2000, 4000];
const UNAUTHORIZED = 4001;
const TAKEN_OVER = 4004;

export class Connection extends EventTarget {
  constructor() {
    super();
    this.session = sessionStorage.getItem('session');
    this.token = new URLSearchParams(location.hash.slice(1)).get('token') || '';
    this.nextSample = Number(sessionStorage.getItem('next') || 0);
    this.attempts = 0;
    this.open = false;
    this.connections = 0;
  }

  connect() {
    clearTimeout(this.timer);
    const scheme = location.protocol === 'https:' ? 'wss' : 'ws';
    const socket = new WebSocket(`${scheme}://${location.host}/ws`);
    socket.binaryType = 'arraybuffer';
    socket.onopen = () => {
      const hello = {type: 'hello', protocol: 1, name: 'page', format: 's16le', token: this.token};
      if (this.session) Object.assign(hello, {session: this.session, next_sample: this.nextSample});
      socket.send(JSON.stringify(hello));
    };
    socket.onmessage = (event) => this.take(event.data);
    socket.onclose = (event) => {
      if (socket === this.socket) this.lost(event);
    };
    this.socket = socket;
  }

  take(data) {
    if (typeof data !== 'string') {
      const frame = readFrame(data);
      this.nextSample = frame.start + frame.count;
      this.emit('audio', frame);
      return;
    }
    const message = JSON.parse(data);
    if (message.type === 'welcome') {
      this.open = true;
      this.attempts = 0;
      this.connections++;
      this.session = message.session;
      this.nextSample = message.next_sample;
      sessionStorage.setItem('session', message.session);
    } else if (message.type === 'taken_back' || message.type === 'stopped') {
      this.nextSample = Math.min(this.nextSample, message.next_sample);
    }
    this.emit(message.type, message);
  }

  lost(event) {
    this.open = false;
    this.emit('lost', event);
    if (event.code === TAKEN_OVER || event.code === 1008) return;
    if (event.code === UNAUTHORIZED) return this.emit('token', event);
    const wait = RETRY_MS[Math.min(this.attempts++, RETRY_MS.length - 1)];
    this.timer = setTimeout(() => this.connect(), wait);
  }

  // Called with the place that is being heard, for a page that is loaded anew.
  remember(sample) { sessionStorage.setItem('next', sample); }

  send(type, fields = {}) {
    if (!this.open || this.socket.readyState !== WebSocket.OPEN) return false;
    this.socket.send(JSON.stringify({type, ...fields}));
    return true;
  }

  upload(id, purpose, name, audio) {
    const {samples, channels, sampleRate} = audio;
    const sent = this.send('upload', {
      id, purpose, name: name.slice(0, 200), format: 's16le', channels, sample_rate: sampleRate,
      samples: samples.length / channels,
    });
    if (sent) this.socket.send(samples.buffer);
    return sent;
  }

  // Resolves with the next message of a type that `matches`, rejects with an error message.
  next(type, matches = () => true, ms = 60000) {
    return new Promise((resolve, reject) => {
      const done = (act, value) => {
        this.removeEventListener(type, good);
        this.removeEventListener('error', bad);
        clearTimeout(timer);
        act(value);
      };
      const good = (event) => matches(event.detail) && done(resolve, event.detail);
      const bad = (event) => done(reject, new Error(event.detail.message));
      const timer = setTimeout(() => done(reject, new Error('The server did not answer.')), ms);
      this.addEventListener(type, good);
      this.addEventListener('error', bad);
    });
  }

  emit(type, detail) { this.dispatchEvent(new CustomEvent(type, {detail})); }
}

function readFrame(data) {
  const view = new DataView(data);
  const format = view.getUint8(3);
  const count = view.getUint32(16, true);
  const left = new Float32Array(count);
  const right = new Float32Array(count);
  const pcm = format === S16 ? new Int16Array(data, HEADER) : new Float32Array(data, HEADER);
  const scale = format === S16 ? 1 / 32768 : 1;
  for (let i = 0; i < count; i++) {
    left[i] = pcm[2 * i] * scale;
    right[i] = pcm[2 * i + 1] * scale;
  }
  return {
    index: view.getUint32(4, true),
    start: Number(view.getBigUint64(8, true)),
    settings: view.getUint32(20, true),
    count,
    channels: [left, right],
  };
}
