# Copyright (c) 2026 The LLM Cost Tracker runbooks authors
# SPDX-License-Identifier: MIT
"""What is due and what is wrong, for hosts in one state each; clock and addresses are given."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import Any

import certificates_made as made
import pytest
from ansible.module_utils.certificates_acme import Account, Challenge
from ansible.module_utils.certificates_authority import Authority, Generation
from ansible.module_utils.certificates_consumers import Reach
from ansible.module_utils.certificates_issue import Issuer, note_revoked, take_signed
from ansible.module_utils.certificates_model import managed_from
from ansible.module_utils.certificates_planner import Plan, facts, metrics, plan
from ansible.module_utils.certificates_survey import Acme, Given, Picture, Surveyor
from cryptography import x509

DIRECTORY = "https://127.0.0.1:1/dir"
AUTHORITY = made.Authority()
OTHER = made.Authority("Other")
GOOD = AUTHORITY.pair()


def private(active: int = 1, *generations: made.Authority, **more: Any) -> Authority:
    rows = tuple(
        Generation(number, one.root_pem, one.issuing_pem, one.crl_pem(), one.root_pem, made.NOW - 30 * made.DAY)
        for number, one in enumerate(generations or (AUTHORITY,), 1)
    )
    trust = "".join(one.root_pem for one in generations or (AUTHORITY,))
    return Authority(active, trust, rows, **more)


class Site:
    """A host with one certificate, seen at a chosen moment."""

    def __init__(self, folder: Path, **more: Any) -> None:
        self.host = made.Host(folder)
        self.managed = self.host.managed(**more)
        self.given = Given((self.managed,), folder / "store", folder / "state", host="app1", reach=Reach(wait_seconds=0.1, poll_seconds=0.001),
                           authority=private())  # fmt: skip
        self.now = made.NOW

    def look(self, **given: Any) -> tuple[Picture, Plan]:
        self.given = dataclasses.replace(self.given, **given)
        picture = Surveyor(self.given, self.host.ask, lambda: self.now).look()
        return picture, plan(picture, self.given)

    def due(self, **given: Any) -> dict[str, str]:
        return {one["step"]: one["reason"] for one in self.look(**given)[1].actions}

    def told(self, **given: Any) -> set[str]:
        return {one["id"] for one in self.look(**given)[1].findings if one["severity"] != "info"}


@pytest.fixture
def site(tmp_path: Path) -> Site:
    found = Site(tmp_path)
    found.host.put(GOOD)
    return found


def test_a_good_certificate_that_is_served_only_moves_into_the_store(site: Site) -> None:
    assert set(site.due()) == {"deploy"}
    assert site.told() == set()


def test_an_external_one_is_left_where_it_is(tmp_path: Path) -> None:
    site = Site(tmp_path, issuer="external")
    (tmp_path / "roots.pem").write_text(AUTHORITY.root_pem)
    site.host.put(GOOD)
    assert site.due(trust_file=str(tmp_path / "roots.pem")) == {}
    assert site.told() == set()


@pytest.mark.parametrize(("left_days", "due"), [(31, False), (30.01, False), (29.9, True), (1, True)])
def test_it_is_due_at_a_third_of_its_life(tmp_path: Path, left_days: float, due: bool) -> None:
    site = Site(tmp_path)
    site.host.put(AUTHORITY.pair(since=made.NOW - (90 - left_days) * made.DAY, until=made.NOW + left_days * made.DAY))
    assert ("issue" in site.due()) is due
    assert ("certificate-expiring" in site.told()) is due


def test_one_that_ends_before_the_next_run_is_critical(tmp_path: Path) -> None:
    site = Site(tmp_path)
    site.host.put(AUTHORITY.pair(since=made.NOW - 80 * made.DAY, until=made.NOW + made.DAY / 2))
    severities = {one["id"]: one["severity"] for one in site.look()[1].findings}
    assert severities["certificate-expiring"] == "critical"


@pytest.mark.parametrize(("pair", "finding"), [
    pytest.param(AUTHORITY.pair(until=made.NOW - 60), "certificate-expired", id="expired"),
    pytest.param((GOOD[0], AUTHORITY.pair()[1]), "key-mismatch", id="key of another"),
    pytest.param((GOOD[0], ""), "key-empty", id="no key"),
    pytest.param(AUTHORITY.pair(("other.test",)), "certificate-name-not-covered", id="other name"),
    pytest.param(("nothing", GOOD[1]), "certificate-unreadable", id="no certificate"),
    pytest.param(OTHER.pair(), "certificate-chain-incomplete", id="authority that nobody knows"),
])  # fmt: skip
def test_what_clients_refuse_is_issued_anew(tmp_path: Path, pair: tuple[str, str], finding: str) -> None:
    site = Site(tmp_path)
    site.host.put(pair)
    assert "issue" in site.due()
    assert finding in site.told()


def test_a_lost_key_is_issued_anew(site: Site) -> None:
    site.host.key.unlink()
    assert "issue" in site.due()
    assert "key-missing" in site.told()


def test_names_that_the_inventory_does_not_have_any_more(tmp_path: Path) -> None:
    site = Site(tmp_path)
    site.host.put(AUTHORITY.pair(("tracker.test", "gone.test")))
    assert "gone.test" in site.due()["issue"]


def test_an_answer_that_is_not_the_file(site: Site) -> None:
    site.host.served("two").write_text(OTHER.pair()[0])
    assert "two" in site.due()["deploy"]
    assert "served-differs" in site.told()


def test_an_address_that_does_not_answer(site: Site) -> None:
    site.host.served("two").unlink()
    assert "endpoint-gone" in site.told()


def test_what_was_revoked_is_issued_anew(site: Site) -> None:
    serial = x509.load_pem_x509_certificates(GOOD[0].encode())[0].serial_number
    authority = private()
    listed = dataclasses.replace(authority.generations[0], crl=AUTHORITY.crl_pem(serial))
    assert "revoked" in site.due(authority=dataclasses.replace(authority, generations=(listed,)))["issue"]
    assert "certificate-revoked" in site.told()


def test_a_new_generation_signs_anew_what_the_one_before_signed(site: Site) -> None:
    assert "new generation" in site.due(authority=private(2, AUTHORITY, made.Authority("Second")))["issue"]


def test_a_published_generation_changes_nothing_yet(site: Site) -> None:
    assert "issue" not in site.due(authority=private(1, AUTHORITY, made.Authority("Second"), overlap_hours=24 * 365))


def test_a_generation_that_begins_to_sign_does_so_in_the_same_run(site: Site) -> None:
    due = site.due(authority=private(1, AUTHORITY, made.Authority("Second"), overlap_hours=24))
    assert "is trusted since" in due["authority"] and "new generation" in due["issue"]


def test_what_an_authority_of_others_signed_is_signed_anew_with_the_first_of_ours(site: Site) -> None:
    due = site.due(authority=Authority(0, "", ()))
    assert {"authority", "issue", "deploy"} == set(due)


def test_a_spent_budget_is_told_with_the_next_moment(tmp_path: Path) -> None:
    site = Site(tmp_path, issuer="acme")
    acme = Acme(Account(DIRECTORY, "ops@example.test", str(tmp_path / "accounts")), Challenge("http-01"))
    surveyor = Surveyor(dataclasses.replace(site.given, acme=acme), site.host.ask, lambda: made.NOW)
    for _ in range(5):
        surveyor.ledger.write("order", "web", ["tracker.test"], DIRECTORY)
    _, planned = site.look(acme=acme)
    spent = next(one for one in planned.findings if one["id"] == "budget-spent")
    assert "5 of 5" in spent["observed"] and "2026-" in spent["remedy"]


def test_a_clock_that_cannot_be_right(site: Site) -> None:
    surveyor = Surveyor(site.given, site.host.ask, lambda: made.NOW + 3600)
    surveyor.ledger.write("deployed", "web", ["tracker.test"], "private_ca")
    assert "clock-wrong" in site.told()


def test_files_that_are_in_no_inventory(site: Site, tmp_path: Path) -> None:
    strange = tmp_path / "etc"
    strange.mkdir()
    soon = OTHER.pair(since=made.NOW - 80 * made.DAY, until=made.NOW + made.DAY)
    (strange / "old.pem").write_text(soon[0])
    (strange / "old.key").write_text(soon[1])
    os.chmod(strange / "old.key", 0o644)
    assert {"certificate-unmanaged", "key-readable"} <= site.told(scan_paths=(str(strange),))
    assert site.told(ignored_paths=(f"{strange}/*",)) == set()


def test_issue_sign_deploy_through_the_private_authority(site: Site) -> None:
    site.host.put(AUTHORITY.pair(since=made.NOW - 80 * made.DAY, until=made.NOW + made.DAY))
    surveyor = Surveyor(site.given, site.host.ask, lambda: made.NOW)
    issuer = Issuer(surveyor)
    issuer.issue()
    request = x509.load_pem_x509_csr(issuer.requests[0]["request"].encode())
    signed = AUTHORITY.sign(request.public_key(), ("tracker.test",), made.NOW - made.DAY, made.NOW + 90 * made.DAY)
    take_signed(surveyor, {"web": signed}, AUTHORITY.issuing_pem)
    assert site.due().keys() == {"deploy"}


def test_a_killed_run_orders_nothing_twice(site: Site) -> None:
    """What was issued and not deployed is as good as issued."""
    site.host.put(AUTHORITY.pair(since=made.NOW - 80 * made.DAY, until=made.NOW + made.DAY))
    shelf = Surveyor(site.given, site.host.ask, lambda: made.NOW).shelf(site.managed)
    (shelf.open_next() / "key.pem").write_text(GOOD[1])
    shelf.put_issued(GOOD[0], "")
    assert set(site.due()) == {"deploy"}


def test_reissue_notes_what_has_to_be_revoked_also_for_a_run_after_a_crash(site: Site) -> None:
    assert {"issue", "deploy", "revoke"} == set(site.due(reissue="web"))
    surveyor = Surveyor(site.given, site.host.ask, lambda: made.NOW)
    Issuer(surveyor).issue()
    shelf = surveyor.shelf(site.managed)
    noted = [version for version, why in shelf.notes()["revoke"].items() if why]
    assert len(noted) == 1
    # A run without the input knows it too, and does not make one more key for it.
    assert "revoke" in site.due(reissue=None)
    revoker = Issuer(surveyor)
    revoker.revoke()
    assert [row["version"] for row in revoker.revoked] == noted and revoker.revoked[0]["generation"] == 1
    note_revoked(surveyor, revoker.revoked)
    assert "revoke" not in site.due()


def test_facts_and_metrics(site: Site) -> None:
    picture, _ = site.look()
    row = facts(picture, site.given)["certificates"][0]
    assert row["served"] == 2 and row["served_matches"] == 2 and row["name"] == "web"
    assert row["not_after"] == pytest.approx(made.NOW + 90 * made.DAY)
    text = metrics(picture)
    assert 'tracker_certificate_served_matches_file{certificate="web",consumer="two"} 1\n' in text
    assert f'tracker_certificate_not_after_seconds{{certificate="web",issuer="private_ca"}} {row["not_after"]:.0f}\n' in text


# --- inputs -----------------------------------------------------------------------------------------------------

ROW: dict[str, Any] = {
    "name": "web", "names": ["tracker.test"], "issuer": "acme", "key_type": "ecdsa-p256", "certificate_file": "/c", "key_file": "/k",
    "chain_file": None, "trust_file": None, "crl_file": None, "owner": "root", "group": "root", "key_mode": "0600", "client": False,
    "renew_at_fraction": None, "consumers": [],
}  # fmt: skip
CONSUMER: dict[str, Any] = {
    "name": None, "kind": "nginx", "address": "127.0.0.1:443", "server_name": None, "starttls": None, "component": None, "reload": "auto",
    "command": None,
}  # fmt: skip


@pytest.mark.parametrize(("change", "said"), [
    ({"name": "Web"}, "lower case"),
    ({"names": []}, "names is empty"),
    ({"names": ["a b"]}, "'a b' is neither"),
    ({"names": ["10.0.0.1"]}, "takes host names"),
    ({"certificate_file": "c"}, "absolute path"),
    ({"key_mode": "0644"}, "at most its group"),
    ({"key_mode": "rw"}, "octal"),
    ({"key_file": "/c"}, "each file belongs to one"),
    ({"key_type": "ed25519"}, "public authorities do not sign"),
    ({"renew_at_fraction": 1.5}, "between 0 and 1"),
    ({"consumers": [{**CONSUMER, "address": "443"}]}, "host:port"),
    ({"consumers": [{**CONSUMER, "kind": "command"}]}, "needs command"),
    ({"consumers": [{**CONSUMER, "component": "proxi"}]}, "tracker_components has proxy"),
    ({"consumers": [{**CONSUMER, "kind": "app"}]}, "set component"),
])  # fmt: skip
def test_inputs_that_make_no_sense(change: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        managed_from([{**ROW, **change}], ["proxy"])


def test_two_of_one_name_and_two_on_one_file() -> None:
    with pytest.raises(ValueError, match="two of this name") as error:
        managed_from([ROW, ROW], [])
    assert "/c is a file of web too" in str(error.value)
