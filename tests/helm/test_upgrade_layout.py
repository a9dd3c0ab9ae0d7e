"""The hook that upgrades the layout of keys in Redis."""

import json
import subprocess

import chart
from around import REDIS_PASSWORD, redis
from pod import Pod

NAME = "r-markread-upgrade-layout"
ON = {"upgradeLayout__enabled": "true"}


def job(objects):
    return chart.one(objects, "Job", NAME)


def test_it_is_off_by_default():
    kinds = {each["kind"] for each in chart.rendered(chart.ci("embedded"))}
    assert "Job" not in kinds
    assert not any(
        each["metadata"]["name"] == NAME for each in chart.rendered(chart.ci("embedded"))
    )


def test_it_runs_after_an_upgrade_as_the_server_does():
    objects = chart.rendered(chart.ci("everything"))
    hook, server = job(objects), chart.one(objects, "Deployment")
    assert hook["metadata"]["annotations"]["helm.sh/hook"] == "post-upgrade"
    here, there = chart.container(hook), chart.container(server)
    assert (here["command"], here["args"]) == (["/markread"], ["admin", "upgrade-layout"])
    for same in ["image", "env", "volumeMounts", "securityContext", "resources"]:
        assert here[same] == there[same], same
    pods = [each["spec"]["template"]["spec"] for each in (hook, server)]
    for same in ["volumes", "securityContext", "serviceAccountName", "nodeSelector"]:
        assert pods[0].get(same) == pods[1].get(same), same
    # It is no pod of the Service.
    labels = hook["spec"]["template"]["metadata"]["labels"].items()
    services = [each for each in objects if each["kind"] == "Service"]
    assert services and not any(each["spec"]["selector"].items() <= labels for each in services)


def test_the_network_policies_let_it_reach_redis_and_nothing_else():
    objects = chart.render(chart.ci("embedded"), **ON)
    own = chart.one(objects, "NetworkPolicy", NAME)["spec"]
    labels = job(objects)["spec"]["template"]["metadata"]["labels"].items()
    assert own["podSelector"]["matchLabels"].items() <= labels
    assert own["ingress"] == []
    opened = [port["port"] for rule in own["egress"] for port in rule["ports"]]
    assert opened == [53, 53, 6379]
    (rule,) = chart.one(objects, "NetworkPolicy", "r-markread-redis")["spec"]["ingress"]
    callers = [each["podSelector"]["matchLabels"] for each in rule["from"]]
    assert any(each.items() <= labels for each in callers)
    off = chart.rendered(chart.ci("embedded"))
    (rule,) = chart.one(off, "NetworkPolicy", "r-markread-redis")["spec"]["ingress"]
    assert len(rule["from"]) == 1


def test_it_upgrades_a_redis_of_version_1(tmp_path, secrets):
    def hget(port, field):
        command = f"redis-cli -p {port} -a redis-password --no-auth-warning HGET markread:layout"
        return subprocess.check_output([*command.split(), field], text=True).strip()

    with redis(tmp_path, *REDIS_PASSWORD) as port:
        url = json.dumps(f"redis://127.0.0.1:{port}")
        objects = chart.render(chart.ci("redis-password"), redis__url=url, **ON)
        layout = "HSET markread:layout version 1 partitions 1"
        command = f"redis-cli -p {port} -a redis-password --no-auth-warning {layout}"
        subprocess.check_call(command.split(), stdout=subprocess.DEVNULL)
        spec = job(objects)["spec"]["template"]["spec"]
        pod = Pod(spec, tmp_path / "pod", secrets)
        assert pod.run(spec["containers"][0]).startswith("layout version 2:")
        key = hget(port, "key")
        assert hget(port, "version") == "2" and len(key) == 56
        # Each later upgrade of the release runs it again.
        assert "nothing was changed" in pod.run(spec["containers"][0])
        assert hget(port, "key") == key
