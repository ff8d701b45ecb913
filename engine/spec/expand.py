"""
What an author wrote short -> the one long form that the types know; every part keeps the place it was written at.

`$use` becomes the definition it names, a preset of `auth` becomes token and place, `request` beside an action's keys
becomes the step "request", and one rule of `results` becomes a list of one.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from engine.spec import presets
from engine.spec.findings import Finding, did_you_mean, dotted
from engine.spec.located import Located, Mark, Node, planted

MAX_DEPTH = 128
MAX_NODES = 50_000

Steps = tuple[str | int, ...]

# The parts of each kind that can hold a `$use`: *kind is a map of them, +kind one or a list of them.
_PARTS: dict[str, dict[str, str]] = {
    "connector": {
        "fields": "*tree",
        "auth": "auth",
        "auths": "*auth",
        "checks": "*check",
        "http": "http",
        "replies": "replies",
        "actions": "*action",
        "provision": "*provision",
        "sandbox": "sandbox",
    },
    "action": {
        "after": "+name",
        "vars": "*tree",
        "lookups": "*lookup",
        "record": "record",
        "steps": "*step",
        "on_failure": "*step",
        "replies": "replies",
    },
    "step": {"request": "request", "save": "*tree", "replies": "replies", "results": "+result", "args": "*tree"},
    "request": {"query": "*tree", "headers": "*tree", "json": "tree", "form": "tree", "multipart": "*tree"},
    "lookup": {"sources": "*source", "create": "create", "request": "request", "args": "*tree"},
    "create": {"request": "request", "replies": "replies", "add": "*tree", "args": "*tree"},
    "source": {"request": "request", "replies": "replies", "add": "*tree", "args": "*tree"},
    "result": {"args": "*tree"},
    "replies": {},
    "auth": {"token": "token", "sign": "*signer"},
    "signer": {"header": "*tree", "claims": "*tree"},
    "token": {
        "request": "request",
        "steps": "*step",
        "save": "*tree",
        "renew": "renew",
        "replies": "replies",
        "discover": "*step",
        "consent": "consent",
    },
    "consent": {"query": "*tree", "request": "request", "save": "*tree"},
    "renew": {"request": "request", "save": "*tree"},
    "check": {"request": "request", "replies": "replies"},
    "provision": {"look": "provision_look", "make": "check"},
    "provision_look": {"request": "request", "replies": "replies"},
    "name": {},
    "http": {"headers": "*tree"},
    "sandbox": {"tokens": "*sandbox_token", "limits": "*sandbox_limit", "routes": "+sandbox_route"},
    "sandbox_token": {"refused": "sandbox_reply"},
    "sandbox_limit": {"reply": "sandbox_reply"},
    "sandbox_route": {"reply": "sandbox_reply"},
    "sandbox_reply": {"headers": "*tree", "body": "tree"},
}
_DEFINED_IN: dict[str, tuple[str, ...]] = {
    "lookup": ("lookups",),
    "source": ("sources",),
    "step": ("steps",),
    "result": ("results",),
    "request": ("requests",),
    "replies": ("replies",),
    "record": ("records", "structures"),
    "tree": ("structures", "records"),
}
_TREES = ("record", "tree")
_OF_THE_STEP = ("request", "each", "once_per", "save", "results", "poll", "repeat")
_PASSED_ON = re.compile(r"\s*\$\{\s*args\.([A-Za-z_][A-Za-z0-9_]*)\s*\}\s*\Z")


def expand(located: Located) -> tuple[Located, list[Finding]]:
    """A connector in its long form, and what could not be expanded."""
    growth = _Growth(located)
    root = growth.grow(located.root, "connector", ())
    growth.try_definitions()
    return located.grown(root), growth.findings


class _Growth:
    def __init__(self, located: Located) -> None:
        self.file = located.file
        self.findings: list[Finding] = []
        self.nodes = 0
        self.too_large = False
        definitions = located.root.get("definitions")
        self.definitions = definitions if definitions is not None and definitions.is_map else Node({}, 1, 1)
        self.using: tuple[tuple[str, str], ...] = ()

    def try_definitions(self) -> None:
        """Also those that nothing uses yet are looked through."""
        for kind, homes in _DEFINED_IN.items():
            home = self.definitions.get(homes[0])
            if kind != "record" and home is not None and home.is_map:
                for name, node in home.value.items():
                    self.using = ((homes[0], name),)
                    self.grow(node, kind, ("definitions", homes[0], name))
        self.using = ()

    def grow(self, node: Node, kind: str, path: Steps) -> Node:
        self.nodes += 1
        if self._grown_out(node, path):
            return node
        if kind in _DEFINED_IN and node.is_map and "$use" in node.value:
            return self._used(node, kind, path)
        if kind in _TREES:
            return self._tree(node, path)
        return self._typed(node, kind, path)

    def _typed(self, node: Node, kind: str, path: Steps) -> Node:
        if not node.is_map:
            return node
        if kind == "auth":
            node = self._long_auth(node, path)
        single = kind == "action" and "request" in node.value
        if kind == "action":
            node = _with_steps(node)
        parts = _PARTS[kind]
        if single:  # messages name the place as it was written: actions.x.request
            steps = node.value["steps"]
            step = self.grow(steps.value["request"], "step", path)
            node = node.changed({**node.value, "steps": steps.changed({"request": step})})
            parts = {key: part for key, part in parts.items() if key != "steps"}
        return node.changed(
            {
                key: self._part(child, parts[key], (*path, key)) if key in parts else child
                for key, child in node.value.items()
            }
        )

    def _part(self, node: Node, kind: str, path: Steps) -> Node:
        if kind[0] == "*":
            if not node.is_map:
                return node
            return node.changed({key: self.grow(child, kind[1:], (*path, key)) for key, child in node.value.items()})
        if kind[0] == "+":
            if isinstance(node.value, list):
                grown = [self.grow(child, kind[1:], (*path, index)) for index, child in enumerate(node.value)]
            else:
                grown = [self.grow(node, kind[1:], path)]
            return Node(grown, node.line, node.column)
        return self.grow(node, kind, path)

    def _tree(self, node: Node, path: Steps) -> Node:
        value = node.value
        if isinstance(value, dict):
            if "$literal" in value:
                return node
            return node.changed({key: self.grow(child, "tree", (*path, key)) for key, child in value.items()})
        if isinstance(value, list):
            grown = [self.grow(child, "tree", (*path, index)) for index, child in enumerate(value)]
            return Node(grown, node.line, node.column)
        return node

    # $use

    def _used(self, node: Node, kind: str, path: Steps) -> Node:
        use = node.value["$use"]
        found = self._definition(use, kind, path)
        if found is None:
            return Node({}, node.line, node.column)
        home, name, definition = found
        before, self.using = self.using, (*self.using, (home, name))
        base = self.grow(definition, kind, path)
        self.using = before
        own = {key: child for key, child in node.value.items() if key not in ("$use", "args", "except")}
        args = self._args(node.get("args"), path)
        if not base.is_map:
            if own or "except" in node.value:
                self._find(use.mark, path, "use", f"{name} is not a map, so no keys can stand beside $use")
            return _with_args(base, args)
        base = self._without(base, node.get("except"), name, path)
        inner, base = _unwrapped(base)
        grown = self._own(node, own, kind, path)
        merged = _merged(base, grown)
        if kind in _TREES:
            return _with_args(_with_args(merged, inner), args)
        return _with_args_key(merged, args)

    def _own(self, node: Node, own: Mapping[str, Node], kind: str, path: Steps) -> Node:
        kept = node.changed(own)
        return self._tree(kept, path) if kind in _TREES else self._typed(kept, kind, path)

    def _definition(self, use: Node, kind: str, path: Steps) -> tuple[str, str, Node] | None:
        name = use.value
        homes = _DEFINED_IN[kind]
        if not isinstance(name, str):
            self._find(use.mark, path, "use", "$use takes the name of a definition")
            return None
        for home in homes:
            node = self.definitions.get(home)
            if node is None or not node.is_map or name not in node.value:
                continue
            if (home, name) in self.using:
                names = [used for _, used in self.using[self.using.index((home, name)) :]]
                self._find(use.mark, path, "use-cycle", f"{name} uses itself: {' -> '.join([*names, name])}")
                return None
            return home, name, node.value[name]
        self._unknown(use, name, homes, path)
        return None

    def _unknown(self, use: Node, name: str, homes: tuple[str, ...], path: Steps) -> None:
        known = {
            home: list(node.value) for home, node in self.definitions.value.items() if isinstance(node.value, dict)
        }
        elsewhere = [home for home, names in known.items() if name in names]
        here = [each for home in homes for each in known.get(home, [])]
        hint = f"{name} is one of the {elsewhere[0]}, which do not fit here" if elsewhere else did_you_mean(name, here)
        self._find(use.mark, path, "unknown-use", f"definitions.{homes[0]} has no {name}", hint)

    def _args(self, args: Node | None, path: Steps) -> Node | None:
        if args is None:
            return None
        if not args.is_map:
            self._find(args.mark, path, "use", "args is a map of names and values")
            return None
        return self._part(args, "*tree", (*path, "args"))

    def _without(self, base: Node, names: Node | None, definition: str, path: Steps) -> Node:
        if names is None:
            return base
        if not isinstance(names.value, list) or not all(isinstance(name.value, str) for name in names.value):
            self._find(names.mark, path, "use", "except is a list of keys")
            return base
        dropped = set()
        for name in names.value:
            if name.value not in base.value:
                hint = did_you_mean(name.value, base.value)
                self._find(name.mark, path, "use", f"{definition} has no {name.value} to leave out", hint)
            dropped.add(name.value)
        return base.changed({key: child for key, child in base.value.items() if key not in dropped})

    # auth

    def _long_auth(self, node: Node, path: Steps) -> Node:
        if "type" not in node.value:
            return node
        try:
            long = presets.expand({key: child.plain() for key, child in node.value.items()})
        except (ValueError, TypeError, KeyError) as error:
            self._find(node.value["type"].mark, path, "auth", str(error))
            return Node({}, node.line, node.column)
        return _grafted(long, node, node.mark)

    # findings

    def _grown_out(self, node: Node, path: Steps) -> bool:
        if self.nodes > MAX_NODES or len(path) + len(self.using) > MAX_DEPTH:
            if not self.too_large:
                says = f"definitions grow to more than {MAX_NODES} values or {MAX_DEPTH} levels"
                self._find(node.mark, path[:6], "too-large", says)
            self.too_large = True
            return True
        return False

    def _find(self, mark: Mark, path: Steps, rule: str, says: str, hint: str = "") -> None:
        finding = Finding(self.file, *mark, rule, "error", f"{dotted(path)}: {says}", hint)
        if all((each.line, each.column, each.rule) != (*mark, rule) for each in self.findings):
            self.findings.append(finding)


def _with_steps(action: Node) -> Node:
    """`request` and the step's keys beside it become the step named "request"."""
    entries = dict(action.value)
    if "request" in entries:
        places = {key: action.keys[key] for key in _OF_THE_STEP if key in entries}
        step = action.changed({key: entries.pop(key) for key in places})
        named = action.changed({"request": Node(step.value, *places["request"], step.keys)})
        return action.changed({**entries, "steps": named}, {"steps": places["request"]})
    repeat = entries.pop("repeat", None)
    steps: Node | None = entries.get("steps")
    if repeat is None or steps is None or not steps.is_map:
        return action
    place = {"repeat": action.keys["repeat"]}
    each = {
        name: step.changed({"repeat": repeat, **step.value}, {**place, **step.keys}) if step.is_map else step
        for name, step in steps.value.items()
    }
    return action.changed({**entries, "steps": steps.changed(each)})


