"""What signers make, held against other people's: joserfc, and values of botocore and oauthlib."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from functools import cache
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit

import pytest
from conftest import START, Shop, Vendor, reply
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.hashes import SHA1
from joserfc import jws
from joserfc.jwk import ECKey, OctKey, RSAKey

from engine.clock import VirtualClock
from engine.errors import SpecErrors

if TYPE_CHECKING:
    from engine.http import Prepared

HASHED = hashlib.sha256


@cache
def private(kind: str) -> Any:
    match kind:
        case "rsa":
            return rsa.generate_private_key(65537, 2048)
        case "ed25519":
            return ed25519.Ed25519PrivateKey.generate()
        case curve:
            return ec.generate_private_key(getattr(ec, curve)())


def pem(kind: str, passphrase: str = "") -> str:
    encryption = (
        serialization.BestAvailableEncryption(passphrase.encode()) if passphrase else serialization.NoEncryption()
    )
    form = serialization.PrivateFormat.PKCS8
    return private(kind).private_bytes(serialization.Encoding.PEM, form, encryption).decode()


def der(kind: str) -> bytes:
    form, none = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    raw: bytes = private(kind).private_bytes(serialization.Encoding.DER, form, none)
    return raw


NOTE = '{path: /notes, json: "${ record }"}'


def crm(auth: str, request: str = NOTE, *, at: float = START, vendor: Vendor | None = None, **secrets: str) -> Shop:
    text = f"""
hosts: [api.crm.example, example.amazonaws.com, bucket.s3.amazonaws.com]
secrets: {{{", ".join(f"{name}: {{}}" for name in secrets)}}}
auth:
{auth}
actions: {{note: {{record: {{id: "${{ event.id }}"}}, request: {request}}}}}
"""
    return Shop(text, vendor=vendor, secrets=secrets, clock=VirtualClock(at))


def sent(shop: Shop) -> Prepared:
    shop.post({"id": "7"})
    shop.drain()
    assert shop.sums() == {"delivered": 1}, shop.lane().reason
    found: Prepared = shop.vendor.asked[-1]
    return found


# --- JWT ---

BEARER = """
  sign:
    me:
      type: jwt
      algorithm: ALGORITHM
      key: "${ secrets.key }"
      header: {kid: k-1}
      claims: {iss: "${ secrets.app }", jti: "${ nonce }", amount: 12.50}
      lifetime: 5m
  place: {headers: {Authorization: "Bearer {{ sign.me }}"}}
