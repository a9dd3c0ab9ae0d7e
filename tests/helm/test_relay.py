"""The relay: its Deployment, the file of webhooks, its network, its test."""

import json
import re
import tomllib
from contextlib import contextmanager
from ipaddress import ip_address, ip_network

import pytest

import chart
from pod import Pod, embedded, free_port, serving
from promql import PRODUCTION

NAME = "r-markread-relay"
TEST = "r-markread-test-relay"
WITH_RELAY = [chart.ci(name) for name in ("relay", "relay-test", "everything")]
EXISTING = {"relay__webhooks": "[]", "relay__existingSecret": '"hooks"'}
every_relay = pytest.mark.parametrize("file", WITH_RELAY, ids=chart.ids)


def deployment(objects):
    return chart.one(objects, "Deployment", NAME)


def pod_of(objects):
    return deployment(objects)["spec"]["template"]["spec"]


def env_of(container):
    return {each["name"]: each.get("value") for each in container["env"]}


def file_of(objects):
    text = chart.one(objects, "Secret", NAME)["stringData"]["webhooks.toml"]
    return tomllib.loads(text)["webhook"]


def volume(objects, name):
    (found,) = [each for each in pod_of(objects)["volumes"] if each["name"] == name]
    return found


def paths_of(objects):
    """Returns the file in the pod of each key of the Secrets with webhooks."""
    return {
        item["path"]: (source["secret"]["name"], item["key"])
        for source in volume(objects, "webhooks")["projected"]["sources"]
        for item in source["secret"]["items"]
    }


@pytest.mark.parametrize("file", [each for each in chart.CI if each not in WITH_RELAY], ids=chart.ids)
def test_it_is_off_by_default(file):
    names = [each["metadata"]["name"] for each in chart.rendered(file)]
    assert not [name for name in names if "relay" in name]
    assert "relay" not in json.dumps(chart.rendered(file)).replace("MarkreadRelay", "")


def test_the_file_has_the_webhooks_of_the_values():
    chat, archive = file_of(chart.rendered(chart.ci("relay")))
    assert chat == {
        "name": "chat",
        "url": "https://chat.example.com/webhooks/twitter",
        "secret_file": "secrets/chat/secret",
    }
    assert archive == {
        "name": "archive",
        "url": "https://archive.example.com:8443/events?source=markread",
        "users": "all",
        "echo": True,
        "proxy": "http://markread:password@proxy.default.svc:3128",
        "secret_file": "secrets/archive/secret",
        "previous_secret_file": "secrets/archive/previous-secret",
        "standard_secret_file": "secrets/archive/standard-secret",
        "ca_file": "secrets/archive/ca.crt",
        "cert_file": "secrets/archive/tls.crt",
        "key_file": "secrets/archive/tls.key",
    }


def test_a_text_of_a_webhook_stays_one():
    url = """https://a/?x='"&<>\\u0026{{.Values}}=]"""
    webhook = {"name": "a.b_c-9", "url": url, "existingSecret": "s"}
    objects = chart.render(chart.ci("relay"), relay__webhooks=json.dumps([webhook]))
    (found,) = file_of(objects)
    assert (found["name"], found["url"]) == ("a.b_c-9", url)


@pytest.mark.parametrize("way", ["relay", "relay-test"])
def test_each_file_that_is_named_is_mounted_beside_the_file(way):
    objects = chart.rendered(chart.ci(way))
    paths = paths_of(objects)
    named = {
        value
        for webhook in file_of(objects)
        for key, value in webhook.items()
        if key.endswith("_file")
    }
    assert named and named | {"webhooks.toml"} == paths.keys()
    assert paths["webhooks.toml"] == (NAME, "webhooks.toml")
    if way == "relay":
        assert paths["secrets/chat/secret"] == ("chat-webhook", "secret")
        assert paths["secrets/archive/secret"] == ("archive-webhook", "consumer-secret")
    env = env_of(chart.container(deployment(objects)))
    assert env["MARKREAD_WEBHOOKS"] == "/etc/markread/webhooks/webhooks.toml"


def test_a_secret_of_the_user_is_mounted_whole():
    objects = chart.render(
        chart.ci("relay"), **EXISTING, relay__secretKeys__webhooks='"hooks.toml"'
    )
    assert volume(objects, "webhooks")["secret"] == {"secretName": "hooks", "defaultMode": 0o440}
    env = env_of(chart.container(deployment(objects)))
    assert env["MARKREAD_WEBHOOKS"] == "/etc/markread/webhooks/hooks.toml"
    assert not [each for each in objects if each["kind"] == "Secret"]


