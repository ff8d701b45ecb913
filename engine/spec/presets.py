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

_ANYWHERE = ("when", "base_url", "limits", "sign")


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
    made = PRESETS[kind](parameters)
    if "sign" in kept and "sign" in made:
        made["sign"] = {**kept["sign"], **made["sign"]}
    return {**kept, **made}


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
    long = _oauth2(given, {"grant_type": "refresh_token", **_taken(given, "refresh_token")}, _RENEWABLE)
    if "authorize_url" in given:
        long["token"]["consent"] = _consent(given)
    if "refresh_token" not in given:
        del long["token"]["request"]
    return long


def oauth2_jwt_bearer(given: Parameters) -> Long:
    # RFC 7523, section 2.1
    grant = {"grant_type": "urn:ietf:params:oauth:grant-type:jwt-bearer", "assertion": "${ sign.assertion }"}
    long = _oauth2(given, grant, {})
    assertion = {**_signed(given), "claims": given["claims"], **_taken(given, "lifetime", lifetime="5m")}
    long["sign"] = {"assertion": assertion, **long.get("sign", {})}
    return long


def oauth1(given: Parameters) -> Long:
    signer = _taken(given, "consumer_key", "consumer_secret", "token", "token_secret", "algorithm", "key", "passphrase")
    return {
        "sign": {"oauth1": {"type": "oauth1", **signer, **_taken(given, "realm")}},
        **_in_header("Authorization", "${ sign.oauth1 }"),
    }


def aws_sigv4(given: Parameters) -> Long:
    signer = {"type": "aws_sigv4", **_taken(given, "access_key", "secret_key", "region", "service")}
    headers = {"X-Amz-Date": "${ date(now, '%Y%m%dT%H%M%SZ') }"}
    if "session_token" in given:
        headers["X-Amz-Security-Token"] = given["session_token"]
    if given["service"] != "s3":
        return {"sign": {"aws": signer}, "place": {"headers": {**headers, "Authorization": "${ sign.aws }"}}}
    body = {"type": "hash", "algorithm": "sha256", "text": "${ request.body }"}
    headers |= {"X-Amz-Content-Sha256": "${ sign.body }", "Authorization": "${ sign.aws }"}
    return {"sign": {"body": body, "aws": signer}, "place": {"headers": headers}}


def login(given: Parameters) -> Long:
    token = _taken(given, "request", "save", "expires", "renew", "replies", "discover")
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
        oauth2_jwt_bearer,
        oauth1,
        aws_sigv4,
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
    token |= _taken(given, "replies", "discover")
    long: Long = {"token": token, "place": _bearer_token(given.get("header_prefix", "Bearer"))}
    if given.get("client_auth") == "private_key_jwt":
        long["sign"] = {"client": _client_assertion(given)}
    return long


def _taken(given: Parameters, *names: str, **defaults: Any) -> Long:
    return {**defaults, **{name: given[name] for name in names if name in given}}


def _consent(given: Parameters) -> Long:
    # RFC 6749, section 4.1, with PKCE of RFC 7636
    pkce = given.get("pkce", True)
    challenge = {"code_challenge": "${ consent.code_challenge }", "code_challenge_method": "S256"} if pkce else {}
    grant = {
        "grant_type": "authorization_code",
        "code": "${ consent.code }",
        "redirect_uri": "${ consent.redirect_uri }",
        **({"code_verifier": "${ consent.code_verifier }"} if pkce else {}),
    }
    return {
        "url": given["authorize_url"],
        "query": {
            "response_type": "code",
            **_taken(given, "client_id"),
            "redirect_uri": "${ consent.redirect_uri }",
            **_taken(given, "scope"),
            "state": "${ consent.state }",
            **challenge,
            **given.get("authorize_query", {}),
        },
        **_taken(given, "redirect_uri"),
        "request": _token_request(given, grant),
    }


def _signed(given: Parameters) -> Long:
    """A JWT of the private key: what an app's assertions have in common."""
    if "private_key" not in given:
        raise ValueError("client_auth: private_key_jwt needs private_key")
    made: Long = {"type": "jwt", "algorithm": given.get("algorithm", "RS256"), "key": given["private_key"]}
    made |= _taken(given, "key_as", "passphrase")
    return {**made, "header": {"kid": given["key_id"]}} if "key_id" in given else made


def _client_assertion(given: Parameters) -> Long:
    # RFC 7523, section 3; the audience is the token endpoint unless the vendor says otherwise
    if "client_id" not in given:
        raise ValueError("client_auth: private_key_jwt needs client_id")
    who = given["client_id"]
    claims = {"iss": who, "sub": who, "aud": given.get("audience", given["token_url"]), "jti": "${ nonce }"}
    return {**_signed(given), "claims": claims, "lifetime": "5m"}


def _token_request(given: Parameters, grant: Mapping[str, Any]) -> Long:
    how = given.get("client_auth", "form")
    app = _taken(given, "client_id", "client_secret")
    if how == "private_key_jwt":
        app = {
            "client_id": given.get("client_id", ""),
            "client_assertion_type": "urn:ietf:params:oauth:client-assertion-type:jwt-bearer",
            "client_assertion": "${ sign.client }",
        }
    elif how == "none":
        app = _taken(given, "client_id")
    elif how == "basic":
        app = {}
    scope = {} if "authorize_url" in given else _taken(given, "scope")  # it was said where a person agreed
    body = {**grant, **app, **scope, **given.get("extra", {})}
    request: Long = {"method": "POST", "url": given["token_url"], "headers": {"Accept": "application/json"}}
    if how == "basic":
        request["headers"]["Authorization"] = _basic(given.get("client_id", ""), given.get("client_secret", ""))
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
    if set(template).isdisjoint("{}%\r\n\0"):  # nothing that Jinja, which takes a while to load, would see
        return [_literal(template)] if template else []
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
