"""``seawall doctor``: which clients can pull from a server, and why the others cannot."""

import sys
from typing import Any

import click

from seawall.clients import BY_FAULT, CLIENTS
from seawall.commands.options import as_json_option
from seawall.commands.output import count, print_json
from seawall.credentials import Credentials, DockerConfig
from seawall.diagnosis import Fault, Verdict, diagnose, facts, judge
from seawall.errors import ExitCode, InputError
from seawall.examination import examine
from seawall.observation import Observations
from seawall.reference import Reference, is_host
from seawall.terminal import print_table


@click.command("doctor")
@click.argument("url", metavar="URL")
@click.option("--image", metavar="REPO:TAG", help="The image to ask for.  [default: the first one that URL lists]")
@click.option(
    "--client",
    "names",
    metavar="NAME",
    type=click.Choice([client.name for client in CLIENTS]),
    multiple=True,
    help="Judge for this client alone.  [repeatable]",
)
@click.option(
    "--ns", "namespace", metavar="HOST", default="", help="The registry that URL is to mirror for containerd."
)
@as_json_option
def command(url: str, image: str | None, names: tuple[str, ...], namespace: str, as_json: bool) -> None:
    """Say which clients can pull from the server at URL, and why the others cannot.

    Any server will do: an origin, a bucket, a CDN, another registry. It is asked, about one image, what each kind of
    client would ask. Exit with 0 if all clients can pull, with 1 if one cannot.
    """
    if namespace and not is_host(namespace):
        raise InputError("--ns", f"{namespace!r} is not a host", "write it as docker.io or ghcr.io")
    clients = [client for client in CLIENTS if not names or client.name in names]
    reference = Reference.parse(image) if image else None
    seen = examine(url, reference, namespace=namespace, credentials=_credentials)
    faults = diagnose(seen)
    verdicts = judge(faults, clients)
    if as_json:
        print_json(_row(seen, faults, verdicts))
    else:
        _print(seen, faults, verdicts)
    sys.exit(ExitCode.OK if all(verdict.works for verdict in verdicts) else ExitCode.DOES_NOT_HOLD)


def _credentials(host: str) -> Credentials | None:
    # Read once a server asks for some: a file that is malformed is no matter before.
    return DockerConfig.load().lookup(host)


def _print(seen: Observations, faults: tuple[Fault, ...], verdicts: tuple[Verdict, ...]) -> None:
    rows = [
        (verdict.client.name if first else "", verdict.word if first else "", name, why)
        for verdict in verdicts
        for first, name, why in _reasons(verdict)
    ]
    print_table(("CLIENT", "VERDICT", "FAULT", "WHY"), rows)
    if faults:
        click.echo()
        print_table(
            ("FAULT", "REQUEST", "ANSWER", "TO DO"),
            [(fault.name, fault.request, fault.answer, BY_FAULT[fault.name].todo) for fault in faults],
        )
    known = facts(seen)
    if known and seen.reference is not None:
        click.echo()
        print_table(("FACT", ""), list(known.items()))
    working = sum(verdict.works for verdict in verdicts)
    about = f" about {seen.reference}" if seen.reference else ""
    click.echo(
        f"\n{seen.url}: {working} of {count(len(verdicts), 'client')} can pull "
        f"({count(len(faults), 'fault')}, {count(seen.requests, 'request')}{about})"
    )


def _reasons(verdict: Verdict) -> list[tuple[bool, str, str]]:
    rows = [(fault.name, f"{effect.harm}: {effect.why}") for fault, effect in verdict.effects] or [("", "")]
    return [(not number, name, why) for number, (name, why) in enumerate(rows)]


def _row(seen: Observations, faults: tuple[Fault, ...], verdicts: tuple[Verdict, ...]) -> dict[str, Any]:
    return {
        "url": seen.url,
        "reference": str(seen.reference) if seen.reference else None,
        "requests": seen.requests,
        "works": all(verdict.works for verdict in verdicts),
        "clients": [
            {
                "name": verdict.client.name,
                "title": verdict.client.title,
                "verdict": verdict.word,
                "effects": [
                    {"fault": fault.name, "harm": str(effect.harm), "why": effect.why}
                    for fault, effect in verdict.effects
                ],
            }
            for verdict in verdicts
        ],
        "faults": [
            {
                "fault": fault.name,
                "request": fault.request,
                "answer": fault.answer,
                "asks": BY_FAULT[fault.name].asks,
                "todo": BY_FAULT[fault.name].todo,
                "source": BY_FAULT[fault.name].source,
            }
            for fault in faults
        ],
        "facts": facts(seen),
    }
