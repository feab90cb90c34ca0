// The list of prompts: text, weight, alone, remove. It shows what the server has and sends what is
// wanted; the server's answer redraws it, leaving alone what is just being edited.

import {COLORS} from './pad.js';

export class PromptList extends EventTarget {
  constructor(root) {
    super();
    this.root = root;
    this.prompts = [];
  }

  show(prompts) {
    this.prompts = prompts;
    const rows = [...this.root.children];
    while (rows.length > prompts.length) rows.pop().remove();
    prompts.forEach((prompt, i) => {
      let row = this.root.children[i];
      if (!row || row.dataset.kind !== prompt.kind) {
        const fresh = this.newRow(prompt, i);
        row ? row.replaceWith(fresh) : this.root.append(fresh);
        row = fresh;
      }
      const name = prompt.label || prompt.content;
      const text = row.querySelector('input[type="text"]');
      if (text && document.activeElement !== text) text.value = prompt.content;
      if (!text) row.querySelector('.fixed b').textContent = name;
      const slider = row.querySelector('input[type="range"]');
      if (!slider.matches(':active')) slider.value = prompt.weight;
      slider.style.setProperty('--fill', `${Math.min(1, prompt.weight) * 100}%`);
      slider.setAttribute('aria-label', `Weight of ${name}`);
      row.querySelector('output').textContent = `${Math.round(prompt.weight * 100)}%`;
    });
  }

  newRow(prompt, i) {
    const row = document.createElement('li');
    row.className = 'prompt';
    row.dataset.kind = prompt.kind;
    row.style.setProperty('--own', COLORS[i]);
    const solo = button('solo', String(i + 1), `Only this one (${i + 1})`);
    solo.onclick = () => this.emit('solo', i);
    const name = prompt.kind === 'text' ? this.textInput(i) : fixedName(prompt.kind);
    const slider = Object.assign(document.createElement('input'), {
      type: 'range', min: 0, max: 1, step: 0.01,
    });
    slider.dataset.control = `weight-${i}`;
    slider.oninput = () => this.emit('weight', {index: i, weight: Number(slider.value)});
    const remove = button('remove', '×', 'Remove');
    remove.onclick = () => this.emit('remove', i);
    row.append(solo, name, slider, document.createElement('output'), remove);
    return row;
  }

  textInput(i) {
    const input = Object.assign(document.createElement('input'), {type: 'text', maxLength: 300});
    input.setAttribute('aria-label', `Prompt ${i + 1}`);
    input.onchange = () => {
      const text = input.value.trim();
      if (text) this.emit('text', {index: i, text});
      else input.value = this.prompts[i].content;
    };
    input.onkeydown = (event) => {
      if (event.key === 'Enter') input.blur();
    };
    return input;
  }

  emit(type, detail) { this.dispatchEvent(new CustomEvent(type, {detail})); }
}

function fixedName(kind) {
  const name = document.createElement('span');
  name.className = 'fixed';
  const small = document.createElement('small');
  small.textContent = kind === 'audio' ? 'audio' : 'preset';
  name.append(small, document.createElement('b'));
  return name;
}

function button(className, text, title) {
  const element = Object.assign(document.createElement('button'), {className, title, type: 'button'});
  element.textContent = text;
  element.setAttribute('aria-label', title);
  return element;
}
