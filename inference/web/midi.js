// Web MIDI: controllers move the page's own sliders, so whatever a slider does a knob can do.

const DEFAULTS = {
  'cc-1': 'temperature', 'cc-2': 'guidance', 'cc-7': 'volume', 'cc-16': 'pad-x', 'cc-17': 'pad-y',
  'cc-20': 'weight-0', 'cc-21': 'weight-1', 'cc-22': 'weight-2', 'cc-23': 'weight-3',
  'cc-24': 'weight-4', 'cc-25': 'weight-5',
};
const MIDDLE_C = 60;

export class Midi extends EventTarget {
  constructor() {
    super();
    this.bindings = {...DEFAULTS, ...JSON.parse(localStorage.getItem('midi') || '{}')};
    this.learning = null;  // null, '' (waits for a slider) or the slider's name.
  }

  async open() {
    if (!navigator.requestMIDIAccess) throw new Error('This browser has no Web MIDI.');
    this.access ??= await navigator.requestMIDIAccess();
    const listen = () => {
      const inputs = [...this.access.inputs.values()];
      for (const input of inputs) input.onmidimessage = (event) => this.take(event.data);
      this.dispatchEvent(new CustomEvent('devices', {detail: inputs.length}));
    };
    this.access.onstatechange = listen;
    listen();
  }

  take([status, number, value]) {
    const kind = status & 0xf0;
    if (kind === 0xb0) {
      const key = `cc-${number}`;
      if (this.learning) {
        this.bindings[key] = this.learning;
        localStorage.setItem('midi', JSON.stringify(this.bindings));
        this.dispatchEvent(new CustomEvent('learnt', {detail: {name: this.learning, number}}));
        this.learning = null;
      }
      const name = this.bindings[key];
      if (name) this.dispatchEvent(new CustomEvent('control', {detail: {name, value: value / 127}}));
    } else if (kind === 0x90 && value > 0 && number >= MIDDLE_C && number < MIDDLE_C + 6) {
      this.dispatchEvent(new CustomEvent('solo', {detail: number - MIDDLE_C}));
    }
  }
}