"""
KEYS = {"RS": "rsa", "PS": "rsa", "ES256": "SECP256R1", "ES384": "SECP384R1", "ES512": "SECP521R1"}


def claims_of(token: str, algorithm: str, key: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    found = jws.deserialize_compact(token, key, algorithms=[algorithm])
    return dict(found.headers()), json.loads(found.payload)


@pytest.mark.parametrize("algorithm", [f"{kind}{bits}" for kind in ("RS", "PS", "ES") for bits in (256, 384, 512)])
def test_a_jwt_of_a_private_key_is_one_that_others_can_verify(algorithm: str) -> None:
    kind = KEYS.get(algorithm) or KEYS[algorithm[:2]]
    shop = crm(BEARER.replace("ALGORITHM", algorithm), key=pem(kind), app="app-1")
    token = sent(shop).headers["Authorization"].removeprefix("Bearer ")
    key = (ECKey if algorithm.startswith("ES") else RSAKey).import_key(pem(kind))
    assert claims_of(token, algorithm, key) == (
        {"alg": algorithm, "typ": "JWT", "kid": "k-1"},
        {"iat": int(START), "exp": int(START) + 300, "iss": "app-1", "jti": "n1", "amount": 12.50},
    )


@pytest.mark.parametrize("algorithm", ["HS256", "HS384", "HS512"])
@pytest.mark.parametrize("key_as", ["text", "hex", "base64"])
def test_a_jwt_of_a_shared_secret_is_one_that_others_can_verify(algorithm: str, key_as: str) -> None:
    raw = b"a secret of thirty-two bytes! :-)"
    written = {"text": raw.decode(), "hex": raw.hex(), "base64": base64.b64encode(raw).decode()}[key_as]
    text = BEARER.replace("ALGORITHM", f"{algorithm}\n      key_as: {key_as}")
    token = sent(crm(text, key=written, app="app-1")).headers["Authorization"].removeprefix("Bearer ")
    assert claims_of(token, algorithm, OctKey.import_key(raw))[1]["iss"] == "app-1"


def test_a_jwt_may_be_signed_by_eddsa() -> None:
    shop = crm(BEARER.replace("ALGORITHM", "EdDSA"), key=pem("ed25519"), app="app-1")
    head, body, signature = sent(shop).headers["Authorization"].removeprefix("Bearer ").split(".")
    private("ed25519").public_key().verify(base64.urlsafe_b64decode(signature + "=="), f"{head}.{body}".encode())
    assert json.loads(base64.urlsafe_b64decode(head + "=="))["alg"] == "EdDSA"


@pytest.mark.parametrize(
    ("written", "more"),
    [
        (pem("rsa").replace("\n", "\\n"), ""),
        (base64.b64encode(der("rsa")).decode(), "\n      key_as: base64"),
        (base64.urlsafe_b64encode(pem("rsa").encode()).decode(), "\n      key_as: base64"),
        (pem("rsa", "open sesame"), '\n      passphrase: "open sesame"'),
    ],
)
def test_a_private_key_may_be_one_line_or_base64_or_encrypted(written: str, more: str) -> None:
    token = sent(crm(BEARER.replace("ALGORITHM", f"RS256{more}"), key=written, app="a")).headers["Authorization"]
    assert claims_of(token.removeprefix("Bearer "), "RS256", RSAKey.import_key(pem("rsa")))[1]["iss"] == "a"


@pytest.mark.parametrize(
    ("algorithm", "key", "why"),
    [
        ("RS256", "no key at all", "the private key can't be read; a PEM begins with -----BEGIN PRIVATE KEY-----"),
        ("RS256", pem("SECP256R1"), "RS256 needs an RSA key"),
        ("ES256", pem("SECP384R1"), "ES256 needs a key of the curve secp256r1"),
        ("EdDSA", pem("rsa"), "EdDSA needs an Ed25519 or Ed448 key"),
        ("RS256", pem("rsa", "open sesame"), "the private key is encrypted and needs a `passphrase`"),
        ("HS256\n      key_as: hex", "wxyz", "the key is not hex; `key_as` says how it is written"),
    ],
)
def test_a_key_that_does_not_fit_pauses_the_lane_and_is_not_repeated(algorithm: str, key: str, why: str) -> None:
    shop = crm(BEARER.replace("ALGORITHM", algorithm), key=key, app="app-1")
    shop.post({"id": "7"})
    shop.drain()
    assert (shop.sums(), shop.lane().state, shop.vendor.asked) == ({"waiting": 1}, "paused", [])
    assert shop.lane().reason == f"auth: key: {why}"
    assert key not in str([shop.lane(), shop.heard.events])


# --- HMAC and hash ---

MAC = """
  sign:
    body: {type: hash, algorithm: md5, encoding: base64, text: "${ request.body }"}
    mac:
      type: hmac
      algorithm: sha256
      key: "${ secrets.key }"
      text: "{{ request.method }}\\n{{ request.host }}\\n{{ request.path }}\\n{{ request.query }}\\n{{ request.headers.content-type }}\\n{{ sign.body }}\\n{{ now }}\\n{{ nonce }}"
  place:
    headers: {X-Time: "${ now }", X-Nonce: "${ nonce }", Content-MD5: "${ sign.body }", X-Signature: "${ sign.mac }"}
