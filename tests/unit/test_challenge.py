"""What servers ask for in WWW-Authenticate, in the ways they write it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from seawall.challenge import Challenge, parse_challenges


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ("", []),
        ("Basic", [("basic", {})]),
        ('Basic realm="a, b"', [("basic", {"realm": "a, b"})]),
        ('BEARER Realm="https://t/token",SERVICE="s"', [("bearer", {"realm": "https://t/token", "service": "s"})]),
        ("Bearer realm=https://t/token", [("bearer", {"realm": "https://t/token"})]),
        ('Bearer realm = "r" , service = "s"', [("bearer", {"realm": "r", "service": "s"})]),
        ('Bearer realm="https://t/token?a=b,c=d"', [("bearer", {"realm": "https://t/token?a=b,c=d"})]),
        (r'Basic realm="say \"hi\", \\o/"', [("basic", {"realm": r'say "hi", \o/'})]),
        ('Basic realm="x", Bearer realm="y"', [("basic", {"realm": "x"}), ("bearer", {"realm": "y"})]),
        (
            'Negotiate, Basic realm="x", charset="UTF-8", Digest nonce="n"',
            [("negotiate", {}), ("basic", {"realm": "x", "charset": "UTF-8"}), ("digest", {"nonce": "n"})],
        ),
        ('Bearer scope="repository:a:pull,push"', [("bearer", {"scope": "repository:a:pull,push"})]),
        ('Bearer realm="first", realm="second"', [("bearer", {"realm": "first"})]),
        ('realm="of nobody"', []),
    ],
)
def test_challenges_are_read_as_they_are_written(header: str, expected: list[tuple[str, dict[str, str]]]) -> None:
    assert parse_challenges(header) == tuple(Challenge(scheme, parameters) for scheme, parameters in expected)


def test_a_token_of_another_scheme_does_not_hide_the_next_challenge() -> None:
    found = parse_challenges('Negotiate YII+abc/d==, Basic realm="x"')
    assert [challenge.scheme for challenge in found] == ["negotiate", "basic"]
    assert found[1].parameters == {"realm": "x"}


@given(st.text())
def test_nothing_that_a_server_writes_is_an_error(header: str) -> None:
    parse_challenges(header)


@given(st.text(st.characters(codec="latin-1", exclude_categories=["Cc"])))
def test_a_quoted_value_comes_back_as_it_was(value: str) -> None:
    quoted = value.replace("\\", "\\\\").replace('"', '\\"')
    (challenge,) = parse_challenges(f'Bearer realm="{quoted}", service="s"')
    assert challenge.parameters == {"realm": value, "service": "s"}
