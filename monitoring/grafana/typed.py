"""
connect.json as TypeScript that Grafana's own types judge: every field known, every value of its type.

    npm install @grafana/schema typescript
    python monitoring/grafana/typed.py > typed.ts
    npx tsc --noEmit --strict --skipLibCheck --target es2022 --module nodenext typed.ts
"""

from __future__ import annotations

import json
from pathlib import Path

RAW = "./node_modules/@grafana/schema/dist/types/raw"
HEAD = f"""\
import type {{ Dashboard, Panel, RowPanel }} from "{RAW}/dashboard/x/types.gen";
import type * as stat from "{RAW}/composable/stat/panelcfg/x/types.gen";
import type * as timeseries from "{RAW}/composable/timeseries/panelcfg/x/types.gen";
// A file has the values of enums, and leaves out of an object what Grafana fills in.
type Text<T extends string> = string extends T ? string : `${{T}}`;
type Written<T> = T extends string ? Text<T> : T extends number ? number : T extends (infer U)[] ? Written<U>[]
  : T extends object ? {{ [K in keyof T]: Written<T[K]> }} : T;
type Some<T> = T extends (infer U)[] ? Some<U>[] : T extends object ? {{ [K in keyof T]?: Some<T[K]> }} : T;
"""


def typed() -> str:
    board = json.loads((Path(__file__).parent / "connect.json").read_text(encoding="utf-8"))
    panels = board.pop("panels")
    lines = [HEAD, f"export const board: Written<Omit<Dashboard, 'panels'>> = {json.dumps(board)};"]
    for number, panel in enumerate(panels):
        kind = panel["type"]
        if kind == "row":
            lines.append(f"export const row{number}: Written<RowPanel> = {json.dumps(panel)};")
            continue
        options, custom = panel.pop("options", {}), panel["fieldConfig"]["defaults"].pop("custom", {})
        lines.append(f"export const panel{number}: Written<Omit<Panel, 'options'>> = {json.dumps(panel)};")
        lines.append(f"export const options{number}: Some<Written<{kind}.Options>> = {json.dumps(options)};")
        if custom:
            lines.append(f"export const custom{number}: Some<Written<{kind}.FieldConfig>> = {json.dumps(custom)};")
    return "\n".join(lines)


if __name__ == "__main__":
    print(typed())
