# Copyright (c) 2026 The LLM Cost Tracker runbooks authors
# SPDX-License-Identifier: MIT
"""A corpus of certificates and keys, each judged exactly; chains are brought into order, and OpenSSL agrees."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
from ansible.module_utils.certificates_files import scan
from ansible.module_utils.certificates_judge import Fault, Policy, judge, order, verify_chain
from ansible.module_utils.certificates_keys import KeyError_, KeyInfo, read_key
from ansible.module_utils.certificates_x509 import Certificate, CertificateError, parse_chain, parse_der, to_pem
from ansible.module_utils.runbook_tools import ToolError, ToolMissing, Tools
from certificates_corpus import DAY, NAME, NOW, THEN, Case, Issued, cases, intermediate, issue, leaf, private, root
from cryptography.hazmat.primitives import serialization

CORPUS = cases()


def parsed(*issued: Issued) -> list[Certificate]:
    return [parse_der(one.der) for one in issued]


def codes(faults: list[Fault]) -> list[str]:
    return sorted(fault.code for fault in faults)


def classify(case: Case, folder: Path) -> set[str]:
    """Return the codes of everything that scan, read_key, parse_chain and judge find in a pair of files."""
    certificate, key_path = case.write(folder)
    found = {fault for row in scan([str(folder)], read_keys=True) for fault in row.faults}
    key, chain = None, []
    try:
        key = read_key(key_path)
    except KeyError_ as error:
        found.add(error.code)
    try:
        chain = parse_chain(certificate.read_bytes())
    except CertificateError as error:
        found.add(error.code)
    except OSError:
        assert found
    if chain:
        found |= {fault.code for fault in judge(chain, key, case.names, NOW, trust=parsed(*case.trust), client=case.client)}
    return found


@pytest.mark.parametrize("case", CORPUS, ids=lambda case: case.name)
def test_the_corpus_is_classified(case: Case, tmp_path: Path) -> None:
    assert classify(case, tmp_path) == case.expected


def test_the_corpus_is_large_and_its_names_are_unique() -> None:
    assert len(CORPUS) >= 100
    assert len({case.name for case in CORPUS}) == len(CORPUS)


VERIFIED = [case for case in CORPUS if not case.client and case.expected <= {"expired", "not-yet-valid", "chain-incomplete", "wrong-usage",
            "chain-expired", "chain-not-yet-valid", "long-lifetime"}]  # fmt: skip


@pytest.mark.parametrize("case", VERIFIED, ids=lambda case: case.name)
def test_openssl_agrees_about_chains_and_dates(case: Case, tmp_path: Path) -> None:
    certificate, _ = case.write(tmp_path)
    chain = parse_chain(certificate.read_bytes())
    trust = tmp_path / "trust"
    good_with_another_root = [one for one in chain if one.self_signed]
    trust.write_text("".join(pem(one) for one in [*parsed(*case.trust), *good_with_another_root]))
    said = verify_chain(pem(chain[0]), "".join(pem(one) for one in chain[1:]), str(trust), NOW)
    assert bool(said) == bool(case.expected - {"long-lifetime"}), said


def pem(one: Certificate) -> str:
    return str(to_pem(one.der))


def test_nothing_to_judge() -> None:
    assert codes(judge([], None, [NAME], NOW)) == ["empty"]
    assert order([]) == []


def test_without_known_roots_an_intermediate_is_enough() -> None:
    assert codes(judge(parsed(leaf(), intermediate()), None, [NAME], NOW)) == []
    assert codes(judge(parsed(leaf()), None, [NAME], NOW)) == ["chain-incomplete"]


def test_each_name_has_its_fault() -> None:
    faults = judge(parsed(leaf(root())), None, [NAME, "a.example.org", "10.0.0.1", "a.example.org"], NOW)
    assert [fault.detail.split()[0] for fault in faults if fault.code == "name-not-covered"] == ["a.example.org", "10.0.0.1"]


def test_the_policy_decides() -> None:
    chain = parsed(leaf(root(), kind="rsa-2048"))
    assert codes(judge(chain, None, [NAME], NOW, Policy(min_rsa_bits=3072), trust=parsed(root()))) == ["weak-key"]
    assert codes(judge(chain, None, [NAME], NOW, Policy(forbidden_hashes=("sha256",)), trust=parsed(root()))) == ["weak-signature"]
    chain = parsed(leaf(root(), kind="k256"))
    assert codes(judge(chain, None, [NAME], NOW, Policy(allowed_curves=("secp256k1", "secp256r1")), trust=parsed(root()))) == []
    chain = parsed(leaf(root(), end=THEN + 60 * DAY))
    assert codes(judge(chain, None, [NAME], NOW, Policy(long_lifetime_seconds=47 * 86400), trust=parsed(root()))) == ["long-lifetime"]


def test_severities() -> None:
    chain = parsed(issue(NAME, end=THEN + 900 * DAY))
    assert {fault.code: fault.severity for fault in judge(chain, None, [NAME], NOW)} == {"self-signed": "info", "long-lifetime": "info"}
    assert judge(parsed(leaf(end=THEN - DAY), intermediate()), None, [], NOW)[0].severity == "error"


@pytest.mark.parametrize(("seconds", "expected"), [(-1, []), (0, []), (1, ["expired"])])
def test_the_last_second_is_valid(seconds: int, expected: list[str]) -> None:
    one = leaf(root(), end=THEN)
    assert codes(judge(parsed(one), None, [NAME], NOW + seconds, trust=parsed(root()))) == expected


def test_an_unread_key_is_not_judged() -> None:
    chain = parsed(leaf(), intermediate())
    assert codes(judge(chain, KeyInfo("", 0, "", "pkcs8", True), [NAME], NOW)) == []


def test_what_openssl_says_counts_where_nothing_else_explains_it() -> None:
    chain = parsed(leaf(), intermediate())
    assert codes(judge(chain, None, [NAME], NOW, verified="")) == []
    assert codes(judge(chain, None, [NAME], NOW, verified="certificate signature failure")) == ["not-verified"]
    assert codes(judge(parsed(leaf()), None, [NAME], NOW, verified="unable to get local issuer certificate")) == ["chain-incomplete"]


def test_every_order_is_put_right() -> None:
    two = intermediate(2, 0)
    right = [leaf(two), two, intermediate(), root()]
    for shuffled in itertools.permutations(right):
        assert order(parsed(*shuffled)) == parsed(*right)
        expected = [] if list(shuffled) == right else ["chain-order"]
        assert codes(judge(parsed(*shuffled), None, [NAME], NOW, trust=parsed(root()))) == expected


def test_strangers_are_last_and_nothing_is_lost() -> None:
    mixed = parsed(intermediate(5), intermediate(), leaf(), root(7))
    assert order(mixed) == [mixed[2], mixed[1], mixed[0], mixed[3]]


def test_the_key_says_which_is_the_leaf() -> None:
    first, second = leaf(root(), number=11), leaf(root(), number=12)
    spki = read_key(second.key_pem).spki_sha256
    assert order(parsed(first, second), spki)[0].spki_sha256 == spki
    assert codes(judge(parsed(first, second), read_key(second.key_pem), [NAME], NOW, trust=parsed(root()))) == ["chain-foreign"]


def test_of_two_issuers_with_one_name_the_one_with_the_right_key_is_taken() -> None:
    other = issue("Example Intermediate 0", root(), number=77, ca=True)
    chain = parsed(leaf(), other, intermediate())
    assert order(chain) == [chain[0], chain[2], chain[1]]


def test_nothing_comes_after_a_root() -> None:
    renewed = issue("Example Root 0", number=100, ca=True, end=THEN + 9000 * DAY)
    chain = parsed(leaf(root()), root(), renewed)
    assert codes(judge(chain, None, [NAME], NOW, trust=parsed(root()))) == ["chain-foreign"]


def test_a_ring_of_issuers_ends() -> None:
    one = issue("Ring A", issue("Ring B", number=21, ca=True), number=20, ca=True)
    two = issue("Ring B", issue("Ring A", number=20, ca=True), number=21, ca=True)
    chain = parsed(leaf(one), one, two)
    assert order(chain) == chain
    assert "chain-incomplete" in codes(judge(chain, None, [NAME], NOW, trust=parsed(root())))


def test_cross_signed_intermediates() -> None:
    crossed = issue("Example Intermediate 0", root(7), number=200, ca=True)
    chain = parsed(leaf(), crossed)
    assert codes(judge(chain, None, [NAME], NOW, trust=parsed(root(7)))) == []
    assert codes(judge(chain, None, [NAME], NOW, trust=parsed(root()))) == ["chain-incomplete"]


def test_a_broken_signature_is_seen_by_openssl_only(tmp_path: Path) -> None:
    der = bytearray(leaf(root(), kind="rsa-2048").der)
    der[-3] ^= 1
    trust = tmp_path / "trust.pem"
    trust.write_bytes(root().pem)
    assert codes(judge([parse_der(bytes(der))], None, [NAME], NOW, trust=parsed(root()))) == []
    assert "signature" in verify_chain(to_pem(bytes(der)), "", str(trust), NOW)


def test_purposes(tmp_path: Path) -> None:
    trust = tmp_path / "trust.pem"
    trust.write_bytes(root().pem)
    one = leaf(root()).pem.decode()
    assert verify_chain(one, "", str(trust), NOW) == ""
    assert "purpose" in verify_chain(one, "", str(trust), NOW, "sslclient")


def test_words_about_files_keep_our_paths_to_themselves(tmp_path: Path) -> None:
    (tmp_path / "trust.pem").write_bytes(root().pem)
    said = verify_chain("no certificate", "", str(tmp_path / "trust.pem"), NOW)
    assert said
    assert "certificates-" not in said
    assert verify_chain(leaf(root()).pem.decode(), "", str(tmp_path / "none.pem"), NOW)


def test_an_openssl_that_does_not_answer_is_no_verdict(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "openssl").write_text("#!/bin/sh\nexec sleep 60\n")
    (tmp_path / "openssl").chmod(0o755)
    monkeypatch.setattr("ansible.module_utils.certificates_judge.VERIFY_SECONDS", 0.2)
    with pytest.raises(ToolError):
        verify_chain("", "", "/dev/null", NOW, tools=Tools(bin_dir=str(tmp_path)))

    def missing(self: Tools, program: str) -> str:
        raise ToolMissing(program)

    monkeypatch.setattr(Tools, "path", missing)
    with pytest.raises(ToolMissing):
        verify_chain("", "", "/dev/null", NOW)


def test_the_keys_of_the_corpus_are_what_cryptography_says() -> None:
    for kind in ("p256", "rsa-2048", "ed25519"):
        public = private(kind).public_key().public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
        assert leaf(root(), kind=kind).der.count(public) == 1