""".replace("{{ request.headers.content-type }}", "{{ request.headers | get('content-type') }}")  # noqa: E501


def test_an_hmac_is_made_of_the_request_as_it_is_sent() -> None:
    request = '{path: "/notes/{{ record.id }}", query: {q: "a b"}, json: "${ record }"}'
    found = sent(crm(MAC, request, key="k-3-cret"))
    digest = base64.b64encode(hashlib.md5(b'{"id":"7"}').digest()).decode()
    message = f"POST\napi.crm.example\n/v1/notes/7\nq=a%20b\napplication/json\n{digest}\n{int(START)}\nn1"
    assert {name: value for name, value in found.headers.items() if name != "Content-Type"} == {
        "X-Time": str(int(START)),
        "X-Nonce": "n1",
        "Content-MD5": digest,
        "X-Signature": hmac.new(b"k-3-cret", message.encode(), "sha256").hexdigest(),
    }


@pytest.mark.parametrize("algorithm", ["sha1", "sha256", "sha384", "sha512", "md5"])
@pytest.mark.parametrize("encoding", ["hex", "base64", "base64url"])
def test_every_algorithm_and_encoding(algorithm: str, encoding: str) -> None:
    auth = f"""
  sign:
    plain: {{type: hash, algorithm: {algorithm}, encoding: {encoding}, text: "a{{{{ secrets.key }}}}"}}
    keyed: {{type: hmac, key: "${{ secrets.key }}", algorithm: {algorithm}, encoding: {encoding}, text: "${{ now }}"}}
  place: {{query: {{plain: "${{ sign.plain }}", keyed: "${{ sign.keyed }}"}}}}
"""

    def written(raw: bytes) -> str:
        if encoding == "hex":
            return raw.hex()
        encode = base64.b64encode if encoding == "base64" else base64.urlsafe_b64encode
        text = encode(raw).decode()
        return text if encoding == "base64" else text.rstrip("=")

    assert parse_qs(urlsplit(sent(crm(auth, key="k-3-cret")).url).query) == {
        "plain": [written(hashlib.new(algorithm, b"ak-3-cret").digest())],
        "keyed": [written(hmac.new(b"k-3-cret", str(int(START)).encode(), algorithm).digest())],
    }


def test_a_signature_over_the_request_may_go_into_the_query_behind_what_it_signs() -> None:
    auth = """
  sign: {mac: {type: hash, algorithm: sha256, text: "${ request.url }"}}
  place: {query: {key: "${ secrets.key }", sig: "${ sign.mac }"}}
"""
    url, _, signature = sent(crm(auth, key="k-3-cret")).url.rpartition("&sig=")
    assert (url, signature) == ("https://api.crm.example/v1/notes?key=k-3-cret", HASHED(url.encode()).hexdigest())


def test_a_form_is_signed_as_it_is_encoded() -> None:
    auth = """
  sign: {mac: {type: hash, algorithm: sha256, text: "${ request.body }"}}
  place: {form: {key: "${ secrets.key }"}, headers: {X-Body: "${ sign.mac }"}}
