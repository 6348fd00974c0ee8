from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vpccni.shared.redaction import BLANK, redacted

TOKEN = b"eyJhbGciOiJSUzI1NiIsImtpZCI6IjEifQ.eyJpc3MiOiJrdWJlcm5ldGVzIn0.c2lnbmF0dXJlLW9mLWl0"
SECRET = b"wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"


@pytest.mark.parametrize(
    ("line", "secret"),
    [
        (b"Authorization: Bearer " + TOKEN, TOKEN),
        (b'{"level":"debug","detail":"header Authorization: Bearer abcdef123456789"}', b"abcdef123456789"),
        (b"aws_secret_access_key = " + SECRET, SECRET),
        (b"AWS_SECRET_ACCESS_KEY=" + SECRET, SECRET),
        (b'"SecretAccessKey" : "' + SECRET + b'", "Code": "Success"', SECRET),
        (b'{"msg":"{\\"secretAccessKey\\": \\"' + SECRET + b'\\"}"}', SECRET),
        (b"AWS_SESSION_TOKEN=IQoJb3JpZ2luX2VjEXAMPLE==", b"IQoJb3JpZ2luX2VjEXAMPLE"),
        (b"x-aws-ec2-metadata-token: AQAEAJ8xyz_-abc==", b"AQAEAJ8xyz_-abc"),
        (b"key id AKIAIOSFODNN7EXAMPLE is used", b"AKIAIOSFODNN7EXAMPLE"),
        (b"  token: abc123def456", b"abc123def456"),
        (b"client-key-data: LS0tLS1CRUdJTiBSU0E=", b"LS0tLS1CRUdJTiBSU0E="),
        (b"calicoctl --bootstrap-token abcdef.0123456789abcdef --v=2", b"abcdef.0123456789abcdef"),
        (b"GET /?X-Amz-Signature=deadbeef01&Action=x", b"deadbeef01"),
        (b"-----BEGIN RSA PRIVATE KEY-----\nMIIEow\nIBAAKC\n-----END RSA PRIVATE KEY-----\nafter", b"IBAAKC"),
        (b"-----BEGIN PRIVATE KEY-----\ncut off here", b"cut off here"),
    ],
)
def test_credentials_are_blanked(line: bytes, secret: bytes) -> None:
    clean = redacted(line)
    assert secret not in clean
    assert BLANK in clean


@pytest.mark.parametrize(
    "line",
    [
        b'vpccni_ec2_tokens_left{api="AssignPrivateIpAddresses",process="eni_manager"} 25',
        b'{"level":"info","msg":"address assigned","sandbox":"0123456789abc/eth0","address":"10.0.0.5","trace":"a1b2"}',
        b'{"cniVersion":"0.4.0","name":"aws-cni","plugins":[{"type":"aws-cni","pluginLogLevel":"Debug"}]}',
        b"from 10.0.16.1 lookup 2 proto 4",
        b'-A POSTROUTING -m comment --comment "AWS SNAT CHAIN" -j AWS-SNAT-CHAIN-0',
        b"keys: 7, basic auth is off",
    ],
)
def test_what_is_no_credential_stays_as_it_is(line: bytes) -> None:
    assert redacted(line) == line


@given(
    st.lists(
        st.sampled_from([b"token", b": ", b"=", TOKEN, SECRET, b"\n", b'"', b"Bearer ", b"AKIAIOSFODNN7EXAMPLE", b"x"]),
        max_size=8,
    )
)
def test_doing_it_again_changes_nothing(parts: list[bytes]) -> None:
    once = redacted(b"".join(parts))
    assert redacted(once) == once
    assert TOKEN not in once
