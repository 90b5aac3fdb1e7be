"""Certificates for tests of queues: the right one, and every way in which one can be wrong."""

import datetime
from dataclasses import dataclass
from pathlib import Path

import trustme

LONG_AGO = datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC)


@dataclass(frozen=True, kw_only=True)
class Certificates:
    """PEM files in `folder`: `ours.ca` and `theirs.ca`, and pairs of `NAME.pem` and `NAME.key`.

    right: ours, for 127.0.0.1. wrong: theirs. expired: ours, of 2020. elsewhere: ours, for another address.
    """

    folder: Path

    def authority(self, name: str = "ours") -> Path:
        return self.folder / f"{name}.ca"

    def certificate(self, name: str) -> Path:
        return self.folder / f"{name}.pem"

    def key(self, name: str) -> Path:
        return self.folder / f"{name}.key"


def make_certificates(folder: Path) -> Certificates:
    ours, theirs = trustme.CA(), trustme.CA()
    issued = {
        "right": ours.issue_cert("127.0.0.1"),
        "wrong": theirs.issue_cert("127.0.0.1"),
        "expired": ours.issue_cert("127.0.0.1", not_before=LONG_AGO, not_after=LONG_AGO + datetime.timedelta(days=1)),
        "elsewhere": ours.issue_cert("192.0.2.1"),
    }
    made = Certificates(folder=folder)
    for name, authority in (("ours", ours), ("theirs", theirs)):
        authority.cert_pem.write_to_path(str(made.authority(name)))
    for name, certificate in issued.items():
        certificate.cert_chain_pems[0].write_to_path(str(made.certificate(name)))
        certificate.private_key_pem.write_to_path(str(made.key(name)))
    return made
