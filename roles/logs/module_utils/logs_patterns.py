# Copyright (c) 2026 The LLM Cost Tracker runbooks authors
# SPDX-License-Identifier: MIT
"""Secrets and personal data as they stand in logs: how they are found, and how they are masked.

Most of a log holds none, so it is first asked whether one of a few fixed words (needles) is there at all; an exact
pattern is tried only where one stands. Nothing here hands out a value: excerpts and copies hold masks.
"""

from __future__ import annotations

import bisect
import json
import math
import operator
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Callable

CREDENTIAL, PROMPT, PERSONAL = "credential", "prompt", "personal"
SEVERITIES = {CREDENTIAL: "critical", PROMPT: "warning", PERSONAL: "info"}
REDACTED = b"[redacted]"
HIDDEN = "***"
# Nothing that is looked for is longer, but a private key of unusual size, whose beginning is enough to find it.
LONGEST_BYTES = 16 * 1024
# Small enough to stay in the processor's cache while it is looked through.
PIECE_BYTES = 192 * 1024


@dataclass(frozen=True, eq=False)
class Kind:
    """One kind of what must not be in a log.

    `needles` are lower case, or as they must be written where they have capitals; `pattern` is tried where one
    stands, and its group `value` is what must not be seen. `before` has to match right before the needle, `until` tells
    where a value ends that has no end of its own. `signs` are the needles as fold() leaves them, where more is known of
    them, `required` is a byte without which there is no hit. `fits` judges the value where the pattern is loose.
    """

    id: str
    title: str
    needles: tuple[bytes, ...]
    pattern: re.Pattern[bytes]
    group: str = CREDENTIAL
    before: re.Pattern[bytes] | None = None
    until: Callable[[bytes, int], int] | None = None
    signs: tuple[bytes, ...] = ()
    required: bytes = b""
    fits: Callable[[bytes], bool] | None = None
    ends_shown: bool = True

    @property
    def severity(self) -> str:
        return SEVERITIES[self.group]


@dataclass(frozen=True)
class Hit:
    """Where in the data a kind was found: the whole match, and the part of it that must not be seen."""

    kind: Kind
    start: int
    end: int
    value_start: int
    value_end: int


# --- shapes ------------------------------------------------------------------------------------------------------

