"""The presets of `auth`, each with the secrets, the sandbox and the comments that a new connector needs with it."""

from __future__ import annotations

import base64
import re
from urllib.parse import urlsplit

from engine.authoring.scaffold.draft import DECIDE, Auth, Tree
from engine.authoring.scaffold.writing import Inline, Note, Noted
from engine.errors import UsageError

KINDS = (
    "none",
    "basic",
    "bearer",
    "api_key",
    "oauth2_client_credentials",
    "oauth2_password",
    "oauth2_refresh_token",
    "login",
)

_TITLES = {
    "username": "User name",
    "password": "Password",
    "token": "Access token",
    "api_key": "API key",
    "client_id": "Client id",
    "client_secret": "Client secret",
    "refresh_token": "Refresh token",
}
_GRANTS = {
    "oauth2_client_credentials": ("client_credentials", ("client_id", "client_secret")),
    "oauth2_password": ("password", ("username", "password")),
    "oauth2_refresh_token": ("refresh_token", ("client_id", "client_secret", "refresh_token")),
}
_REFUSED = Inline(status=401, body=Inline(error="invalid_token"))


def auth_of(
    kind: str,
    *,
    base_url: str,
    key_name: str = "X-Api-Key",
    key_in: str = "header",
    token_url: str = "",
    scope: str = "",
    guessed: bool = False,
    notes: tuple[str, ...] = (),
) -> Auth:
    """`kind` is one of KINDS; `token_url` for those that get a token, `guessed` where nobody said it."""
    if guessed:
        notes = (*notes, f"{DECIDE} the address that gives the token; it is made up")
    match kind:
        case "none":
            return Auth({}, notes=notes)
        case "basic":
            pair = base64.b64encode(b"made-up-username:made-up-password").decode()
            auth = {"type": "basic", "username": _secret("username"), "password": _secret("password")}
            return _static(auth, "request.headers.authorization", f"Basic {pair}", ("username", "password"), notes)
        case "bearer":
            auth = Inline(type="bearer", token=_secret("token"))
            return _static(auth, "request.headers.authorization", f"Bearer {_made_up('token')}", ("token",), notes)
        case "api_key":
            return _api_key(key_name, key_in, notes)
        case "login":
            return _login(token_url or "/login", base_url, notes)
    return _oauth2(kind, token_url, scope, notes)


def _api_key(name: str, where: str, notes: tuple[str, ...]) -> Auth:
    auth: Tree = Inline(type="api_key", key=_secret("api_key"), name=name)
    accept = f"get(request.headers, '{name.lower()}')"
    if where == "query":
        auth["in"] = "query"
        accept = f"get(request.query, '{name}')"
    if where == "cookie":
        auth = {"place": Inline(cookies=Inline({name: _secret("api_key")}))}
        pattern = f"(?:^|; ){re.escape(name)}=([^;]+)"
        accept = f"regex(request.headers.cookie, '{pattern}', `1`)"
    return _static(auth, accept, _made_up("api_key"), ("api_key",), notes)


def _oauth2(kind: str, token_url: str, scope: str, notes: tuple[str, ...]) -> Auth:
    grant, names = _GRANTS[kind]
    auth: Tree = {"type": kind, "token_url": token_url}
    if kind == "oauth2_password":
        names = (*names, "client_id", "client_secret")
    auth |= {name: _secret(name) for name in names}
    if scope:
        auth["scope"] = scope
    auth[Note("client_auth: basic sends the app's name and secret in a header, as some vendors want it.")] = None
    right = " && ".join(
        f"request.form.{key} == '{value}'"
        for key, value in {"grant_type": grant, names[-1]: _made_up(names[-1])}.items()
    )
    body: Tree = Inline(access_token="${ issue('key') }", token_type="Bearer", expires_in=3600)
    if kind == "oauth2_refresh_token":
        body["refresh_token"] = _made_up("refresh_token")  # the same again: a vendor that rotates sends a new one
    if kind == "oauth2_password":
        right = f"request.form.client_id == '{_made_up('client_id')}'"
    return _issued(auth, token_url, names, right, body, notes)


def _login(address: str, base_url: str, notes: tuple[str, ...]) -> Auth:
    names = ("username", "password")
    url = address if "://" in address else f"{base_url}{address}"
    request: Tree = {"method": "POST", "url": url}
    request["json"] = Inline({name: _secret(name) for name in names})
    request["expect"] = "${ present(response.body.token) }"
    auth: Tree = {
        "type": "login",
        Note(f"{DECIDE} the log-in as the vendor describes it: the fields it asks for, where the token stands"): None,
        "request": request,
        "save": Inline(value="${ response.body.token }"),
        "expires": Noted(Inline(after="1h"), "or where the reply tells: {in: …}, {at: …}, {jwt: true}"),
    }
    right = f"request.json.password == '{_made_up('password')}'"
    return _issued(auth, url, names, right, Inline(token="${ issue('key') }"), notes)


def _static(auth: Tree, accept: str, value: str, names: tuple[str, ...], notes: tuple[str, ...]) -> Auth:
    token = {"accept": f"${{ {accept} }}", "value": value, "refused": _REFUSED}
    return Auth(auth, _secrets(names), {name: _made_up(name) for name in names}, token, notes=notes)


def _issued(auth: Tree, url: str, names: tuple[str, ...], right: str, body: Tree, notes: tuple[str, ...]) -> Auth:
    accept = "${ regex(request.headers.authorization, '^Bearer (.+)$', `1`) }"
    token = {"lifetime": "1h", "accept": accept, "refused": _REFUSED}
    path = sandbox_path(url)
    routes: list[Tree] = [
        {"method": "POST", "path": path, "when": f"${{ {right} }}", "reply": Inline(body=body)},
        {"method": "POST", "path": path, "reply": Inline(status=400, body=Inline(error="invalid_client"))},
    ]
    host = urlsplit(url).hostname or ""
    hosts = (host,) if host and "{" not in host else ()
    made_up = {name: _made_up(name) for name in names}
    return Auth(auth, _secrets(names), made_up, token, routes, hosts, "reauth", notes)


def checked_key_name(name: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9_.\[\]-]{1,100}", name):
        raise UsageError(f"{name[:100]!r} can't be the key's name; letters, digits, - _ . [ ]")
    return name


def checked_token_url(url: str) -> str:
    if not re.fullmatch(r"https://([a-z0-9-]+\.)+[a-z0-9-]+(/[A-Za-z0-9._~@:+-]*)*", url):
        raise UsageError(f"{url[:200]} can't be the address of a token; it begins with https:// and has no port")
    return url


def sandbox_path(url: str) -> str:
    """The path of an address or path as a route of the sandbox: what is computed stands for any one part."""
    path = "/" + url.partition("://")[2].partition("/")[2] if "://" in url else url
    parts = [f"{{part{at}}}" if "{{" in part else part for at, part in enumerate(path.partition("?")[0].split("/"))]
    return "/".join(parts) or "/"


def _secrets(names: tuple[str, ...]) -> Tree:
    return {name: Inline(title=_TITLES[name]) for name in names}


def _secret(name: str) -> str:
    return f"${{ secrets.{name} }}"


def _made_up(name: str) -> str:
    return f"made-up-{name.replace('_', '-')}"
