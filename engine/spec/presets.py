"""
The short forms of `auth` (`type: bearer` …) -> token and place, written in the connector language itself.

Each preset is one function from its parameters to the long form. Templates go in and come out as text: nothing is
rendered here. `{{ token.value }}` is the token that was got.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from engine.spec.findings import did_you_mean

Parameters = Mapping[str, Any]
Long = dict[str, Any]

_ANYWHERE = ("when", "base_url", "limits")


class UnknownPreset(ValueError):
    """No preset of this name; the text says which was meant."""


def expand(parameters: Parameters) -> Long:
    """`{type: …, parameters}` -> `{token, place}`; what has no `type` is long already."""
    if "type" not in parameters:
        return dict(parameters)
    kind = parameters["type"]
    if kind not in PRESETS:
        raise UnknownPreset(f"{kind}: no such preset; {did_you_mean(str(kind), PRESETS)}".rstrip("; "))
    kept = {key: parameters[key] for key in _ANYWHERE if key in parameters}
    return {**kept, **PRESETS[kind](parameters)}


def none(_: Parameters) -> Long:
    return {"place": {}}


def basic(given: Parameters) -> Long:
    return _in_header("Authorization", _basic(given["username"], given.get("password", "")))


def bearer(given: Parameters) -> Long:
    return _in_header("Authorization", joined("Bearer ", given["token"]))


def api_key(given: Parameters) -> Long:
    where = "query" if given.get("in") == "query" else "headers"
    return {"place": {where: {given["name"]: given["key"]}}}


def oauth2_client_credentials(given: Parameters) -> Long:
    return _oauth2(given, {"grant_type": "client_credentials"}, {})


def oauth2_password(given: Parameters) -> Long:
    grant = {"grant_type": "password", "username": given["username"], "password": given["password"]}
    return _oauth2(given, grant, _RENEWABLE)


def oauth2_refresh_token(given: Parameters) -> Long:
    # The vendor may exchange the refresh token at each use: the newest is tried first, then the one of the secrets.
    return _oauth2(given, {"grant_type": "refresh_token", "refresh_token": given["refresh_token"]}, _RENEWABLE)


def login(given: Parameters) -> Long:
    token = {key: given[key] for key in ("request", "save", "expires", "renew", "replies") if key in given}
    return {"token": token, "place": given.get("place", _bearer_token("Bearer"))}


PRESETS: dict[str, Callable[[Parameters], Long]] = {
    preset.__name__: preset
    for preset in (
        none,
        basic,
        bearer,
        api_key,
        oauth2_client_credentials,
        oauth2_password,
        oauth2_refresh_token,
        login,
    )
}

_RENEWABLE = {"refresh_token": "${ response.body.refresh_token }"}


def _oauth2(given: Parameters, grant: Mapping[str, Any], saved: Mapping[str, Any]) -> Long:
    token: Long = {
        "request": _token_request(given, grant),
        "save": {"value": "${ response.body.access_token }", **saved, **given.get("save", {})},
        "expires": given.get("expires", {"in": "${ response.body.expires_in }"}),
    }
    if saved:
        again = {"grant_type": "refresh_token", "refresh_token": "{{ token.refresh_token }}"}
        token["renew"] = {"request": _token_request(given, again), "save": token["save"]}
    if "replies" in given:
        token["replies"] = given["replies"]
    return {"token": token, "place": _bearer_token(given.get("header_prefix", "Bearer"))}


def _token_request(given: Parameters, grant: Mapping[str, Any]) -> Long:
    how = given.get("client_auth", "form")
    app = {key: given[key] for key in ("client_id", "client_secret") if key in given}
    body = {
        **grant,
        **({} if how == "basic" else app),
        **({"scope": given["scope"]} if "scope" in given else {}),
        **given.get("extra", {}),
    }
    request: Long = {"method": "POST", "url": given["token_url"], "headers": {"Accept": "application/json"}}
    if how == "basic":
        request["headers"]["Authorization"] = _basic(app.get("client_id", ""), app.get("client_secret", ""))
    request["json" if how == "json" else "form"] = body
    request["expect"] = "${ response.body.access_token }"
    return request


def _bearer_token(prefix: str) -> Long:
    return {"headers": {"Authorization": f"{prefix} {{{{ token.value }}}}".strip()}}


def _in_header(name: str, value: str) -> Long:
    return {"place": {"headers": {name: value}}}


def _basic(username: str, password: str) -> str:
    # RFC 7617: base64 of name:password; one expression, since a template's holes can't be encoded together
    pair = _join([*_parts(username), "':'", *_parts(password)])
    return f"${{ join(['Basic ', base64({pair})], '') }}"


def joined(before: str, template: str) -> str:
    """Fixed text before a template; a whole `${ }` has to be joined inside its expression."""
    if _is_expression(template):
        return f"${{ {_join([_literal(before), *_parts(template)])} }}"
    return before + template


def _join(parts: list[str]) -> str:
    return f"join([{', '.join(part for part in parts if part)}], '')"


def _is_expression(template: str) -> bool:
    text = template.strip()
    return text.startswith("${") and text.endswith("}")


def _literal(text: str) -> str:
    """A text as JMESPath writes it: raw where it can, else as JSON; nothing for an empty one."""
    if "'" in text or "\\" in text:
        return "`" + json.dumps(text).replace("`", "\\`") + "`"
    return f"'{text}'" if text else ""


def _parts(template: str) -> list[str]:
    """A template as the JMESPath expressions it is made of: texts, and holes as `path` or `function(path, …)`."""
    if _is_expression(template):
        return [template.strip()[2:-1].strip()]
    from jinja2 import Environment, TemplateSyntaxError, nodes

    # NUL can't stand in a file, so no expression and no comment of Jinja's can begin with it
    try:
        parsed = Environment(comment_start_string="\0#", comment_end_string="#\0").parse(template)
    except TemplateSyntaxError as error:
        raise ValueError(f"{{{{ … }}}} can't be read: {error.message}") from None
    parts: list[str] = []
    for output in parsed.body:
        if not isinstance(output, nodes.Output):
            raise ValueError("has {% … %}; of a text that is encoded only {{ … }} can be read")
        for node in output.nodes:
            if isinstance(node, nodes.TemplateData):
                parts.append(_literal(node.data))
            else:
                parts.append(f"string({_jmespath(node)})")
    return parts


def _jmespath(node: Any) -> str:
    from jinja2 import nodes

    match node:
        case nodes.Name(name=name):
            return str(name)
        case nodes.Getattr(node=inner, attr=attr):
            return f"{_jmespath(inner)}.{attr}"
        case nodes.Const(value=str() as text):
            return _literal(text) or "''"
        case nodes.Const(value=int() as number):
            return f"`{str(number).lower()}`"
        case nodes.Filter(node=inner, name=name, args=args, kwargs=[]) if inner is not None:
            return f"{name}({', '.join([_jmespath(inner), *(_jmespath(arg) for arg in args)])})"
    raise ValueError("only paths and functions can stand in a text that is encoded")
