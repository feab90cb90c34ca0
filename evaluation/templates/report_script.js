'use strict';
(() => {
  // Light, dark, or as the system has it.
  const root = document.documentElement;
  const toggle = document.createElement('button');
  toggle.type = 'button';
  toggle.className = 'theme';
  const dark = () => root.dataset.theme
    ? root.dataset.theme === 'dark' : matchMedia('(prefers-color-scheme: dark)').matches;
  const label = () => { toggle.textContent = dark() ? 'Light page' : 'Dark page'; };
  toggle.addEventListener('click', () => {
    root.dataset.theme = dark() ? 'light' : 'dark';
    label();
  });
  label();
  document.querySelector('header').append(toggle);

  // Tables that sort by the column whose heading is pressed; what has no number comes last.
  for (const table of document.querySelectorAll('table.sortable')) {
    const heads = [...table.tHead.rows[0].cells];
    const body = table.tBodies[0];
    heads.forEach((head, column) => head.querySelector('button').addEventListener('click', () => {
      const rising = head.getAttribute('aria-sort') !== 'ascending';
      const numeric = head.classList.contains('number');
      const value = (row) => {
        const cell = row.cells[column];
        return numeric ? parseFloat(cell.dataset.value) : cell.textContent.trim();
      };
      const rows = [...body.rows].sort((a, b) => {
        const [x, y] = [value(a), value(b)];
        if (numeric && (Number.isNaN(x) || Number.isNaN(y))) {
          return Number.isNaN(x) - Number.isNaN(y);
        }
        return (rising ? 1 : -1) * (numeric ? x - y : x.localeCompare(y));
      });
      body.append(...rows);
      heads.forEach((other) => other.setAttribute('aria-sort', 'none'));
      head.setAttribute('aria-sort', rising ? 'ascending' : 'descending');
    }));
  }

  // One sound at a time, with a line that runs over its picture; a press on the picture seeks.
  const players = [...document.querySelectorAll('.clip audio')];
  for (const audio of players) {
    const figure = audio.closest('.clip').querySelector('figure');
    const line = document.createElement('div');
    line.className = 'playhead';
    line.hidden = true;
    figure.append(line);
    figure.dataset.seek = '';
    // The place of the axes inside the picture: the part that the spectrogram fills.
    const area = () => {
      const picture = figure.querySelector('svg image') || figure.querySelector('svg');
      const inner = picture.getBoundingClientRect();
      return [inner.left - figure.getBoundingClientRect().left, inner.width];
    };
    audio.addEventListener('timeupdate', () => {
      const [left, width] = area();
      line.hidden = false;
      line.style.left = `${left + width * audio.currentTime / (audio.duration || 1)}px`;
    });
    audio.addEventListener('play', () => {
      players.forEach((other) => { if (other !== audio) other.pause(); });
    });
    figure.addEventListener('click', (event) => {
      const [left, width] = area();
      const share = (event.clientX - figure.getBoundingClientRect().left - left) / width;
      const seek = () => {
        audio.currentTime = Math.max(0, Math.min(1, share)) * audio.duration;
        audio.play();
      };
      if (audio.readyState > 0) seek();
      else { audio.addEventListener('loadedmetadata', seek, {once: true}); audio.load(); }
    });
  }
  for (const button of document.querySelectorAll('.jump')) {
    button.addEventListener('click', () => {
      const audio = document.getElementById(button.dataset.audio);
      const seek = () => { audio.currentTime = parseFloat(button.dataset.to); audio.play(); };
      if (audio.readyState > 0) seek();
      else { audio.addEventListener('loadedmetadata', seek, {once: true}); audio.load(); }
    });
  }
})();
