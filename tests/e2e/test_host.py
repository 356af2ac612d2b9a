"""The provisioned host, by testinfra."""

from typing import Any

from testinfra.host import Host as Target


def test_packages_are_installed(target: Target, expected: dict[str, Any]) -> None:
    assert all(target.package(name).is_installed for name in expected["packages"])


def test_the_service_runs_and_starts_at_boot(target: Target, expected: dict[str, Any]) -> None:
    service = target.service(expected["service"])
    journal = target.run("journalctl --no-pager --lines=40 --unit=%s", expected["service"]).stdout
    assert service.is_running, journal
    assert service.is_enabled


def test_it_listens_where_it_should(target: Target, expected: dict[str, Any]) -> None:
    for socket in expected["listens"]:
        assert target.socket(socket).is_listening


def test_workers_are_unprivileged(target: Target, expected: dict[str, Any]) -> None:
    workers = [process for process in target.process.filter(comm="nginx") if process.ppid != 1]
    assert workers
    assert {process.user for process in workers} == {expected["workers"]}


def test_workers_can_write_nothing_of_it(target: Target, expected: dict[str, Any]) -> None:
    for path in expected["not_writable_by_workers"]:
        assert target.file(path).exists, path
        writable = target.run("runuser -u %s -- test -w %s", expected["workers"], path)
        assert writable.rc == 1, path
    found = target.run("runuser -u %s -- find %s -writable -not -type l", expected["workers"], f"{expected['tree']}/v2")
    assert found.stdout == ""


def test_workers_can_read_all_that_is_served(target: Target, expected: dict[str, Any]) -> None:
    unreadable = target.run("runuser -u %s -- find -L %s -not -readable", expected["workers"], f"{expected['tree']}/v2")
    assert unreadable.stdout == ""
    assert unreadable.rc == 0


def test_the_tree_is_laid_out_as_promised(target: Target, expected: dict[str, Any]) -> None:
    tree = target.file(expected["tree"])
    assert (tree.user, tree.mode) == (expected["owner"], 0o755)
    for folder in expected["folders"]:
        assert target.file(f"{expected['tree']}/{folder}").is_directory
    assert target.user(expected["owner"]).shell == "/usr/sbin/nologin"


def test_configuration_and_tool_belong_to_root(target: Target, expected: dict[str, Any]) -> None:
    for path in expected["root_owned"]:
        file = target.file(path)
        assert file.exists, path
        assert file.user == "root", path
        assert not file.mode & 0o022 or file.is_symlink, path


def test_the_configuration_is_valid(target: Target) -> None:
    assert target.run("nginx -t").rc == 0


def test_the_tool_works_for_whoever_logs_in(target: Target, expected: dict[str, Any]) -> None:
    listed = target.run("seawall ls %s", expected["tree"])
    assert "lab/layers:1.0" in listed.stdout
    assert target.run("seawall verify %s", expected["tree"]).rc == 0


def test_the_error_log_is_quiet(target: Target) -> None:
    assert not target.file("/var/log/nginx/error.log").contains(r"\[\(crit\|alert\|emerg\)\]")