def test_another_url_replaces_no_pod_and_another_secret_does():
    def rendered(**webhook):
        webhook = {"name": "chat", "url": "https://a", "existingSecret": "s"} | webhook
        return chart.render(chart.ci("relay"), relay__webhooks=json.dumps([webhook]))

    one, other = rendered(), rendered(url="https://b", users="all", echo=True)
    assert file_of(one) != file_of(other)
    assert deployment(one) == deployment(other)
    assert deployment(one) != deployment(rendered(existingSecret="t"))


@every_relay
def test_the_probes_are_on_the_ops_port(file):
    container = chart.container(deployment(chart.rendered(file)))
    assert container["ports"] == [{"name": "ops", "containerPort": 9465}]
    assert env_of(container)["MARKREAD_OPS_LISTEN"] == "0.0.0.0:9465"
    for name, path in [
        ("startupProbe", "/livez"),
        ("livenessProbe", "/livez"),
        ("readinessProbe", "/readyz"),
    ]:
        assert container[name]["httpGet"] == {"path": path, "port": "ops"}


@pytest.mark.parametrize(("drain", "seconds"), [("20s", 30), ("0s", 10), ("1m500ms", 71)])
def test_the_grace_period_is_the_drain_and_10_seconds(drain, seconds):
    objects = chart.render(chart.ci("relay"), relay__config__drain=f'"{drain}"')
    assert pod_of(objects)["terminationGracePeriodSeconds"] == seconds


def test_everything_can_be_turned_off():
    objects = chart.render(
        chart.ci("relay"),
        relay__resources="null",
        relay__topologySpreadConstraints="[]",
        relay__podDisruptionBudget__enabled="false",
        relay__startupProbe__enabled="false",
        relay__livenessProbe__enabled="false",
        relay__readinessProbe__enabled="false",
        networkPolicy__enabled="false",
    )
    container = chart.container(deployment(objects))
    left_out = {"resources", "startupProbe", "livenessProbe", "readinessProbe"}
    assert not left_out & container.keys()
    assert "topologySpreadConstraints" not in pod_of(objects)
    kinds = {each["kind"] for each in objects if each["metadata"]["name"].startswith(NAME)}
    assert kinds == {"Deployment", "Secret", "Service"}


def test_its_user_of_redis_is_its_own_or_that_of_the_server():
    def login(objects, name):
        (secret,) = [
            each["valueFrom"]["secretKeyRef"]
            for each in chart.container(chart.one(objects, "Deployment", name))["env"]
            if each["name"] == "MARKREAD_REDIS_USERNAME"
        ]
        return secret["name"], secret["key"]

    own = chart.rendered(chart.ci("everything"))
    assert login(own, "r-markread") == ("markread-redis", "username")
    assert login(own, NAME) == ("markread-relay-redis", "username")
    env = env_of(chart.container(deployment(own)))
    assert env["MARKREAD_REDIS_PASSWORD_FILE"] == "/etc/markread/relay-redis/password"
    assert volume(own, "relay-redis")["secret"]["secretName"] == "markread-relay-redis"
    assert env["MARKREAD_REDIS_CA"] == "/etc/markread/redis-ca/ca.crt"

    shared = chart.render(chart.ci("relay"), redis__secretKeys__username='"username"')
    assert login(shared, NAME) == login(shared, "r-markread") == ("markread-redis", "username")


def test_the_embedded_valkey_has_a_user_for_it_with_the_documented_rights():
    objects = chart.rendered(chart.ci("relay-test"))
    secret = chart.one(objects, "Secret", "r-markread-redis")["stringData"]
    (documented, *_) = re.findall(
        r"^    (user markread-relay on .*)$", PRODUCTION.read_text(encoding="utf-8"), re.MULTILINE
    )
    (user,) = re.findall(r"^user markread-relay .*$", secret["valkey.conf"], re.MULTILINE)
    assert user.replace('"', "") == documented.replace("PASSWORD", secret["password"])
    env = env_of(chart.container(deployment(objects)))
    assert env["MARKREAD_REDIS_USERNAME"] == "markread-relay"
    without = chart.one(chart.rendered(chart.ci("embedded")), "Secret", "r-markread-redis")
    assert "markread-relay" not in without["stringData"]["valkey.conf"]


def egress(objects):
    """Returns the ports and the peers of each rule after that for DNS, by the first port."""
    dns, *others = chart.one(objects, "NetworkPolicy", NAME)["spec"]["egress"]
    assert {port["port"] for port in dns["ports"]} == {53}
    return {rule["ports"][0]["port"]: rule for rule in others}


