"""How the report looks: on wide and narrow screens, in the dark, on paper."""

from __future__ import annotations

STYLE = """\
:root {
  color-scheme: light;
  --paper: #fff;
  --ink: #1c2130;
  --muted: #565f6f;
  --line: #dfe3e8;
  --wash: #f6f7f9;
  --link: #0b7285;
  --synthetic: #0b7285;
  --public: #8a94a3;
  --real: #343b4a;
  --guessing: #b3403a;
  --notice-paper: #fdf3e3;
  --notice-ink: #5a3700;
}
@media screen and (prefers-color-scheme: dark) {
  :root {
    color-scheme: dark;
    --paper: #14171d;
    --ink: #e4e7ec;
    --muted: #a3adbb;
    --line: #343a45;
    --wash: #1e232b;
    --link: #5cc4d6;
    --synthetic: #2291a6;
    --public: #8a94a3;
    --real: #c9d0da;
    --guessing: #f08a83;
    --notice-paper: #3a2a10;
    --notice-ink: #f6d9a8;
  }
  .tile.main { --synthetic: #0b6375; }
  /* Charts and grids are drawn for white paper. */
  figure img { background: #fff; border-radius: 4px; }
  figure img.chart { padding: .6rem; }
}
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; scroll-behavior: smooth; }
body {
  margin: 0 auto;
  padding: 0 clamp(1rem, 4vw, 2.5rem) 4rem;
  max-width: 66rem;
  color: var(--ink);
  background: var(--paper);
  font: 1rem/1.6 system-ui, -apple-system, "Segoe UI", Roboto,
    "Helvetica Neue", "Liberation Sans", Arial, sans-serif;
  overflow-wrap: anywhere;
}
h1, h2, h3 { line-height: 1.2; text-wrap: balance; }
h1 { margin: 0; font-size: clamp(1.9rem, 5vw, 2.9rem); letter-spacing: -.02em; }
h2 { margin: 0 0 1.1rem; font-size: 1.4rem; letter-spacing: -.01em; }
h3 { margin: 1.6rem 0 .5rem; font-size: 1rem; }
p { margin: 0 0 .8rem; }
a { color: var(--link); }
:focus-visible { outline: 3px solid var(--link); outline-offset: 2px; }
section { margin-top: 3.5rem; scroll-margin-top: 1rem; }
main > section:first-child { margin-top: 1.5rem; }
.text { max-width: 44rem; }
.text > :first-child, figure h3 { margin-top: 0; }
.text ul { margin: 0 0 .8rem; padding-left: 1.25rem; }
.text li { margin-bottom: .3rem; }

.notice {
  margin: 1.25rem 0 0;
  padding: .8rem 1rem;
  border-left: 4px solid #d9822b;
  border-radius: 0 6px 6px 0;
  background: var(--notice-paper);
  color: var(--notice-ink);
  font-size: .95rem;
  line-height: 1.5;
}
header { margin-top: 3rem; }
.eyebrow {
  margin: 0 0 .4rem;
  color: var(--muted);
  font-size: .85rem;
  font-weight: 600;
  letter-spacing: .06em;
  text-transform: uppercase;
}
.lead { margin-top: 1rem; max-width: 46rem; font-size: 1.15rem; }

nav ul {
  display: flex;
  flex-wrap: wrap;
  gap: .35rem 1.5rem;
  margin: 2rem 0 0;
  padding: .9rem 0;
  border: solid var(--line);
  border-width: 1px 0;
  list-style: none;
  font-size: .95rem;
}
nav a { text-decoration: none; }
nav a:hover { text-decoration: underline; }

.tiles {
  display: grid;
  grid-template-columns: repeat(auto-fit, minmax(10.5rem, 1fr));
  gap: .9rem;
  margin: 0;
}
.tile {
  padding: 1rem 1.1rem;
  border: 1px solid var(--line);
  border-radius: 10px;
  background: var(--wash);
}
.tile.main {
  border-color: var(--synthetic);
  background: var(--synthetic);
  color: #fff;
}
.tile dt { font-size: .9rem; font-weight: 600; }
.tile dd { margin: 0; }
.tile .value {
  margin: .15rem 0;
  font-size: 2rem;
  font-weight: 650;
  line-height: 1.2;
  letter-spacing: -.02em;
  font-variant-numeric: tabular-nums;
}
.tile .note { color: var(--muted); font-size: .88rem; line-height: 1.4; }
.tile.main .note { color: #e4f3f5; }

figure { margin: 0 0 1.5rem; }
figure img { display: block; width: 100%; max-width: 44rem; height: auto; }
figcaption {
  margin-top: .5rem;
  max-width: 44rem;
  color: var(--muted);
  font-size: .9rem;
}
figure img.chart { max-width: 34rem; }
.pixelated { image-rendering: pixelated; }
.figures {
  display: grid;
  grid-template-columns: repeat(auto-fit, minmax(min(100%, 17.5rem), 1fr));
  gap: 1.25rem 1.75rem;
  margin: 1rem 0;
}
.figures h3 { margin-bottom: .6rem; }

.columns { display: flex; flex-wrap: wrap; gap: 1rem 3rem; }
.columns > .text { flex: 1 1 26rem; min-width: min(100%, 18rem); }
.columns > .table { flex: 0 0 auto; max-width: 100%; margin-top: 0; }
.table { overflow-x: auto; margin: 1rem 0; }
table { border-collapse: collapse; font-size: .95rem; }
.table :is(th, td) { overflow-wrap: normal; }
.table tbody th, td.words { overflow-wrap: anywhere; min-width: 8rem; }
.tracks table { width: 100%; }
.tracks tbody th { min-width: 10.75rem; }
caption {
  padding-bottom: .6rem;
  color: var(--muted);
  font-size: .9rem;
  text-align: left;
}
caption strong { color: var(--ink); font-size: 1rem; }
th, td {
  padding: .5rem 1.4rem .5rem 0;
  text-align: left;
  vertical-align: middle;
}
th:last-child, td:last-child { padding-right: 0; }
thead th {
  border-bottom: 2px solid var(--line);
  color: var(--muted);
  font-size: .85rem;
  vertical-align: bottom;
}
tbody th { font-weight: 600; }
tbody tr + tr > * { border-top: 1px solid var(--line); }
.number { white-space: nowrap; font-variant-numeric: tabular-nums; }
.track { width: 30%; min-width: 8rem; }
.tracks :is(th, td) { padding-right: 1rem; }
.matrix :is(th, td) { padding: .3rem .5rem; text-align: right; }
.matrix tbody th { max-width: 9rem; overflow-wrap: anywhere; }
.matrix thead td { color: var(--muted); font-size: .8rem; text-align: left; }
.matrix .own { outline: 1.5px solid var(--synthetic); outline-offset: -2px; }
.matrix.long thead span {
  writing-mode: vertical-rl; transform: rotate(180deg); max-height: 9rem;
}
.scale { display: flex; justify-content: space-between; font-weight: 400; }
.track + td { font-weight: 600; }
.track svg { display: block; width: 100%; overflow: visible; }
svg .grid { stroke: var(--line); }
svg .synthetic { fill: var(--synthetic); }
svg .public { fill: var(--public); }
svg .real { fill: var(--real); }
svg circle.public {
  fill: var(--paper); stroke: var(--public); stroke-width: 2.5;
}
svg .tick { stroke: var(--real); stroke-width: 4; }
svg .halo { stroke: var(--paper); stroke-width: 4.5; }
svg .whisker { stroke: var(--ink); stroke-width: 1.6; }
svg .under { stroke: var(--paper); stroke-width: 3.5; }
svg .guessing {
  stroke: var(--guessing); stroke-width: 2; stroke-dasharray: 4 2.5;
}
svg .span { stroke: var(--synthetic); stroke-width: 1.6; }

code, pre {
  font: .88em/1.55 ui-monospace, "SF Mono", Menlo, Consolas,
    "Liberation Mono", monospace;
}
code {
  padding: .1em .3em;
  border-radius: 4px;
  background: var(--wash);
  overflow-wrap: anywhere;
}
pre {
  margin: .6rem 0 1rem;
  padding: .9rem 1rem;
  border: 1px solid var(--line);
  border-radius: 8px;
  background: var(--wash);
  overflow-x: auto;
}
details.prose { border-top: 1px solid var(--line); }
details.prose + :not(.prose), details.prose:last-child {
  border-bottom: 1px solid var(--line);
}
summary { cursor: pointer; font-weight: 600; padding: .55rem 0; }

@media (max-width: 40rem) {
  header { margin-top: 2rem; }
  section { margin-top: 2.75rem; }
  .lead { font-size: 1.05rem; }
  .tiles { grid-template-columns: 1fr 1fr; gap: .6rem; }
  .tile { padding: .8rem .9rem; }
  .tile .value { font-size: 1.55rem; }
  :is(.tracks, .wide) :is(table, tbody, caption) { display: block; }
  :is(.tracks, .wide) thead {
    position: absolute; width: 1px; height: 1px; overflow: hidden;
    clip-path: inset(50%);
  }
  :is(.tracks, .wide) tr {
    display: flex; flex-wrap: wrap; gap: .15rem 1rem; padding: .8rem 0;
    border-top: 1px solid var(--line);
  }
  :is(.tracks, .wide) tbody tr > * { padding: 0; border: 0; }
  .tracks tbody th { flex: 1 0 45%; order: 1; min-width: 0; }
  .tracks .track { flex: 1 0 100%; order: 3; min-width: 0; width: auto; }
  .tracks .track + td { order: 2; }
  .tracks td { order: 4; font-size: .85rem; }
  .tracks .track + td { font-size: 1rem; }
  .matrix table { font-size: .8rem; }
  .matrix :is(th, td) { padding: .2rem .3rem; }
  .wide tbody :is(th, td) { flex: 1 0 100%; }
  .wide td { display: flex; justify-content: space-between; gap: 1rem; }
  :is(.tracks, .wide) td[data-title]::before {
    content: attr(data-title) " "; color: var(--muted); font-size: .85rem;
    font-weight: 400;
  }
}
@media print {
  @page { margin: 16mm 15mm; }
  html { font-size: 9.5pt; }
  body { max-width: none; padding: 0; }
  header { margin-top: 1.5rem; }
  section { margin-top: 2.2rem; }
  nav, details:not(.prose) { display: none; }
  details::details-content { content-visibility: visible; height: auto; }
  summary { list-style: none; break-after: avoid; }
  pre { white-space: pre-wrap; overflow-wrap: anywhere; }
  h2, h3, h2 + .text { break-after: avoid; }
  figure, tr, .tile, pre, .figures, .table { break-inside: avoid; }
  .figures { grid-template-columns: repeat(3, 1fr); }
  .tiles { grid-template-columns: repeat(4, 1fr); }
  .tile .value { font-size: 1.5rem; }
  * { print-color-adjust: exact; -webkit-print-color-adjust: exact; }
}
"""
