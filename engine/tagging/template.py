"""
The tag as a custom template of Google Tag Manager (a `.tpl` file to import), for web containers.

Sandboxed JavaScript can only ask for pictures: it has no way to post a body. So the template loads `tag.js` from the
door, which is the one address it may load from, and hands it the settings and what Tag Manager knows of the consent.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from engine.tagging.settings import KEY, LAYER, literal

if TYPE_CHECKING:
    from engine.tagging.settings import Settings

_TERMS = """\
By creating or modifying this file you agree to Google Tag Manager's Community
Template Gallery Developer Terms of Service available at
https://developers.google.com/tag-manager/gallery-tos (or such other URL as
Google may provide), as modified from time to time."""

_CODE = """\
const addConsentListener = require('addConsentListener');
const createQueue = require('createQueue');
const encodeUriComponent = require('encodeUriComponent');
const injectScript = require('injectScript');
const isConsentGranted = require('isConsentGranted');

const TYPES = {types};
const settings = {settings};
settings.layer = data.layer || 'dataLayer';
if (data.key) settings.url = settings.url + '?key=' + encodeUriComponent(data.key);
{which}
const push = createQueue('connectTag');
const granted = {{}};
const tell = () => {{
  let all = true;
  for (let at = 0; at < TYPES.length; at++) all = all && granted[TYPES[at]];
  push([settings, data.email ? {{email: data.email}} : {{}}, all]);
}};
for (let at = 0; at < TYPES.length; at++) {{
  granted[TYPES[at]] = isConsentGranted(TYPES[at]);
  addConsentListener(TYPES[at], (type, now) => {{
    granted[type] = now;
    tell();
  }});
}}
tell();
injectScript({script}, data.gtmOnSuccess, data.gtmOnFailure, 'connectTag');"""

_BEFORE = """\
const pushed = [];
const given = {{key: 'a key', client: {client}, layer: 'dataLayer'}};
let granted = true;
mock('createQueue', (name) => (value) => {{ pushed.push(value); }});
mock('isConsentGranted', (type) => granted);
mock('addConsentListener', (type, listener) => {{ listen.push(listener); }});
mock('injectScript', (url, success, failure) => {{ loaded.push(url); success(); }});
const listen = [];
const loaded = [];
"""


def template(settings: Settings) -> str:
    sections = {
        "TERMS_OF_SERVICE": _TERMS,
        "INFO": _json(_info(settings)),
        "TEMPLATE_PARAMETERS": _json(_parameters(settings)),
        "SANDBOXED_JS_FOR_WEB_TEMPLATE": _code(settings),
        "WEB_PERMISSIONS": _json(_permissions(settings)),
        "TESTS": _tests(settings),
        "NOTES": "Written by `connect tag`; write it anew when the connector or the client changes.",
    }
    return "\n\n".join(f"___{name}___\n\n{text}\n" for name, text in sections.items())


def script_url(settings: Settings) -> str:
    return f"{settings.address}/tag.js"


def _json(value: Any) -> str:
    return json.dumps(value, indent=2, ensure_ascii=True)


def _info(settings: Settings) -> dict[str, Any]:
    return {
        "type": "TAG",
        "id": "cvt_temp_public_id",
        "version": 1,
        "securityGroups": [],
        "displayName": f"DaxGO Connect: {settings.connector}",
        "brand": {"id": "brand_dummy", "displayName": ""},
        "description": "Sends e-commerce events of the data layer to DaxGO Connect, once the visitor has agreed. "
        "Fire it once, on Initialization - All Pages.",
        "containerContexts": ["WEB"],
    }


def _parameters(settings: Settings) -> list[dict[str, Any]]:
    found = []
    if settings.key is not None:
        key = "" if settings.key == KEY else settings.key
        found.append(
            _text("key", "Write key", key, "The client's write key. Everybody who opens the page can read it.")
        )
    for name, value in settings.set.items():
        found.append(_text("client", name, value, f"What stands for the client in the event's field {name}."))
    found.append(
        {
            **_text(
                "email", "E-mail address", "", "A variable with the person's address; the data layer's by default."
            ),
            "valueValidators": [],
        }
    )
    found.append(_text("layer", "Data layer", LAYER, "The name of the page's data layer."))
    return found


def _text(name: str, title: str, value: str, help_text: str) -> dict[str, Any]:
    return {
        "type": "TEXT",
        "name": name,
        "displayName": title,
        "simpleValueType": True,
        "defaultValue": value,
        "help": help_text,
        "valueValidators": [{"type": "NON_EMPTY"}],
    }


def _code(settings: Settings) -> str:
    told = settings._replace(key=None, set={}).as_json()
    del told["layer"]
    return _CODE.format(
        types=literal(list(settings.consent)),
        settings=literal(told),
        which="".join(f"settings.set = {{{literal(name)}: data.client}};" for name in settings.set),
        script=literal(script_url(settings)),
    )


def _permissions(settings: Settings) -> list[dict[str, Any]]:
    globals_key = _map(key="connectTag", read=True, write=True, execute=False)
    found = [
        _permission("access_globals", keys=_list([globals_key])),
        _permission("inject_script", urls=_list([_string(script_url(settings))])),
    ]
    if settings.consent:
        types = [_map(consentType=each, read=True, write=False) for each in settings.consent]
        found.append(_permission("access_consent", consentTypes=_list(types)))
    return found


def _permission(name: str, **parameters: Any) -> dict[str, Any]:
    return {
        "instance": {
            "key": {"publicId": name, "versionId": "1"},
            "param": [{"key": key, "value": value} for key, value in parameters.items()],
        },
        "clientAnnotations": {"isEditedByUser": True},
        "isRequired": True,
    }


def _string(text: str) -> dict[str, Any]:
    return {"type": 1, "string": text}


def _list(items: list[dict[str, Any]]) -> dict[str, Any]:
    return {"type": 2, "listItem": items}


def _map(**entries: str | bool) -> dict[str, Any]:
    values = [{"type": 8, "boolean": each} if isinstance(each, bool) else _string(each) for each in entries.values()]
    return {"type": 3, "mapKey": [_string(key) for key in entries], "mapValue": values}


def _tests(settings: Settings) -> str:
    """In the form of Tag Manager: YAML, with the template's own code run by `runCode`."""
    url = settings.url
    field, value = next(iter(settings.set.items()), ("", ""))
    which = [f"assertThat(pushed[0][0].set[{literal(field)}]).isEqualTo({literal(value)});"] if field else []
    scenarios = {
        "The script of the door is loaded and told the settings": [
            "runCode(given);",
            f"assertThat(loaded).isEqualTo([{literal(script_url(settings))}]);",
            f"assertThat(pushed[0][0].url).isEqualTo({literal(url + '?key=a%20key')});",
            *which,
            "assertThat(pushed[0][2]).isEqualTo(true);",
            "assertApi('gtmOnSuccess').wasCalled();",
        ],
        "An address from a variable is handed on": [
            "given.email = 'user@example.com';",
            "runCode(given);",
            "assertThat(pushed[0][1]).isEqualTo({email: 'user@example.com'});",
        ],
    }
    if settings.consent:
        scenarios["Consent is told when it is given"] = [
            "granted = false;",
            "runCode(given);",
            "assertThat(pushed[0][2]).isEqualTo(false);",
            *(f"listen[{at}]({literal(each)}, true);" for at, each in enumerate(settings.consent)),
            f"assertThat(pushed[{len(settings.consent)}][2]).isEqualTo(true);",
        ]
    lines = ["scenarios:"]
    for name, code in scenarios.items():
        lines += [f"- name: {name}", "  code: |-", *(f"    {line}" for line in code)]
    setup = _BEFORE.format(client=literal(value)).splitlines()
    return "\n".join([*lines, "setup: |-", *(f"  {line}" for line in setup)])
