"""How pages look: from 360 pixels up, light, dark and printed, with the fonts the reader has."""

STYLE = """\
:root {
  color-scheme: light dark;
  --ground: #ffffff; --raised: #f6f7f9; --ink: #16202c; --soft: #55626f; --line: #d9dee4; --accent: #0b62a8;
  --pass: #1a7f37; --pass-ground: #e7f6ec; --fail: #b42318; --fail-ground: #fdeceb;
    --note: #8a5a00; --note-ground: #fff5df; --stripe: rgb(100 120 140 / .07); --shade: rgb(20 30 40 / .28);
  --series-0: #0b62a8; --series-1: #c8540a; --series-2: #1a7f5a;
  --series-3: #8b3fa8; --series-4: #6b6b00; --series-5: #b0245f;
}
@media (prefers-color-scheme: dark) {
  :root {
    --ground: #12171d; --raised: #1b222b; --ink: #e6ebf0; --soft: #a3afbb; --line: #35404c; --accent: #74b7f0;
    --pass: #6fd08c; --pass-ground: #14301f; --fail: #ff9b92; --fail-ground: #3a1a18;
    --note: #f0c36a; --note-ground: #352a10; --stripe: rgb(160 180 200 / .08); --shade: rgb(0 0 0 / .7);
    --series-0: #74b7f0; --series-1: #ffa45c; --series-2: #5fd3a5;
    --series-3: #d79bee; --series-4: #d6d25e; --series-5: #ff8fb8;
  }
}
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; scroll-behavior: smooth; }
body {
  margin: 0; background: var(--ground); color: var(--ink); overflow-wrap: break-word;
  font: 16px/1.6 system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", "Liberation Sans", sans-serif;
}
header, main, footer { max-width: 1140px; margin: 0 auto; padding: 0 16px; }
header { padding-top: 40px; }
h1 { font-size: clamp(1.7rem, 5vw, 2.5rem); line-height: 1.15; letter-spacing: -.015em; margin: 0 0 12px; }
h2 { font-size: 1.4rem; line-height: 1.25; margin: 0 0 12px; letter-spacing: -.01em; }
h3 { font-size: 1.05rem; margin: 28px 0 8px; }
p { margin: 0 0 12px; max-width: 72ch; }
.lead { font-size: 1.12rem; color: var(--soft); }
a { color: var(--accent); }
.badges { display: flex; flex-wrap: wrap; gap: 8px; padding: 0; margin: 0 0 20px; list-style: none; }
.badges li {
  border: 1px solid var(--line); border-radius: 99px; padding: 2px 12px;
  font-size: .85rem; color: var(--soft);
}
nav {
  border: 1px solid var(--line); border-radius: 10px;
  background: var(--raised); padding: 14px 18px; margin: 20px 0 0;
}
nav strong { display: block; font-size: .8rem; letter-spacing: .06em; text-transform: uppercase; color: var(--soft); }
nav ol { columns: 260px; column-gap: 32px; margin: 6px 0 0; padding-left: 1.4em; }
nav li { break-inside: avoid; padding: 1px 0; }
nav a { text-decoration: none; }
nav a:hover { text-decoration: underline; }
section { border-top: 1px solid var(--line); margin-top: 36px; padding-top: 28px; }
.facts { display: grid; grid-template-columns: repeat(auto-fill, minmax(150px, 1fr)); gap: 12px; margin: 16px 0; }
.facts div { background: var(--raised); border-radius: 10px; padding: 10px 14px; min-width: 0; }
.facts dt { font-size: .82rem; color: var(--soft); line-height: 1.35; }
.facts dd {
  margin: 2px 0 0; font-size: 1.3rem; font-weight: 600; line-height: 1.25;
  font-variant-numeric: tabular-nums;
}
.facts dd.words { font-size: 1.02rem; overflow-wrap: anywhere; }
.facts dd small { display: block; font-size: .8rem; font-weight: 400; color: var(--soft); }
.box { width: fit-content; max-width: 100%; margin: 16px 0; }
.wide {  /* a shadow at the edge behind which there is more */
  overflow-x: auto; border-radius: 10px; background:
    linear-gradient(to right, var(--ground) 40%, transparent) left / 40px 100% no-repeat local,
    linear-gradient(to left, var(--ground) 40%, transparent) right / 40px 100% no-repeat local,
    linear-gradient(to right, var(--shade), transparent) left / 16px 100% no-repeat scroll,
    linear-gradient(to left, var(--shade), transparent) right / 16px 100% no-repeat scroll;
}
.box, .charts .drawing { border: 1px solid var(--line); border-radius: 10px; }
table { border-collapse: collapse; width: 100%; min-width: 280px; font-size: .9rem; line-height: 1.45; }
.caption { max-width: none; margin: 0; padding: 10px 12px 6px; color: var(--soft); font-size: .88rem; }
th, td { padding: 6px 12px; text-align: left; vertical-align: top; border-top: 1px solid var(--line); }
thead th { border-top: 0; font-weight: 600; white-space: nowrap; vertical-align: bottom; }
.caption + .wide thead th { border-top: 1px solid var(--line); }
td.words { min-width: 150px; }
.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
tbody tr:nth-child(even) td { background: var(--stripe); }
.pictures {
  display: grid;
  grid-template-columns: repeat(auto-fill, minmax(min(var(--size), var(--share)), 1fr)); gap: 14px; margin: 16px 0;
}
figure { margin: 0; min-width: 0; }
.pictures.fixed { grid-template-columns: repeat(var(--columns), minmax(0, 1fr)); max-width: 920px; }
.pictures img { display: block; width: 100%; height: auto; border-radius: 8px; background: #000; }
.crisp { image-rendering: pixelated; }
figcaption { font-size: .85rem; line-height: 1.45; color: var(--soft); padding-top: 6px; }
.charts {
  display: grid;
  grid-template-columns: repeat(auto-fill, minmax(min(330px, 100%), 1fr)); gap: 16px; margin: 16px 0;
}
.drawing svg { display: block; width: 100%; height: auto; }
.charts .drawing { padding: 12px; }
.charts figure:only-child { grid-column: 1 / -1; max-width: 520px; }
.full { margin: 16px 0; }
.tall { display: none; }
.verdict { border-left: 5px solid; border-radius: 8px; padding: 12px 16px; margin: 16px 0; }
.verdict strong { display: block; }
.verdict p { max-width: none; margin: 4px 0 0; color: var(--ink); }
.pass { border-color: var(--pass); background: var(--pass-ground); color: var(--pass); }
.fail { border-color: var(--fail); background: var(--fail-ground); color: var(--fail); }
.note { border-color: var(--note); background: var(--note-ground); color: var(--note); }
.missing { color: var(--soft); font-style: italic; }
pre {
  margin: 16px 0; padding: 12px 14px; border-radius: 10px; background: var(--raised); border: 1px solid var(--line);
  font: .82rem/1.55 ui-monospace, "SF Mono", Menlo, Consolas, "Liberation Mono", monospace;
  white-space: pre-wrap; overflow-wrap: anywhere;
}
footer { margin-top: 40px; padding-bottom: 40px; font-size: .85rem; color: var(--soft); }
@media (max-width: 640px) {
  .long { display: none; }
  .tall { display: block; }
  .charts .drawing { padding: 8px 4px 8px 8px; }
  .pictures { gap: 10px; }
}
@media print {
  :root {
    --ground: #fff; --raised: #f4f5f6; --ink: #000; --soft: #444; --line: #bbb; --accent: #0b4f88;
    --pass: #14662c; --fail: #99180f; --note: #6b4600; --pass-ground: #fff; --fail-ground: #fff; --note-ground: #fff;
    --series-0: #0b62a8; --series-1: #c8540a; --series-2: #1a7f5a;
    --series-3: #8b3fa8; --series-4: #6b6b00; --series-5: #b0245f;
  }
  @page { margin: 16mm 14mm; }
  body { font-size: 10.5pt; }
  header { padding-top: 0; }
  header, main, footer { max-width: none; padding-left: 0; padding-right: 0; }
  .wide { overflow: visible; background: none; }
  table { font-size: 8.5pt; } th, td { padding: 3px 4px; } td:first-child { overflow-wrap: anywhere; }
  thead th, td.number { white-space: normal; } td.words { min-width: 0; }
  .charts { grid-template-columns: 1fr 1fr; }
  .long { display: block; } .tall { display: none; }
  figure, .verdict, .facts div, tr, .box { break-inside: avoid; }
  h2, h3, .caption, p:has(+ .charts, + .pictures) { break-after: avoid; }
  section { margin-top: 20px; padding-top: 16px; }
  a { color: inherit; text-decoration: none; }
}
"""