def allows(rule, address):
    def holds(block):
        there = ip_address(address)
        excepted = [ip_network(each) for each in block.get("except", [])]
        return there in ip_network(block["cidr"]) and not any(there in each for each in excepted)

    return any(holds(peer["ipBlock"]) for peer in rule["to"])


INNER = "10.0.0.1 172.31.255.255 192.168.1.1 127.0.0.1 169.254.169.254 168.63.129.16 100.64.0.1 224.0.0.1"
INNER_6 = ":: ::1 ::ffff:10.0.0.1 fe80::1 fd00:ec2::254 ff02::1 2002:a00:1::1 2001:0:102:304::1"


def nat64(address):
    return str(ip_address(int(ip_address("64:ff9b::")) + int(ip_address(address))))


def test_nat64_is_left_to_the_same_addresses_as_ipv4():
    ipv4, _, behind = egress(chart.rendered(chart.ci("relay")))[443]["to"]
    assert behind["ipBlock"]["cidr"] == "64:ff9b::/96"

    def inner(block):
        network = ip_network(block)
        return f"{nat64(network.network_address)}/{network.prefixlen + 96}"

    wanted = [inner(each) for each in ipv4["ipBlock"]["except"]]
    assert behind["ipBlock"]["except"] == wanted


def test_a_proxy_is_outside_of_private_networks_unless_the_values_say_where():
    none = {"relay__networkPolicy__egress__proxies": "[]"}
    rules = egress(chart.render(chart.ci("relay"), **none))
    assert rules[3128]["to"] == rules[443]["to"]
    for address in f"{INNER} {INNER_6}".split():
        assert not allows(rules[3128], address), address
    assert allows(rules[3128], "8.8.8.8")
    rules = egress(chart.render(chart.ci("relay"), **none, relay__config__allowPrivate="true"))
    assert "to" not in rules[3128]


def test_the_network_policy_opens_receivers_outside_of_private_networks():
    rules = egress(chart.rendered(chart.ci("relay")))
    assert [rule["ports"] for rule in rules.values()] == [
        [{"port": 6379}],
        [{"port": 443}],
        [{"port": 3128}],
    ]
    assert "to" not in rules[6379]
    for address in f"{INNER} {INNER_6}".split():
        assert not allows(rules[443], address), address
    for address in INNER.split():
        assert not allows(rules[443], nat64(address)), address
    for address in "8.8.8.8 172.32.0.1 2606:4700::1111 64:ff9b::808:808".split():
        assert allows(rules[443], address), address
    # The proxy's own network.
    assert "podSelector" in rules[3128]["to"][0]


def test_the_network_policy_opens_what_the_values_say():
    def of(**values):
        return egress(chart.render(chart.ci("relay"), **values))

    assert "to" not in of(relay__config__allowPrivate="true")[443]
    peers = [{"ipBlock": {"cidr": "203.0.113.0/24"}}]
    ports = {"relay__networkPolicy__egress__receiverPorts": "[8443, 443]"}
    to = {"relay__networkPolicy__egress__receivers": json.dumps(peers)}
    rule = of(**ports, **to)[8443]
    assert rule["ports"] == [{"port": 8443}, {"port": 443}] and rule["to"] == peers
    assert list(of(**EXISTING)) == [6379, 443]
    assert list(of(**EXISTING, **ports)) == [6379, 8443]
    webhooks = [{"name": "a", "url": "https://[2001:db8::1]:8443/x", "existingSecret": "s"}]
    assert list(of(relay__webhooks=json.dumps(webhooks))) == [6379, 8443]


def test_the_network_policies_let_the_test_pass():
    objects = chart.rendered(chart.ci("relay-test"))
    relay = deployment(objects)["spec"]["template"]["metadata"]["labels"]
    test = chart.one(objects, "Pod", TEST)["metadata"]["labels"]

    def admits(rule, labels):
        peers = [each["podSelector"]["matchLabels"] for each in rule]
        return any(each.items() <= labels.items() for each in peers)

    assert admits(egress(objects)[8080]["to"], test)
    (rule,) = chart.one(objects, "NetworkPolicy", "r-markread-redis")["spec"]["ingress"]
    assert admits(rule["from"], relay) and admits(rule["from"], test)
    callers = '[{"podSelector": {"matchLabels": {"app": "chat"}}}]'
    objects = chart.render(chart.ci("relay-test"), networkPolicy__ingress__callers=callers)
    calls, _ = chart.one(objects, "NetworkPolicy")["spec"]["ingress"]
    assert admits(calls["from"], test)


