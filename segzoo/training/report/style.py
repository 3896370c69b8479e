"""The style sheet of a report: light and dark, for a telephone and for a wide screen."""

STYLE = """
:root{color-scheme:light dark;--paper:#fff;--panel:#f6f7f9;--ink:#1b1f24;--faint:#5b6570;
--rule:#dde1e6;--first:#0072b2;--second:#c2500a;--third:#00805e;--cell:0,114,178}
@media(prefers-color-scheme:dark){:root{--paper:#14171b;--panel:#1d2127;--ink:#e7eaee;
--faint:#a3adb8;--rule:#343b44;--first:#56b4e9;--second:#f0924c;--third:#35c79a;--cell:86,180,233}}
*{box-sizing:border-box}
body{margin:0;background:var(--paper);color:var(--ink);
font:16px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,sans-serif}
main{max-width:1120px;margin:0 auto;padding:24px 20px 48px}
h1{font-size:1.7rem;line-height:1.2;margin:0 0 4px;overflow-wrap:anywhere}
h2{font-size:1.2rem;margin:40px 0 12px}
p{margin:8px 0;max-width:72ch}
.faint{color:var(--faint)}
.tiles{display:grid;grid-template-columns:repeat(auto-fit,minmax(150px,1fr));gap:12px;margin:20px 0}
.tile{background:var(--panel);border-radius:10px;padding:12px 14px}
.tile dt{color:var(--faint);font-size:.85rem}
.tile dd{margin:0;font-size:1.6rem;font-weight:600;font-variant-numeric:tabular-nums}
.tile small{display:block;color:var(--faint);font-size:.8rem;font-weight:400}
.charts{display:grid;grid-template-columns:repeat(auto-fit,minmax(300px,1fr));gap:16px}
.charts figure{max-width:560px}
figure{margin:0;background:var(--panel);border-radius:10px;padding:12px}
figcaption{font-size:.9rem;margin-bottom:6px}
.legend{color:var(--faint)}
.legend span{margin-left:12px;white-space:nowrap}
.legend i{display:inline-block;width:12px;height:3px;margin-right:5px;vertical-align:middle}
.legend i.first{background:var(--first)}.legend i.second{background:var(--second)}
.legend i.third{background:var(--third)}
svg{display:block;width:100%;height:auto}
svg .grid{stroke:var(--rule)}svg .even{stroke:var(--faint);stroke-dasharray:4 4}
svg .axis{fill:var(--faint);font-size:11px}
svg .line{fill:none;stroke-width:2.2;stroke-linejoin:round}
svg .line.first{stroke:var(--first)}svg .line.second{stroke:var(--second)}
svg .line.third{stroke:var(--third)}
svg .dot.first{fill:var(--first)}svg .dot.second{fill:var(--second)}
svg .dot.third{fill:var(--third)}
svg .ring{fill:none;stroke:var(--ink);stroke-width:1.5}
.scroll{overflow-x:auto;border-radius:10px;background:var(--panel);padding:8px 12px}
.scroll:focus-visible{outline:2px solid var(--first)}
table{border-collapse:collapse;font-size:.92rem;font-variant-numeric:tabular-nums}
.caption{color:var(--faint);font-size:.85rem;margin:16px 0 6px}
th,td{padding:5px 10px;text-align:right;border-bottom:1px solid var(--rule)}
th{font-weight:600}
tr>:first-child{text-align:left}
tbody th{font-weight:400;white-space:nowrap}
.pairs tr>:nth-child(2){text-align:left}
tbody tr:last-child>*{border-bottom:0}
.wide{width:100%}
.mean>*{font-weight:600}
.facts th{width:240px;white-space:nowrap;vertical-align:top;color:var(--faint)}
.facts td{text-align:left;overflow-wrap:anywhere}
.swatch{display:inline-block;width:12px;height:12px;border-radius:3px;margin-right:8px;
vertical-align:-1px;border:1px solid var(--rule)}
.bar{display:inline-block;width:90px;height:8px;border-radius:4px;background:var(--rule);
margin-right:8px;vertical-align:middle;overflow:hidden}
.bar i{display:block;height:100%;background:var(--first)}
.matrix th,.matrix td{border:0;padding:4px 6px;text-align:center;min-width:34px}
.matrix tbody th{text-align:right;white-space:nowrap;position:sticky;left:0;
background:var(--panel)}
.matrix thead th{vertical-align:bottom}
.matrix thead th span{writing-mode:vertical-rl;transform:rotate(180deg);font-weight:400;
white-space:nowrap;max-height:140px}
.matrix td{border:1px solid var(--panel);background:rgba(var(--cell),var(--s,0))}
.matrix td.strong{color:#fff;background:rgba(0,88,138,calc(.35 + .65*var(--s)))}
.matrix.small th,.matrix.small td{padding:2px 3px;min-width:22px;font-size:.72rem}
.sample{margin-bottom:16px}
.sample img{display:block;max-width:100%;height:auto;border-radius:6px;background:#fff}
footer{margin-top:48px;color:var(--faint);font-size:.85rem}
@media(max-width:520px){main{padding:16px 12px 32px}.bar{display:none}
.tiles{grid-template-columns:repeat(2,1fr)}.charts{grid-template-columns:1fr}
th,td{padding:5px 7px}}
@media print{.scroll{overflow:visible}body{font-size:12px}}
"""
