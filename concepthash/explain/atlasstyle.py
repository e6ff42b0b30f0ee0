"""How the page of an atlas looks, and what its field for labels does."""

STYLE = """
html { scroll-padding-top: 3.5rem; }
nav.top { position: sticky; top: 0; z-index: 1; background: var(--ground); padding: .5rem 0;
  border-bottom: 1px solid var(--line); display: flex; flex-wrap: wrap; gap: .25rem 1rem;
  align-items: center; }
nav.top form { margin-left: auto; } nav.top input { font: inherit; width: 13rem; max-width: 60vw;
  padding: .2rem .5rem; color: inherit; background: var(--card); border: 1px solid var(--line);
  border-radius: .25rem; }
nav.top input::placeholder { color: var(--muted); opacity: 1; }
h2 { padding-top: .5rem; } h2 .muted { font-weight: normal; font-size: .9rem; }
.rooms { display: grid; gap: 1rem; grid-template-columns: repeat(auto-fill, minmax(16rem, 1fr)); }
.rooms .card:target { outline: 3px solid var(--accent); }
.rooms h3 { display: flex; justify-content: space-between; gap: .5rem; flex-wrap: wrap; }
.rooms h3 small { font-weight: normal; }
.crops { display: grid; grid-template-columns: repeat(3, 1fr); gap: 3px; margin: .25rem 0 .5rem; }
.labels { list-style: none; margin: 0 0 .35rem; padding: 0; font-size: .85rem; }
.labels li { display: grid; grid-template-columns: minmax(0, 1fr) auto; gap: 0 .5rem; }
.labels li span:first-child { overflow: hidden; text-overflow: ellipsis; white-space: nowrap; }
.labels li span:nth-child(2) { font-variant-numeric: tabular-nums; }
.labels .bar { grid-column: 1 / 3; height: .25rem; margin-bottom: .15rem; }
.small { font-size: .85rem; } .small p, p.small { margin: .15rem 0; }
details { margin: .25rem 0; } summary { cursor: pointer; }
table.wide th, table.wide td { white-space: nowrap; }
table.wide .bar { display: inline-block; width: 6rem; margin-left: .5rem; }
.views > input { position: absolute; opacity: 0; }
.views > label { display: inline-block; padding: .15rem .6rem; margin: 0 .35rem .35rem 0;
  border: 1px solid var(--line); border-radius: 1rem; cursor: pointer; }
.views > input:checked + label { background: var(--text); color: var(--ground); }
.views > input:focus-visible + label { outline: 2px solid var(--accent); outline-offset: 2px; }
.map { display: block; width: 100%; max-height: 85vh; background: var(--card);
  border: 1px solid var(--line); border-radius: .5rem; }
.map circle { fill: var(--muted); fill-opacity: .8; stroke: var(--muted); stroke-width: 1; }
.map circle.at { stroke: var(--text); stroke-width: 3; }
#dot { min-height: 1.5em; }
.map.found circle:not(.hit) { fill-opacity: .08; stroke-opacity: .2; }
.map text { font: 500 14px system-ui, sans-serif; text-anchor: middle; fill: var(--text);
  paint-order: stroke; stroke: var(--card); stroke-width: 4px; stroke-linejoin: round;
  pointer-events: none; }
.of { display: none; } .key { flex-wrap: wrap; gap: .15rem 1rem; margin: .5rem 0;
  font-size: .85rem; } .grey { background: var(--muted); }
@media (max-width: 40rem) { nav.top { position: static; } .map text { display: none; } }
"""

SCRIPT = """
const box = document.getElementById('filter'), said = document.getElementById('said');
const rooms = [...document.querySelectorAll('.room')], map = document.querySelector('.map');
const words = new Map(rooms.map(r => [r, r.querySelector('.labels').textContent.toLowerCase()]));
const dots = map ? [...map.querySelectorAll('circle')] : [];
const text = new Map(dots.map(d => [d, d.textContent.toLowerCase()]));
box.form.hidden = false;
box.form.addEventListener('submit', event => event.preventDefault());
box.addEventListener('input', () => {
  const wanted = box.value.trim().toLowerCase();
  let shown = 0;
  for (const room of rooms) {
    room.hidden = !words.get(room).includes(wanted);
    shown += !room.hidden;
  }
  if (map) map.classList.toggle('found', wanted !== '');
  for (const dot of dots) dot.classList.toggle('hit', text.get(dot).includes(wanted));
  said.textContent = wanted ? shown + ' of ' + rooms.length + ' rooms' : '';
});
const line = document.getElementById('dot');
let at = -1;
const show = next => {
  if (at >= 0) dots[at].classList.remove('at');
  at = (next + dots.length) % dots.length;
  dots[at].classList.add('at');
  line.textContent = dots[at].textContent;
};
if (map) {
  map.setAttribute('tabindex', 0);
  map.addEventListener('click', event => {
    const dot = event.target.closest('circle');
    if (dot) show(dots.indexOf(dot));
  });
  map.addEventListener('keydown', event => {
    const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
    if (!step || event.ctrlKey || event.altKey || event.metaKey) return;
    event.preventDefault();
    show(at < 0 && step < 0 ? dots.length - 1 : at + step);
  });
}
"""