def test_each_service_selects_its_own_pods_only():
    objects = chart.rendered(chart.ci("relay-test"))
    pods = {
        "server": chart.one(objects, "Deployment")["spec"]["template"]["metadata"]["labels"],
        "relay": deployment(objects)["spec"]["template"]["metadata"]["labels"],
        "test": chart.one(objects, "Pod", "r-markread-test")["metadata"]["labels"],
        "relay-test": chart.one(objects, "Pod", TEST)["metadata"]["labels"],
    }
    wanted = {
        "r-markread": ["server"],
        "r-markread-ops": ["server"],
        "r-markread-redis": [],
        f"{NAME}-ops": ["relay"],
        TEST: ["relay-test"],
    }
    found = {
        each["metadata"]["name"]: [
            name
            for name, labels in pods.items()
            if each["spec"]["selector"].items() <= labels.items()
        ]
        for each in objects
        if each["kind"] == "Service"
    }
    assert found == wanted
    budgets = [each for each in objects if each["kind"] == "PodDisruptionBudget"]
    assert {each["metadata"]["name"] for each in budgets} == {"r-markread", NAME}


def test_prometheus_sees_it_under_the_job_of_the_servers():
    objects = chart.rendered(chart.ci("everything"))
    monitor = chart.one(objects, "ServiceMonitor", NAME)["spec"]
    service = chart.one(objects, "Service", f"{NAME}-ops")
    assert monitor["selector"]["matchLabels"].items() <= service["metadata"]["labels"].items()
    own, *others = monitor["endpoints"][0]["relabelings"]
    # Prometheus's operator takes the Service's name as the job.
    servers = chart.one(objects, "ServiceMonitor")["spec"]
    (scraped,) = [
        each["metadata"]["name"]
        for each in objects
        if each["kind"] == "Service"
        and servers["selector"]["matchLabels"].items() <= each["metadata"]["labels"].items()
    ]
    assert own == {"targetLabel": "job", "replacement": scraped}
    assert others == servers["endpoints"][0]["relabelings"]


def test_the_secret_of_the_test_is_that_of_its_webhook():
    objects = chart.rendered(chart.ci("relay-test"))
    secret = chart.one(objects, "Secret", NAME)["stringData"]
    assert len(secret["helm-test"]) == 32
    (webhook,) = file_of(objects)
    assert webhook["url"] == f"http://{TEST}.{chart.NAMESPACE}.svc:8080/"
    assert paths_of(objects)[webhook["secret_file"]] == (NAME, "helm-test")
    assert chart.one(objects, "Service", TEST)["spec"]["ports"][0]["port"] == 8080


@contextmanager
def relaying(objects, directory, secrets, keys):
    """Runs the embedded Valkey, the server and the relay. Yields where their addresses are, the port that the
    test has to receive at, and the relay."""
    secrets[NAME] = {
        key: text.encode() for key, text in chart.one(objects, "Secret", NAME)["stringData"].items()
    }
    receiver = free_port()
    # The relay's file is a Secret, in which the harness replaces nothing.
    secrets[NAME]["webhooks.toml"] = secrets[NAME]["webhooks.toml"].replace(
        f"{TEST}.{chart.NAMESPACE}.svc:8080".encode(), f"127.0.0.1:{receiver}".encode()
    )
    with embedded(objects, directory, secrets) as moved:
        with serving(objects, directory / "server", secrets, moved, keys) as (_, ports, _):
            here = directory / "relay"
            with serving(objects, here, secrets, moved, keys, NAME) as (process, _, _):
                moved[f"r-markread.{chart.NAMESPACE}.svc:50051"] = f"127.0.0.1:{ports['grpc']}"
                moved["0.0.0.0:8080"] = f"127.0.0.1:{receiver}"
                yield moved, process


def test_the_rendered_relay_passes_helm_test_again_and_again(tmp_path, keys, secrets):
    objects = chart.render(chart.ci("relay-test"), config__drainDelay='"0s"')
    spec = chart.one(objects, "Pod", TEST)["spec"]
    containers = spec["initContainers"] + spec["containers"]
    with relaying(objects, tmp_path, secrets, keys) as (moved, process):
        for run in range(2):
            here = Pod(spec, tmp_path / f"test-{run}", secrets, moved=moved)
            said = {each["name"]: here.run(each, timeout=160) for each in containers}
            assert list(said) == ["sign", "subscribe", "back", "mark", "receive"]
            assert said["mark"].startswith("advanced to 2"), run
            assert '"for_user_id":"9223372036854775806"' in said["receive"], run
        process.terminate()
        assert process.wait(pod_of(objects)["terminationGracePeriodSeconds"]) == 0