_MASKED = re.compile(
    rb"(?i)\*{3}|x{6,}|\.{3}|\xe2\x80\xa6|\A\W?(?:redacted|masked|hidden|filtered|removed)\W?\Z|\A\[redacted\]"
)
_PLACEHOLDER = re.compile(
    rb"(?i)(?:<[^>]*>?|\$.*|\{.*|%[(s].*|none|null|nil|true|false|undefined|str(?:ing)?|secretstr.*|required|missing|"
    rb"invalid|empty|unset|example|changeme|\[\]|bytes|\d+\.\d+)"
)
_UUID = re.compile(rb"(?i)[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
_ID = re.compile(rb"(?i)(?:[0-9a-f]{2,}-?)+")
_ATTRIBUTE = re.compile(
    rb"(?:self|cls|args|kwargs|os|settings|config|cfg|conf|env|request|options|params|credentials?)\.[A-Za-z_]"
)
_NUMBER = re.compile(rb"(?i)[0-9._:+-]+(?:e[+-]?\d+)?|[+-]?(?:nan|infinity)")


def entropy_bits(value: bytes) -> float:
    """Return the entropy of a value's beginning in bits for each byte: words have about 3, keys more than that."""
    value = value[:64]
    return -sum(n / len(value) * math.log2(n / len(value)) for n in Counter(value).values())


def real(value: bytes) -> bool:
    """Return whether it can be a value at all, and not a mask, a placeholder or a literal of a language."""
    return bool(value) and not _MASKED.search(value) and not _PLACEHOLDER.fullmatch(value)


def random_looking(value: bytes) -> bool:
    """Return whether it looks like a key: letters and digits without a pattern. An identifier in hex does too."""
    return (
        len(value) >= 12
        and bool(re.search(rb"[0-9]", value) and re.search(rb"[A-Za-z]", value))
        and entropy_bits(value) >= 2.8
        and not _NUMBER.fullmatch(value)
        and not _ATTRIBUTE.match(value)
        and real(value)
    )


def key_not_id(value: bytes) -> bool:
    """Return whether it looks like a key and not like what traces, requests and sums are named by."""
    return random_looking(value) and not _UUID.search(value) and not _ID.fullmatch(value) and entropy_bits(value) >= 3


# What a traceback shows of the code: a name, an attribute, a call.
_CODE = re.compile(rb"[/(\[]|[\w.]+[(\[]|(?:[A-Za-z]\w*_)?passw(?:or)?d(?:_\w*)?[,)]?\Z")


def password(value: bytes) -> bool:
    """Return whether it can be a password. A path, code and a plain number are none."""
    return real(value) and not _CODE.match(value) and not _ATTRIBUTE.match(value)


def plain_password(value: bytes) -> bool:
    return password(value) and not _NUMBER.fullmatch(value)


def url_password(value: bytes) -> bool:
    # http://host:8080?mail=a@b has no password, but a port.
    return real(value) and not re.match(rb"\d{1,5}[?#]", value)


def prose_password(value: bytes) -> bool:
    """Return whether what follows `password: ` without quotes is one, and not the next word of a sentence."""
    return plain_password(value) and not re.fullmatch(rb"[A-Z]?[a-z]+[.!,]?", value)


def key_body(value: bytes) -> bool:
    return bool(re.search(rb"[A-Za-z0-9+/=]{40}", value))


def statement(value: bytes) -> bool:
    return not value.strip().startswith((REDACTED, HIDDEN.encode()))


def prose_in_parameters(value: bytes) -> bool:
    """Return whether one of a statement's parameters is a text of several words."""
    texts = re.findall(rb"= '((?:[^']|''){16,}?)(?:'(?!')|\Z)", value)
    return any(text.count(b" ") >= 2 and text[:1] not in b"{[" for text in texts)


def statement_end(data: bytes, place: int) -> int:
    """Return where the statement at `place` ends: with its JSON string, or its line and those that it goes on with.

    The server begins a line that goes on with a tab.
    """
    start = data.rfind(b"\n", 0, place) + 1
    if data[start : start + 1] == b"{":
        found = re.compile(rb"(?:[^\"\\\n]|\\[^\n])*").match(data, place)
        return found.end() if found else place
    end = data.find(b"\n", place)
    while end >= 0 and data[end + 1 : end + 2] == b"\t":
        end = data.find(b"\n", end + 1)
    return len(data) if end < 0 else end


_ROLE_ACCOUNT = re.compile(
    rb"(?i)(?:no-?reply|do-?not-?reply|root|postmaster|mailer-daemon|nobody|postgres|git|www-data|redis|daemon)@"
)
_UNIT_OR_FILE = re.compile(
    rb"(?i)\.(?:service|timer|socket|slice|mount|scope|target|path|device|local|internal|localdomain|lan|png|jpe?g|gif|svg|"
    rb"webp|js|css|py|json|ya?ml|conf|log)"
)


def personal_address(value: bytes) -> bool:
    """Return whether a mail address can be that of a person, and is not a unit of systemd or a file's name."""
    found = _UNIT_OR_FILE.search(value)
    return not _ROLE_ACCOUNT.match(value) and not (found and found.end() == len(value))


# --- kinds -------------------------------------------------------------------------------------------------------

_START = rb"(?<![A-Za-z0-9_-])"
_END = rb"(?![A-Za-z0-9_-])"
_IS = rb"[\"'\\]{0,4}[ \t]{0,2}(?:=>|[:=])[ \t]{0,2}b?"
# A value in quotes goes to the quote that ends it, with the escapes of JSON, of JSON in JSON and of Python in it.
_IN_QUOTES = (
    rb"(?:\"(?P<value1>(?:[^\"\\\n]|\\[^\n]){1,512})\"|\\\"(?P<value2>(?:[^\"\\\n]|\\\\\\\"|\\\\|\\[^\"\\\n]){1,512}?)\\\""
    rb"|'(?P<value3>(?:[^'\"\\\n]|\\[^\n]){1,512})')"
)
_BARE = rb"(?P<value>(?:[^\s\"'\\,;&)}\]<>]|\\u[0-9a-fA-F]{4}|\\\\){1,256})"
_WORD = rb"(?i)(?:passw(?:or)?d|passphrase)"
_NAMES_OF_IT = "password passwd passphrase"
_KEY = rb"[\"'\\]{0,4}(?P<value>[A-Za-z0-9._~+/=:-]{8,512})"


def _words(words: str) -> tuple[bytes, ...]:
    return tuple(word.encode() for word in words.split())


def _kind(id: str, title: str, needles: str, pattern: bytes, **more: object) -> Kind:
    return Kind(id, title, _words(needles), re.compile(pattern), **more)  # type: ignore[arg-type]


def _token(id: str, title: str, needles: str, pattern: bytes, **more: object) -> Kind:
    """Return a kind whose value begins with the needle and stands alone."""
    return _kind(id, title, needles, _START + rb"(?P<value>" + pattern + rb")" + _END, **more)


def _named(id: str, title: str, names: str, value: bytes, **more: object) -> Kind:
    """Return a kind whose value is assigned to one of the names."""
    signs = tuple(name + b":" for name in _words(names))
    pattern = rb"(?i)(?:" + b"|".join(_words(names)) + rb")" + _IS + value
    return _kind(id, title, names, pattern, signs=signs, **more)


_WRITES = rb"(?i)(?:insert\s{1,4}into|update)\s{1,4}(?:[\w\"\\]{1,40}\.)?[\"\\]{0,2}\Z"

# Of two that overlap the earlier one counts.
KINDS: tuple[Kind, ...] = (
    Kind("private-key", "private key", (b"private key",), re.compile(
        rb"PRIVATE KEY(?: BLOCK)?-----(?P<value>(?:[A-Za-z0-9+/=\s]|\\{1,3}[nrt]|(?:Proc-Type|DEK-Info): ?[\w,-]{1,80}){40,24000})"),
        before=re.compile(rb"-----BEGIN [A-Z ]{0,24}\Z"), fits=key_body, ends_shown=False),
    _token("anthropic-key", "Anthropic API key", "sk-ant-", rb"sk-ant-[\w-]{16,256}", fits=random_looking),
    _token("openai-key", "OpenAI API key", "sk-", rb"sk-(?:proj-|svcacct-|admin-|or-v1-)?[\w-]{20,256}", fits=random_looking),
    _token("google-key", "Google API key", "AIza", rb"AIza[\w-]{35}"),
    _token("aws-key", "AWS access key id", "AKIA ASIA", rb"A[KS]IA[A-Z0-9]{16}"),
    _token("github-token", "GitHub token", "ghp_ gho_ ghu_ ghs_ ghr_ github_pat_",
           rb"(?:gh[pousr]_[A-Za-z0-9]{30,255}|github_pat_\w{36,255})", fits=real),
    _token("gitlab-token", "GitLab token", "glpat-", rb"glpat-[\w.-]{20,128}", fits=real),
    _token("slack-token", "Slack token", "xox xapp-", rb"(?:xox[abeoprs]|xapp)-[A-Za-z0-9-]{10,255}", fits=random_looking),
    _kind("slack-webhook", "Slack webhook", "hooks.slack.com",
          rb"(?i)hooks\.slack\.com\\?/(?:services|workflows|triggers)\\?/(?P<value>[A-Za-z0-9_/\\-]{20,255})", fits=real),
    _token("stripe-key", "Stripe key", "sk_live_ rk_live_", rb"[sr]k_live_[A-Za-z0-9]{16,255}", fits=real),
    _token("hugging-face-token", "Hugging Face token", "hf_", rb"hf_[A-Za-z0-9]{30,64}", fits=random_looking),
    _token("groq-key", "Groq API key", "gsk_", rb"gsk_[A-Za-z0-9]{30,128}", fits=random_looking),
    _token("xai-key", "xAI API key", "xai-", rb"xai-[A-Za-z0-9]{30,128}", fits=random_looking),
    _kind("jwt", "JSON Web Token", "eyJ", rb"(?<![\w.-])(?P<value>eyJ[\w-]{10,4096}\.[\w-]{10,8192}\.[\w-]{10,2048})"),
    _kind("url-password", "password in a URL", "://",
          rb"://[^\s/:@'\"\\]{0,64}:(?P<value>[^\s/'\"\\<>]{1,128})@(?=[\w.\[%-])", required=b"@", fits=url_password, ends_shown=False),
    _named("pagerduty-key", "PagerDuty key", "routing_key service_key integration_key",
           rb"[\"'\\]{0,4}(?P<value>[A-Za-z0-9+_-]{20,32})" + _END, fits=random_looking),
    _kind("pagerduty-token", "PagerDuty token", "token=",
          rb"(?i)(?<=token )token=[\"\\]{0,4}(?P<value>[\w+-]{18,40})", fits=random_looking),
    _named("azure-key", "Azure key", "subscription-key accountkey sharedaccesskey", _KEY, fits=random_looking),
    _kind("authorization", "Authorization header", "authorization",
          rb"(?i)authorization[\"'\\]{0,4}\s{0,2}[:=,]\s{0,2}b?[\"'\\]{0,4}(?:bearer|basic|token|apikey)\s{1,4}"
          rb"(?P<value>[A-Za-z0-9._~+/=-]{8,4096})", fits=real),
    _named("api-key", "API key", "api_key apikey api-key access_key accesskey secret_key secretkey", _KEY, fits=random_looking),
    _named("secret", "secret", "secret", _KEY, fits=key_not_id),
    _named("token", "token", "token", rb"[\"'\\]{0,4}(?P<value>[A-Za-z0-9._~+/=-]{16,512})", fits=key_not_id),
    _kind("password", "password", _NAMES_OF_IT, _WORD + rb"(?:" + _IS + rb"|\s{1,4}(?='))" + _IN_QUOTES,
          fits=password, ends_shown=False),
    _kind("password", "password", _NAMES_OF_IT, _WORD + rb"[\"'\\]{0,4}=" + _BARE, fits=plain_password, ends_shown=False),
    # Packages are named passwd:amd64, files /etc/passwd:7.
    _kind("password", "password", "password passphrase", rb"(?i)(?:password|passphrase)[\"'\\]{0,4} ?: ?" + _BARE,
          fits=prose_password, ends_shown=False),
    _kind("prompt-statement", "prompt in a statement", "llm_usage_logs",
          rb"(?i)llm_usage_logs[\"\\]{0,2}(?:[^;\n]|\n\t){1,2000}?(?:prompt_text|response_text)(?:[^;\n]|\n\t){0,2000}?"
          rb"(?:\bvalues?\b|=\s{0,2}E?(?='))(?P<value>)",
          group=PROMPT, before=re.compile(_WRITES), until=statement_end, fits=statement, ends_shown=False),
    Kind("prompt-parameters", "prompt in the parameters of a statement", (b"arameters: $",),
         re.compile(rb"arameters: (?=\$\d{1,3} = )(?P<value>)"),
         group=PROMPT, required=b"$", until=statement_end, fits=prose_in_parameters, ends_shown=False),
    _kind("mail-address", "mail address", "@",
          rb"@(?:[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?\.){1,6}[A-Za-z]{2,24}(?![A-Za-z0-9-]|\.[A-Za-z0-9])", group=PERSONAL, required=b"@",
          before=re.compile(rb"(?<![A-Za-z0-9._%+/-])[A-Za-z0-9._%+-]{1,64}\Z"), fits=personal_address, ends_shown=False),
)  # fmt: skip
TITLES = {kind.id: kind for kind in KINDS}

# --- is there anything at all ------------------------------------------------------------------------------------
# Whole blocks are looked at, so each needle costs time. Without the characters that no needle is known by, half of the
# bytes is left; with rare letters folded into one, a single pass finds all needles that have one of them.

_DROPPED = b"0123456789 \t{},.+/()\"'[]\\"
_FOLD = bytes.maketrans(bytes(range(256)), bytes(range(256)).lower().translate(bytes.maketrans(b"wxzjqg=", b"kkkkkh:")))
# Few places in text and in hexadecimal numbers have one of these letters, and fewer go on like a needle.
_PASSES = (b"k", b"h")


def fold(data: bytes) -> bytes:
    return data.translate(_FOLD, _DROPPED)


class _Filter:
    """Says which kinds folded data may hold. It is never wrong in leaving one out."""

    def __init__(self, kinds: Sequence[Kind]) -> None:
        wanted = {kind: {fold(sign) for sign in kind.signs or kind.needles} for kind in kinds}
        every = {sign for signs in wanted.values() for sign in signs}
        # Where the shorter of two is not, the longer one is not either.
        rest = {sign for sign in every if not any(other in sign for other in every - {sign})}
        self.owners = {sign: {kind for kind in kinds if any(sign in one for one in wanted[kind])} for sign in rest}
        self.passes: list[tuple[re.Pattern[bytes], dict[bytes, set[Kind]]]] = []
        for letter in _PASSES:
            mine = {sign for sign in rest if letter in sign}
            rest -= mine
            self.passes.append(self._pass(letter, mine))
        self.plain = sorted(rest)

    def _pass(self, letter: bytes, signs: Iterable[bytes]) -> tuple[re.Pattern[bytes], dict[bytes, set[Kind]]]:
        """Return a pattern for all signs that have the letter, and the kinds by what it matches.

        It begins with the letter, which the engine is fast at.
        """
        heads: dict[bytes, list[bytes]] = {}
        owners: dict[bytes, set[Kind]] = {}
        for sign in sorted(signs):
            head, _letter, tail = sign.partition(letter)
            heads.setdefault(tail, []).append(head)
            owners.setdefault(letter + tail, set()).update(self.owners[sign])
        parts = []
        for tail, before in heads.items():
            # What comes after the letter is asked first, and what is before it only where that is right.
            behind = [b"(?<=" + re.escape(head + letter + tail) + b")" for head in before if head]
            asked = b"(?:" + b"|".join(behind) + b")" if len(behind) == len(before) else b""
            parts.append(re.escape(tail) + asked)
        return re.compile(re.escape(letter) + b"(?:" + b"|".join(parts) + b")"), owners

    def kinds(self, folded: bytes) -> set[Kind]:
        found: set[Kind] = set()
        for pattern, owners in self.passes:
            for match in set(map(_MATCHED, pattern.finditer(folded))):
                found |= owners[match]
        for sign in self.plain:
            if sign in folded:
                found |= self.owners[sign]
        return found


_MATCHED = operator.methodcaller("group")
# What needs a rare byte is asked for by that byte.
_BYTES = {kind.required for kind in KINDS if kind.required}
_others = _Filter([kind for kind in KINDS if not kind.required])


def likely(data: bytes, folded: bytes) -> list[Kind]:
    """Return the kinds that the data may hold; usually none. `folded` is what fold() makes of it."""
    there = {byte for byte in _BYTES if byte in data}
    others = _others.kinds(folded)
    return [kind for kind in KINDS if kind.required in there or kind in others] if there or others else []


# --- hits --------------------------------------------------------------------------------------------------------


def find(data: bytes) -> list[Hit]:
    """Return what the data holds, in the order of its places. No two overlap."""
    found: list[Hit] = []
    for start, stop in pieces(data):
        piece = data[start:stop]
        for hit in find_in(piece, likely(piece, fold(piece))):
            begin, end, at = hit.start + start, hit.end + start, hit.value_start + start
            found.append(Hit(hit.kind, begin, end, at, hit.value_end + start) if start else hit)
    return found


def find_in(data: bytes, kinds: Sequence[Kind]) -> list[Hit]:
    """Return the hits of some kinds in one of the pieces of the data."""
    if not kinds:
        return []
    lower = data.lower()
    taken: list[tuple[int, int]] = []
    found: list[Hit] = []
    for kind in kinds:
        for hit in _of_kind(kind, data, lower):
            span = (hit.value_start, hit.value_end)
            place = bisect.bisect(taken, span)
            free_before = not place or taken[place - 1][1] <= span[0]
            if free_before and (place == len(taken) or span[1] <= taken[place][0]):
                taken.insert(place, span)
                found.append(hit)
    return sorted(found, key=lambda hit: hit.value_start)


def _of_kind(kind: Kind, data: bytes, lower: bytes) -> Iterator[Hit]:
    for needle in kind.needles:
        where = data if needle.lower() != needle else lower
        place = where.find(needle)
        while place >= 0:
            hit = _at(kind, data, place)
            if hit is not None and (kind.fits is None or kind.fits(data[hit.value_start : hit.value_end])):
                yield hit
            elif hit is not None and kind.until is None:
                hit = None
            # What was judged whole is not looked at again, or a long line would take for ever.
            place = where.find(needle, max(place + 1, hit.value_end if hit else 0))


def _at(kind: Kind, data: bytes, place: int) -> Hit | None:
    """Return what begins with the needle at a place, not yet judged by its shape."""
    start = place
    if kind.before is not None:
        before = kind.before.search(data, max(0, place - 120), place)
        if before is None:
            return None
        start = before.start()
    match = kind.pattern.match(data, place)
    if match is None:
        return None
    begin, end = _value_span(match, start)
    if kind.until is not None:
        end = kind.until(data, begin)
    return Hit(kind, start, max(match.end(), end), begin, end) if end > begin else None


def _value_span(match: re.Match[bytes], start: int) -> tuple[int, int]:
    for name in ("value", "value1", "value2", "value3"):
        if name in match.re.groupindex and match[name] is not None:
            return match.span(name)
    return start, match.end()


# --- masks -------------------------------------------------------------------------------------------------------


def mask(value: bytes) -> str:
    """Return what may be shown of a value: its first 4 and last 2 characters where it is long, else nothing of it."""
    if len(value) < 20:
        return HIDDEN
    first, last = (re.sub(rb"[^A-Za-z0-9_-]", b"", part).decode("ascii") for part in (value[:4], value[-2:]))
    return f"{first}{HIDDEN}{last}"


def excerpt(data: bytes, hit: Hit, hits: Sequence[Hit], most: int = 80) -> str:
    """Return the line around a hit, with all that was found in it masked, in at most `most` characters."""
    begin = max(data.rfind(b"\n", 0, hit.value_start) + 1, hit.start - 200)
    end = data.find(b"\n", hit.value_start)
    end = min(len(data) if end < 0 else end, hit.value_end + 200)
    first = bisect.bisect_left([each.value_end for each in hits], begin)
    before, after, text, at = "", "", "", begin
    for each in hits[first:]:
        if each.value_start > end:  # a key begins with the end of its first line
            break
        text += _shown(data[at : each.value_start])
        shown = mask(data[each.value_start : each.value_end]) if each.kind.ends_shown else HIDDEN
        if each is hit:
            before, text = text, ""
            after = shown
        else:
            text += shown
        at = max(at, each.value_end)
    rest = text + _shown(data[at : max(at, end)])
    room = max(0, most - len(after))
    left = before[-(room * 2 // 3) :] if room else ""
    return (left + after + rest[: room - len(left)]).strip()


def _shown(data: bytes) -> str:
    return "".join(c if c.isprintable() else " " for c in data.decode("utf-8", "replace"))


def redact(data: bytes) -> tuple[bytes, int]:
    """Return the data with all that was found in it masked, and how much that was.

    There are as many lines as before, and a line that was JSON is JSON. Text in UTF-16 is found and masked too.
    """
    parts, count = [], 0
    for start, stop in pieces(data):
        piece, number = _redact_piece(data[start:stop])
        parts.append(piece)
        count += number
    return b"".join(parts), count


def pieces(data: bytes, end: int | None = None) -> Iterator[tuple[int, int]]:
    """Yield where the data up to `end` is cut: at the ends of lines, and not inside of what goes over several."""
    end = len(data) if end is None else end
    start = 0
    while start < end:
        stop = start
        wanted = PIECE_BYTES
        while stop < end:
            stop = data.find(b"\n", start + wanted, end) + 1 or end
            while stop < end and data[stop : stop + 1] == b"\t":
                stop = data.find(b"\n", stop, end) + 1 or end
            if not open_key(data[max(start, stop - LONGEST_BYTES) : stop]):
                break
            wanted = stop - start
        yield start, stop
        start = stop


def whole_lines(data: bytes) -> int:
    """Return how many bytes at the start of the data are whole lines, without a private key that goes on after them."""
    cut = data.rfind(b"\n") + 1
    start = max(0, cut - LONGEST_BYTES)
    key = open_key(data[start:cut])
    return data.rfind(b"\n", 0, start + key - 1) + 1 if key else cut


_KEY_LINE = re.compile(rb"[A-Za-z0-9+/=\s]*|\s*(?:Proc-Type|DEK-Info): ?[\w,-]*\s*")


def open_key(data: bytes) -> int:
    """Return the place after the beginning of a private key's first line where its last line is yet to come, or 0."""
    found = data.rfind(b"PRIVATE KEY")
    if found < 0 or data.rfind(b"-----BEGIN ", max(0, found - 40), found) < 0 or b"-----END" in data[found:]:
        return 0
    lines = data[found:].split(b"\n")[1:]
    return found if lines and all(_KEY_LINE.fullmatch(line) for line in lines) else 0


def _redact_piece(piece: bytes) -> tuple[bytes, int]:
    kept = piece.replace(b"\0", b"")
    hits = find(kept)
    if not hits:
        return piece, 0
    # Where each byte stands among the NULs that were left out.
    places = range(len(piece)) if len(kept) == len(piece) else [i for i, byte in enumerate(piece) if byte]
    parts, at = [], 0
    for hit in hits:
        begin, end = places[hit.value_start], places[hit.value_end - 1] + 1
        parts += [piece[at:begin], _masked_copy(piece[begin:end])]
        at = end
    done = b"".join(parts) + piece[at:]
    return _still_json(piece, done), len(hits)


def _masked_copy(value: bytes) -> bytes:
    """Return what stands in a copy for a value: as many lines, and two bytes a character where the value has them."""
    wide = b"\0" in value
    word = b"\0".join(REDACTED[i : i + 1] for i in range(len(REDACTED))) if wide else REDACTED
    return b"\n".join(
        word if line.strip(b"\0\r\t ") or not number else line for number, line in enumerate(value.split(b"\n"))
    )


def _still_json(before: bytes, after: bytes) -> bytes:
    """Return the lines of `after`, those made anew that were JSON before and are not any more."""
    old, new = before.split(b"\n"), after.split(b"\n")
    for number, line in enumerate(old):
        if line != new[number] and line.lstrip()[:1] in (b"{", b"[") and _json(new[number]) is None:
            value = _json(line)
            if value is not None:
                new[number] = json.dumps(_masked_json(value[0])).encode()
    return b"\n".join(new)


def _json(line: bytes) -> tuple[object] | None:
    try:
        return (json.loads(line),)
    except (ValueError, RecursionError):
        return None


def _masked_json(value: object) -> object:
    if isinstance(value, dict):
        return {_masked_text(str(key)): _masked_pair(str(key), item) for key, item in value.items()}
    if isinstance(value, list):
        return [_masked_json(item) for item in value]
    return _masked_text(value) if isinstance(value, str) else value


def _masked_pair(name: str, value: object) -> object:
    """Return what stands for a value whose name may be what makes it a secret, whatever its type."""
    masked = _masked_json(value)
    if masked == value and not isinstance(value, (dict, list)):
        with_value, without = (len(find(json.dumps({name: one}).encode())) for one in (value, None))
        return REDACTED.decode() if with_value > without else value
    return masked


def _masked_text(text: str) -> str:
    data = text.encode("utf-8", "surrogatepass")
    hits, parts, at = find(data), [], 0
    for hit in hits:
        parts += [data[at : hit.value_start], REDACTED]
        at = hit.value_end
    return (b"".join(parts) + data[at:]).decode("utf-8", "replace") if hits else text