"""
    found = sent(crm(auth, '{path: /notes, form: {name: "Ana & Co ç"}}', key="k-3-cret"))
    assert found.content == b"name=Ana+%26+Co+%C3%A7&key=k-3-cret"
    assert found.headers["X-Body"] == HASHED(found.content).hexdigest()


def test_a_request_that_is_tried_again_is_signed_again() -> None:
    vendor = Vendor(reply(503, {}), reply(200, {"ok": True}))
    shop = crm(MAC, key="k-3-cret", vendor=vendor)
    shop.post({"id": "7"})
    shop.drain(600)
    assert shop.sums() == {"delivered": 1}
    first, second = (request.headers for request in vendor.asked)
    assert [first["X-Nonce"], second["X-Nonce"]] == ["n1", "n2"]
    assert first["X-Time"] != second["X-Time"]
    assert first["X-Signature"] != second["X-Signature"]


def test_a_signature_that_a_vendor_repeats_is_masked() -> None:
    def echo(request: Prepared) -> Any:
        return reply(422, {"message": f"bad signature {request.headers['X-Signature']}"})

    shop = crm(MAC, key="k-3-cret", vendor=Vendor(answer=echo))
    shop.post({"id": "7"})
    shop.drain()
    (sent_,) = shop.vendor.asked
    told = str([shop.dead(), shop.heard.events, shop.lane()])
    assert "bad signature ***" in told
    assert sent_.headers["X-Signature"] not in told


# --- OAuth 1 ---

OAUTH1 = """
  type: oauth1
  consumer_key: ck
  consumer_secret: "${ secrets.consumer_secret }"
  token: tk
  token_secret: "${ secrets.token_secret }"
  algorithm: ALGORITHM
  realm: "1234_SB"
"""
GET = "{method: GET, url: 'https://api.crm.example/v1/no%20tes'}"
FORM = "{url: 'https://api.crm.example/v1/notes?b=2&a=1&a=%20x%26', form: {name: Ana Silva, n: ç}}"


@pytest.mark.parametrize(
    ("algorithm", "request_", "signature"),
    [  # as oauthlib signs the same request with this nonce and time
        ("HMAC-SHA1", FORM, "xnMG7vJcc2czN%2FzygZqheqQdUBA%3D"),
        ("HMAC-SHA256", FORM, "CoZ6ZZ4872YTGab8eIJxhZo34z7JRkw3chvN7T330wc%3D"),
        ("HMAC-SHA1", GET, "2rHUtN9GUCSJL9yXN4TI5FkgNSI%3D"),
        ("HMAC-SHA256", GET, "WJY%2BfIS1aKghZVcsPZjvJP%2FOQZ2ynwS04F8nXShUH4k%3D"),
        ("PLAINTEXT", GET, "cs%25261%26ts%252F2"),
    ],
)
def test_oauth_1_signs_as_oauthlib_does(algorithm: str, request_: str, signature: str) -> None:
    auth = OAUTH1.replace("ALGORITHM", algorithm)
    found = sent(crm(auth, request_, consumer_secret="cs&1", token_secret="ts/2"))
    assert found.headers["Authorization"] == (
        f'OAuth realm="1234_SB", oauth_consumer_key="ck", oauth_nonce="n1", oauth_signature_method="{algorithm}", '
        f'oauth_timestamp="{int(START)}", oauth_version="1.0", oauth_token="tk", oauth_signature="{signature}"'
    )


def test_oauth_1_by_rsa_signs_the_same_text() -> None:
    auth = '\n  type: oauth1\n  consumer_key: ck\n  algorithm: RSA-SHA1\n  key: "${ secrets.key }"'
    found = sent(crm(auth, GET, key=pem("rsa")))
    signature = base64.b64decode(parse_qs(found.headers["Authorization"].rpartition(", ")[2])["oauth_signature"][0][1:])
    text = (
        "GET&https%3A%2F%2Fapi.crm.example%2Fv1%2Fno%2520tes&oauth_consumer_key%3Dck%26oauth_nonce%3Dn1%26"
        f"oauth_signature_method%3DRSA-SHA1%26oauth_timestamp%3D{int(START)}%26oauth_version%3D1.0"
    )
    key = private("rsa").public_key()
    key.verify(signature, text.encode(), padding.PKCS1v15(), SHA1())  # raises where it is none of this text
    with pytest.raises(InvalidSignature):
        key.verify(signature, text.replace("tes&", "te&").encode(), padding.PKCS1v15(), SHA1())


# --- AWS ---

IN_2015 = 1440938160.0
AWS_SECRETS = {
    "access": "AKIDEXAMPLE",
    "secret": "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY",
    "session": "session-token",
}
AWS = """
  type: aws_sigv4
  access_key: "${ secrets.access }"
  secret_key: "${ secrets.secret }"
  region: us-east-1
  service: service
