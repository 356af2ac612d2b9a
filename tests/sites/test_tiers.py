"""Every host of every tier, by testinfra over ssh."""

from typing import Any

from testinfra.host import Host as Target

Targets = list[Target]
Tier = dict[str, Any]


def test_its_packages_are_installed(targets: Targets, tier: Tier) -> None:
    for target in targets:
        assert [name for name in tier["packages"] if not target.package(name).is_installed] == []


def test_its_services_run_and_start_at_boot(targets: Targets, tier: Tier) -> None:
    for target in targets:
        for name in tier["services"]:
            journal = target.run("journalctl --no-pager --lines=40 --unit=%s", name).stdout
            assert target.service(name).is_running, journal
            assert target.service(name).is_enabled, name


def test_it_listens_where_it_should(targets: Targets, tier: Tier) -> None:
    for target in targets:
        for socket in tier["listens"]:
            assert target.socket(socket).is_listening, socket


def test_what_root_reads_is_written_by_root_alone(targets: Targets, tier: Tier) -> None:
    for target in targets:
        for path in tier["root_owned"]:
            file = target.file(path)
            assert file.exists, path
            assert (file.user, file.mode & 0o022) == ("root", 0), path


def test_its_configuration_is_valid(targets: Targets, tier: Tier) -> None:
    for target in targets:
        for command in tier["valid"]:
            assert target.run(command).rc == 0, command


def test_its_accounts_can_do_what_they_are_for(targets: Targets, tier: Tier) -> None:
    for target in targets:
        for name, shell in tier["users"].items():
            assert target.user(name).shell == shell


def test_no_unit_failed(targets: Targets) -> None:
    for target in targets:
        assert target.run("systemctl list-units --failed --no-legend --plain").stdout == ""
