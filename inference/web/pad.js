// The pad: prompts have places, the ring's distance from them gives the weights (the server's sum).

const SEND_MS = 50;

export const COLORS = [0, 1, 2, 3, 4, 5].map((i) =>
  getComputedStyle(document.documentElement).getPropertyValue(`--c${i}`).trim());

// Calls `send` at most every `ms`, the last value always.
export function throttled(send, ms = SEND_MS) {
  let timer = null;
  let last = null;
  return (...values) => {
    last = values;
    timer ??= setTimeout(() => {
      timer = null;
      send(...last);
    }, ms);
  };
}

export class Pad extends EventTarget {
  constructor(root) {
    super();
    this.root = root;
    this.canvas = root.querySelector('canvas');
    this.cursorMark = root.querySelector('.cursor');
    this.prompts = [];
    this.cursor = null;
    this.dragging = null;
    this.places = [];
    root.addEventListener('pointerdown', (event) => this.down(event));
    root.addEventListener('pointermove', (event) => this.move(event));
    root.addEventListener('pointerup', () => this.up());
    for (const end of ['pointercancel', 'lostpointercapture']) {
      root.addEventListener(end, () => { this.dragging = null; });
    }
    root.addEventListener('keydown', (event) => this.key(event));
    new ResizeObserver(() => this.paint()).observe(root);
  }

  show(prompts, cursor) {
    this.prompts = prompts;
    if (this.dragging !== 'cursor') this.cursor = cursor;
    while (this.places.length < prompts.length) this.places.push(this.newPlace(this.places.length));
    while (this.places.length > prompts.length) this.places.pop().remove();
    prompts.forEach((prompt, i) => {
      const place = this.places[i];
      place.style.setProperty('--own', COLORS[i]);
      place.style.setProperty('--weight', Math.min(1, prompt.weight));
      place.querySelector('span').textContent = prompt.label || prompt.content;
      if (this.dragging !== i) this.put(place, prompt.x, prompt.y);
    });
    this.paint();
  }

  newPlace(index) {
    const place = document.createElement('div');
    place.className = 'place';
    place.dataset.index = index;
    place.append(document.createElement('i'), document.createElement('span'));
    this.root.insertBefore(place, this.cursorMark);
    return place;
  }

  put(element, x, y) {
    element.style.left = `${x * 100}%`;
    element.style.top = `${y * 100}%`;
    const label = element.querySelector('span');
    if (!label) return;
    // A name at the edge moves inwards, as far as its half is wide.
    const [room, half] = [this.root.clientWidth, label.offsetWidth / 2 + 4];
    const inside = Math.min(Math.max(x * room, half), room - half);
    element.style.setProperty('--shift', `${inside - x * room}px`);
  }

  paint() {
    const {width, height} = this.root.getBoundingClientRect();
    const scale = Math.min(2, devicePixelRatio);
    if (!width) return;
    this.canvas.width = width * scale;
    this.canvas.height = height * scale;
    const draw = this.canvas.getContext('2d');
    draw.globalCompositeOperation = 'lighter';
    this.prompts.forEach((prompt, i) => {
      const [x, y] = [prompt.x * this.canvas.width, prompt.y * this.canvas.height];
      const reach = this.canvas.width * (0.4 + 0.3 * Math.min(1, prompt.weight));
      const glow = draw.createRadialGradient(x, y, 0, x, y, reach);
      const strength = 0.22 + 0.62 * Math.min(1, prompt.weight);
      glow.addColorStop(0, withAlpha(COLORS[i], strength));
      glow.addColorStop(0.45, withAlpha(COLORS[i], strength * 0.4));
      glow.addColorStop(1, withAlpha(COLORS[i], 0));
      draw.fillStyle = glow;
      draw.fillRect(0, 0, this.canvas.width, this.canvas.height);
    });
    this.cursorMark.classList.toggle('off', !this.cursor);
    this.put(this.cursorMark, this.cursor ? this.cursor[0] : 0.5, this.cursor ? this.cursor[1] : 0.5);
    this.cursorMark.hidden = this.prompts.length < 2;
  }

  at(event) {
    const box = this.root.getBoundingClientRect();
    const unit = (value) => Math.round(Math.min(1, Math.max(0, value)) * 1e4) / 1e4;
    return [unit((event.clientX - box.left) / box.width), unit((event.clientY - box.top) / box.height)];
  }

  down(event) {
    const place = event.target.closest('.place');
    this.dragging = place ? Number(place.dataset.index) : 'cursor';
    this.from = [event.clientX, event.clientY];
    this.moved = false;
    this.root.setPointerCapture(event.pointerId);
    this.root.focus({preventScroll: true});
    if (!place) this.moveCursor(this.at(event));
    event.preventDefault();
  }

  move(event) {
    if (this.dragging === null) return;
    this.moved ||= Math.hypot(event.clientX - this.from[0], event.clientY - this.from[1]) > 4;
    if (!this.moved) return;
    const place = this.at(event);
    if (this.dragging === 'cursor') return this.moveCursor(place);
    this.put(this.places[this.dragging], ...place);
    this.dispatchEvent(new CustomEvent('place', {detail: {index: this.dragging, place}}));
  }

  // A prompt that was touched and not moved is heard alone.
  up() {
    const prompt = this.prompts[this.dragging];
    this.dragging = null;
    if (prompt && !this.moved) this.moveCursor([prompt.x, prompt.y]);
  }

  key(event) {
    const steps = {ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1]};
    const step = steps[event.key];
    if (!step || event.target !== this.root) return;
    const [x, y] = this.cursor || [0.5, 0.5];
    const size = event.shiftKey ? 0.1 : 0.03;
    const unit = (value) => Math.min(1, Math.max(0, value));
    this.moveCursor([unit(x + step[0] * size), unit(y + step[1] * size)]);
    event.preventDefault();
  }

  moveCursor(cursor) {
    this.cursor = cursor;
    this.paint();
    this.dispatchEvent(new CustomEvent('cursor', {detail: cursor}));
  }
}

function withAlpha(hex, alpha) {
  const value = parseInt(hex.slice(1), 16);
  return `rgba(${value >> 16}, ${(value >> 8) & 255}, ${value & 255}, ${alpha})`;
}

// The place on the ring of places that is farthest from those taken.
export function freePlace(prompts) {
  const places = Array.from({length: 24}, (_, i) => {
    const angle = (i / 24) * 2 * Math.PI - Math.PI / 2;
    return {x: 0.5 + 0.36 * Math.cos(angle), y: 0.5 + 0.36 * Math.sin(angle)};
  });
  const room = (place) => Math.min(1, ...prompts.map((p) => Math.hypot(p.x - place.x, p.y - place.y)));
  return places.reduce((best, place) => (room(place) > room(best) + 1e-6 ? place : best));
}