"""
FORM_BODY = "url: 'https://example.amazonaws.com/', form: {Param1: value1}"


@pytest.mark.parametrize(
    ("request_", "headers", "signature"),
    [  # the first three and the fifth are in AWS's own test suite; all are as botocore signs them
        (
            "{method: GET, url: 'https://example.amazonaws.com/'}",
            "host;x-amz-date",
            "5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31",
        ),
        (
            "{method: GET, url: 'https://example.amazonaws.com/?Param2=value2&Param1=value1'}",
            "host;x-amz-date",
            "b97d918cfa904a5beff61c982a1b6f458b799221646efd99d3219ec94cdf2500",
        ),
        (
            "{method: GET, url: 'https://example.amazonaws.com/?Param1=value2&Param1=Value1'}",
            "host;x-amz-date",
            "eedbc4e291e521cf13422ffca22be7d2eb8146eecf653089df300a15b2382bd1",
        ),
        (
            "{method: GET, url: 'https://example.amazonaws.com/a%20b/c%2Fd/%C3%A7?q=a%20b&x=%2B'}",
            "host;x-amz-date",
            "1885012c500ea1ce9f3ac05f552c40e5df49ed59f2160765a9948aaeca38bef1",
        ),
        (
            f"{{{FORM_BODY}}}",
            "content-type;host;x-amz-date",
            "ff11897932ad3f4e8b18135d722051e5ac45fc38421b1da7b9d196a0fe09473a",
        ),
        (
            "{url: 'https://example.amazonaws.com/', headers: {X-Odd: '  a   b  ', Content-Type: text/plain}, text: x}",
            "content-type;host;x-amz-date;x-odd",
            "7ab175d36adc23f0e1521a7449fd64bb61bab391b904c2791b8e09ee2c5d2fd6",
        ),
    ],
)
def test_aws_signature_4_is_the_one_that_aws_expects(request_: str, headers: str, signature: str) -> None:
    found = sent(crm(AWS, request_, at=IN_2015, **AWS_SECRETS))
    assert found.headers["X-Amz-Date"] == "20150830T123600Z"
    assert found.headers["Authorization"] == (
        "AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/20150830/us-east-1/service/aws4_request, "
        f"SignedHeaders={headers}, Signature={signature}"
    )


def test_a_session_token_is_signed_too() -> None:
    auth = AWS + '  session_token: "${ secrets.session }"\n'
    found = sent(crm(auth, f"{{{FORM_BODY}}}", at=IN_2015, **AWS_SECRETS))
    assert found.headers["X-Amz-Security-Token"] == "session-token"
    assert found.headers["Authorization"].endswith("233f40efb422d90de4a8f214a1aa3e95cf3e97f4c7cca529ccf5d7680e53005b")


def test_s3_wants_the_hash_of_the_body_in_a_header_and_its_path_encoded_once() -> None:
    request = "{method: PUT, url: 'https://bucket.s3.amazonaws.com/a%20b/c%2Fd', text: hello}"
    found = sent(crm(AWS.replace("service: service", "service: s3"), request, at=IN_2015, **AWS_SECRETS))
    assert found.headers["X-Amz-Content-Sha256"] == HASHED(b"hello").hexdigest()
    assert found.headers["Authorization"].endswith("92d4f99d9d34d125d1f68f4417a193f93583e15e01816b88876c4cca3a4c0fd9")


# --- log-ins ---

SIGNED_LOG_IN = """
  sign:
    assertion: {type: jwt, algorithm: HS256, key: "${ secrets.key }", claims: {iss: me, jti: "${ nonce }"}}
    body: {type: hash, algorithm: sha256, text: "${ request.body }"}
  token:
    request: {url: 'https://api.crm.example/token', form: {assertion: "${ sign.assertion }"}}
    save: {value: "${ response.body.token }"}
    place: {headers: {X-Body: "${ sign.body }"}, query: {app: "${ secrets.app }"}}
  place: {headers: {Authorization: "Bearer {{ token.value }}"}}
