"""site.yml on a host with systemd: it rehearses truthfully, does its work once, and then nothing."""

from e2e.rollout import Rollout, Run
from lab.host import Host


def test_a_rehearsal_on_a_fresh_host_succeeds_and_does_nothing(rehearsed: Run, host: Host, provisioned: Run) -> None:
    assert rehearsed.code == 0, rehearsed.output
    assert rehearsed.changed > 0, "it has to say that there is something to do"
    # The fixture ran before the host was provisioned, so only its own account tells.
    assert "nginx" in rehearsed.output


def test_the_first_run_says_what_it_serves(provisioned: Run) -> None:
    assert "docker pull 198.18.0.11/lab/layers:1.0" in provisioned.output
    assert "docker pull 198.18.0.11/lab/platforms-oci:2.0" in provisioned.output


def test_the_second_run_changes_nothing(provisioned: Run, rollout: Rollout) -> None:
    second = rollout.play("site.yml")
    assert second.code == 0
    assert second.changed == 0, second.output


def test_a_rehearsal_on_a_converged_host_finds_nothing_to_do(provisioned: Run, rollout: Rollout) -> None:
    rehearsal = rollout.play("site.yml", "--check", "--diff")
    assert rehearsal.code == 0
    assert rehearsal.changed == 0, rehearsal.output


def test_the_lock_came_back_to_the_inventory(provisioned: Run, rollout: Rollout) -> None:
    assert "docker://198.18.0.1:5000/lab/layers" in rollout.lock_file.read_text()


def test_wrong_input_is_refused_before_the_host_changes(provisioned: Run, rollout: Rollout, host: Host) -> None:
    before = host.run("sh", "-c", "sha256sum /etc/nginx/nginx.conf /etc/nginx/seawall/*").stdout
    for wrong in (
        "origin_listen=['http']",
        "origin_tree=relative",
        "origin_tls_certificate=/etc/ssl/only-one.pem",
        # No two clocks are as near as that.
        "host_clock_tolerance=-1",
    ):
        name, _, value = wrong.partition("=")
        run = rollout.play("site.yml", "--extra-vars", f"{{{name}: {value}}}")
        assert run.code != 0, wrong
        assert name in run.output
    assert host.run("sh", "-c", "sha256sum /etc/nginx/nginx.conf /etc/nginx/seawall/*").stdout == before


def test_a_configuration_that_nginx_refuses_never_takes_its_place(
    provisioned: Run, rollout: Rollout, host: Host
) -> None:
    before = host.run("cat", "/etc/nginx/seawall/origin.conf").stdout
    run = rollout.play("playbooks/origin.yml", "--extra-vars", "{origin_listen: ['192.0.2.1.1:80']}")
    assert run.code != 0
    assert host.run("cat", "/etc/nginx/seawall/origin.conf").stdout == before
    assert host.run("systemctl", "is-active", "nginx").stdout == "active\n"


def test_a_lock_that_must_be_there_and_is_not_stops_the_rollout(provisioned: Run, rollout: Rollout) -> None:
    hidden = rollout.lock_file.rename(rollout.lock_file.with_suffix(".away"))
    try:
        run = rollout.play("playbooks/preflight.yml", "--extra-vars", "{tree_update_lock: false}")
    finally:
        hidden.rename(rollout.lock_file)
    assert run.code != 0
    assert "images.lock is missing" in run.output
