// Control delay: from a change to the moment when the first sample made with it is heard.

export class Delay extends EventTarget {
  constructor(audio) {
    super();
    this.audio = audio;
    this.sent = null;  // When the oldest change was made that no settings have answered yet.
    this.answered = null;  // {version, time}: what to wait for among the chunks.
    this.heardAt = null;  // {sample, time}: what to wait for in the sound.
    this.measured = [];
  }

  changed() { this.sent ??= performance.now(); }

  settingsCame(version) {
    if (this.sent === null) return;
    if (!this.answered && !this.heardAt) this.answered = {version, time: this.sent};
    this.sent = null;
  }

  made(chunk) {
    if (this.answered && chunk.settings_version >= this.answered.version) {
      this.heardAt = {sample: chunk.start, time: this.answered.time};
      this.answered = null;
    }
  }

  heard(position) {
    if (!this.heardAt || position < this.heardAt.sample || this.audio.last.state !== 'playing') return;
    const late = (position - this.heardAt.sample) / this.audio.sampleRate;
    const secs = (performance.now() - this.heardAt.time) / 1000 - late + this.audio.outputLatency;
    this.heardAt = null;
    this.measured.push(secs);
    if (this.measured.length > 1000) this.measured.shift();
    this.dispatchEvent(new CustomEvent('measured', {detail: secs}));
  }
}