"""


def test_a_log_in_is_signed_as_a_value_and_over_the_finished_request() -> None:
    vendor = Vendor(reply(200, {"token": "t-1234"}), reply(200, {}))
    shop = crm(SIGNED_LOG_IN, key="a secret of thirty-two bytes! :-)", app="app-1", vendor=vendor)
    assert sent(shop).headers["Authorization"] == "Bearer t-1234"
    log_in = vendor.asked[0]
    (assertion,) = parse_qs((log_in.content or b"").decode())["assertion"]
    key = OctKey.import_key(b"a secret of thirty-two bytes! :-)")
    assert claims_of(assertion, "HS256", key)[1] == {"iss": "me", "jti": "n1"}
    assert log_in.url == "https://api.crm.example/token?app=app-1"
    assert log_in.headers["X-Body"] == HASHED(log_in.content or b"").hexdigest()


# --- pages of a look-up ---


def test_each_page_of_a_look_up_is_signed_anew() -> None:
    text = """
secrets: {key: {title: Key}}
auth:
  sign: {mac: {type: hash, algorithm: sha256, text: "{{ request.url }} {{ nonce }}"}}
  place: {headers: {X-Nonce: "${ nonce }", X-Signature: "${ sign.mac }"}}
actions:
  note:
    lookups:
      person:
        key: ${ event.id }
        sources:
          all:
            request: {method: GET, path: /people}
            rows: ${ response.body.rows }
            row_key: ${ row.id }
            next: ${ response.body.next }
    record: {who: "${ lookups.person.name }"}
    request: {path: /notes, json: "${ record }"}
"""
    pages = [reply(200, {"rows": [], "next": "/v1/people?page=2"}), reply(200, {"rows": [{"id": "7", "name": "Ana"}]})]
    shop = Shop(text, vendor=Vendor(*pages, reply(200, {})), secrets={"key": "k"})
    sent(shop)
    for request, nonce in zip(shop.vendor.asked, ("n1", "n2", "n3"), strict=True):
        assert request.headers["X-Nonce"] == nonce
        assert request.headers["X-Signature"] == HASHED(f"{request.url} {nonce}".encode()).hexdigest()


# --- what can be seen before there is a key ---


@pytest.mark.parametrize(
    ("auth", "finding"),
    [
        (
            BEARER.replace("ALGORITHM", "HS256\n      key_as: pem"),
            "sign.me.key_as: HS256 is signed with a shared secret",
        ),
        (BEARER.replace("ALGORITHM", "RS256\n      key_as: hex"), "sign.me.key_as: RS256 is signed with a private key"),
        (BEARER.replace("ALGORITHM", "HS256\n      passphrase: x"), "sign.me.passphrase: the secret of HS256 has no"),
        (
            SIGNED_LOG_IN.replace("${ sign.assertion }", "${ sign.body }"),
            "token.request.form.assertion: sign.body signs the finished request, which is not there yet",
        ),
        (
            SIGNED_LOG_IN.replace("place: {headers: {X-Body", "place: {form: {X-Body"),
            "token.place.form.X-Body: what signs the finished request can't be put into its form",
        ),
        (
            "\n  type: oauth1\n  consumer_key: c\n  algorithm: RSA-SHA1",
            "sign.oauth1.algorithm: RSA-SHA1 is signed with",
        ),
    ],
)
def test_a_signer_that_can_not_work_is_found_before_it_runs(auth: str, finding: str) -> None:
    with pytest.raises(SpecErrors) as caught:
        crm(auth, key="k", app="a")
    assert f"auth.{finding}" in str(caught.value)