def _merged(base: Node, own: Node) -> Node:
    """Maps merge, all else replaces; what stands nearer wins."""
    entries = dict(base.value)
    for key, child in own.value.items():
        under = entries.get(key)
        entries[key] = _merged(under, child) if under is not None and under.is_map and child.is_map else child
    return base.changed(entries, own.keys)


def _with_args(tree: Node, args: Node | None) -> Node:
    """`{$with: {args, do}}`: how the mapping compiler is told the arguments of a definition."""
    if args is None or not args.value:
        return tree
    return planted({"$with": {"args": args, "do": tree}}, tree.mark)


def _unwrapped(tree: Node) -> tuple[Node | None, Node]:
    inside = tree.get("$with")
    if inside is None or len(tree.value) != 1:
        return None, tree
    return inside.get("args"), inside.get("do") or tree


def _with_args_key(part: Node, args: Node | None) -> Node:
    """A definition that uses another passes `${ args.x }` on: the inner name gets the outer value."""
    outer = dict(args.value) if args is not None else {}
    inner: dict[str, Node] = dict(part.value["args"].value) if "args" in part.value else {}
    passed = {}
    for name, node in inner.items():
        found = _PASSED_ON.match(node.value) if isinstance(node.value, str) else None
        if found is None or args is None:
            passed[name] = node
        elif found[1] in outer:
            passed[name] = outer[found[1]]
    entries = {key: child for key, child in part.value.items() if key != "args"}
    together = {**outer, **passed}
    if not together:
        return part.changed(entries)
    place = (args or part.value["args"]).mark
    return part.changed({**entries, "args": planted(together, place)}, {"args": place})


def _grafted(value: Any, source: Node, mark: Mark) -> Node:
    """Long form made of the short one: each part takes the place of the parameter it came from."""
    parameters: dict[str, Node] = source.value
    for key, child in parameters.items():
        if key != "type" and child.plain() == value and type(child.value) is type(value):
            return child
    if isinstance(value, dict):
        children: dict[str, Node] = {}
        keys: dict[str, Mark] = {}
        for key, part in value.items():
            keys[key] = source.keys.get(key, mark)
            children[key] = _grafted(part, source, keys[key])
        return Node(children, *mark, keys)
    if isinstance(value, list):
        return Node([_grafted(part, source, mark) for part in value], *mark)
    return Node(value, *_place_of(value, source.value.values(), mark))


def _place_of(value: Any, parameters: Iterable[Node], mark: Mark) -> Mark:
    for parameter in parameters:
        text = parameter.value
        if isinstance(text, str) and isinstance(value, str) and "{" in text and text in value:
            return parameter.mark
    return mark
