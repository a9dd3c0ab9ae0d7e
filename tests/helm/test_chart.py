"""The chart lints and renders, and the rendered objects are valid."""

import json
import os
from functools import lru_cache
from pathlib import Path

import jsonschema
import kubernetes_validate
import pytest
import yaml

import chart

every_helm = pytest.mark.parametrize("binary", chart.HELMS, ids=lambda binary: Path(binary).name)
every_way = pytest.mark.parametrize("file", chart.CI, ids=chart.ids)


def test_both_helms_are_there():
    versions = [
        chart.subprocess.check_output([each, "version", "--short"], text=True)
        for each in chart.HELMS
    ]
    assert [version.strip() for version in versions] == ["v3.22", "v4.3"]


@every_helm
@every_way
def test_it_lints(file, binary):
    done = chart.helm("lint", "--strict", chart.CHART, "-f", file, binary=binary)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "[WARNING]" not in done.stdout + done.stderr


@every_way
def test_both_helms_render_the_same(file):
    three, four = (
        [without_password(each) for each in chart.rendered(file, binary)] for binary in chart.HELMS
    )
    assert three == four


def without_password(manifest):
    """Returns an object without the embedded Valkey's random password and its checksum."""
    manifest = json.loads(json.dumps(manifest))
    manifest.pop("stringData", None)
    if pod := manifest.get("spec", {}).get("template"):
        pod["metadata"].pop("annotations", None)
    return manifest


NEWEST = kubernetes_validate.latest_version()


@pytest.mark.parametrize("version", [chart.OLDEST, NEWEST])
@every_way
def test_every_object_is_valid(file, version):
    for manifest in chart.rendered(file):
        group = manifest["apiVersion"].partition("/")[0]
        if group in CRDS:
            validate_custom(manifest)
        else:
            kubernetes_validate.validate(manifest, version, strict=True)


CRDS = {"monitoring.coreos.com", "gateway.networking.k8s.io"}


@lru_cache
def crd_schema(group, kind, version):
    """Returns the schema of a custom resource as its project publishes it, made strict."""
    folders = os.environ["MARKREAD_TEST_CRDS"].split(":")
    (file,) = [
        found for folder in folders for found in Path(folder).glob(f"{group}_{kind.lower()}s.yaml")
    ]
    (schema,) = [
        each["schema"]
        for each in yaml.safe_load(file.read_text())["spec"]["versions"]
        if each["name"] == version
    ]
    return jsonschema.Draft202012Validator(strict(schema["openAPIV3Schema"]))


def validate_custom(manifest):
    group, _, version = manifest["apiVersion"].partition("/")
    crd_schema(group, manifest["kind"], version).validate(manifest)


def strict(schema):
    """Makes a schema refuse unknown fields, as the API server does with strict field validation."""
    if isinstance(schema, list):
        return [strict(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    schema = {key: strict(value) for key, value in schema.items()}
    # The schema of a custom resource does not describe metadata, which stays open.
    if schema.get("type") == "object" and "properties" in schema:
        schema.setdefault("additionalProperties", False)
    return schema


def test_an_unknown_field_of_a_custom_resource_is_found():
    manifest = chart.one(chart.rendered(chart.ci("everything")), "ServiceMonitor")
    wrong = json.loads(json.dumps(manifest))
    wrong["spec"]["endpoints"][0]["intervall"] = "15s"
    with pytest.raises(jsonschema.ValidationError, match="intervall"):
        validate_custom(wrong)


def test_the_values_everything_render_every_kind():
    kinds = {manifest["kind"] for manifest in chart.rendered(chart.ci("everything"))}
    assert kinds >= {
        "ConfigMap",
        "Deployment",
        "GRPCRoute",
        "HorizontalPodAutoscaler",
        "Job",
        "NetworkPolicy",
        "Pod",
        "PodDisruptionBudget",
        "PrometheusRule",
        "Service",
        "ServiceAccount",
        "ServiceMonitor",
    }


@every_way
def test_every_object_has_the_namespace_and_name_of_the_release(file):
    for manifest in chart.rendered(file):
        name = manifest["metadata"]["name"]
        assert name.startswith(chart.RELEASE)
        if not name.endswith(("-map", "-text")):  # extraObjects
            assert manifest["metadata"]["namespace"] == chart.NAMESPACE
            assert manifest["metadata"]["labels"]["app.kubernetes.io/instance"] == chart.RELEASE


@every_way
def test_pods_meet_the_restricted_profile(file):
    for manifest in chart.rendered(file):
        pod = (
            manifest["spec"]["template"]["spec"]
            if "template" in manifest.get("spec", {})
            else manifest.get("spec", {})
        )
        for container in pod.get("initContainers", []) + pod.get("containers", []):
            context = pod["securityContext"]
            assert (
                context["runAsNonRoot"]
                and context["runAsUser"] == context["runAsGroup"] == context["fsGroup"] == 65532
            )
            assert context["seccompProfile"] == {"type": "RuntimeDefault"}
            own = container["securityContext"]
            assert (
                own["readOnlyRootFilesystem"] is True and own["allowPrivilegeEscalation"] is False
            )
            assert own["capabilities"] == {"drop": ["ALL"]}
            assert container["terminationMessagePolicy"] == "FallbackToLogsOnError"
            assert (
                pod["automountServiceAccountToken"] is False and pod["enableServiceLinks"] is False
            )


def test_each_service_selects_its_own_pods_only():
    objects = chart.rendered(chart.ci("embedded"))
    pods = {
        "server": chart.one(objects, "Deployment")["spec"]["template"]["metadata"]["labels"],
        "redis": chart.one(objects, "StatefulSet", "r-markread-redis")["spec"]["template"][
            "metadata"
        ]["labels"],
        "test": chart.one(objects, "Pod", "r-markread-test")["metadata"]["labels"],
    }
    wanted = {"r-markread": "server", "r-markread-ops": "server", "r-markread-redis": "redis"}
    services = [each for each in objects if each["kind"] == "Service"]
    assert {each["metadata"]["name"] for each in services} == wanted.keys()
    for service in services:
        selector = service["spec"]["selector"].items()
        selected = [name for name, labels in pods.items() if selector <= labels.items()]
        assert selected == [wanted[service["metadata"]["name"]]]


@pytest.mark.parametrize(
    ("drain_delay", "drain", "seconds"),
    [("5s", "20s", 30), ("0s", "0s", 5), ("1m30s", "500ms", 96), ("1h", "2ms1m", 3666)],
)
def test_the_grace_period_is_both_drain_times_and_5_seconds(drain_delay, drain, seconds):
    values = {"config__drainDelay": f'"{drain_delay}"', "config__drain": f'"{drain}"'}
    deployment = chart.one(chart.render(chart.ci("jwt-secret"), **values), "Deployment")
    assert deployment["spec"]["template"]["spec"]["terminationGracePeriodSeconds"] == seconds


def test_large_numbers_are_written_in_full():
    values = {"config__streamMaxlen": "9007199254740991", "config__rateLimit": "999999999999999"}
    objects = chart.render(chart.ci("jwt-secret"), **values)
    env = {
        each["name"]: each.get("value")
        for each in chart.container(chart.one(objects, "Deployment"))["env"]
    }
    assert env["MARKREAD_STREAM_MAXLEN"] == "9007199254740991"
    assert env["MARKREAD_RATE_LIMIT"] == "999999999999999"


@pytest.mark.parametrize("file", [chart.ci("tls"), chart.ci("mtls")], ids=chart.ids)
def test_with_tls_readiness_is_probed_on_the_ops_port(file):
    probe = chart.container(chart.one(chart.rendered(file), "Deployment"))["readinessProbe"]
    assert probe["httpGet"] == {"path": "/readyz", "port": "ops"}
    assert "grpc" not in probe


@every_way
def test_liveness_does_not_depend_on_redis(file):
    container = chart.container(chart.one(chart.rendered(file), "Deployment"))
    for probe in (container["livenessProbe"], container["startupProbe"]):
        assert probe["httpGet"] == {"path": "/livez", "port": "ops"}


@pytest.mark.parametrize(
    ("url", "ports"),
    [
        ("redis://redis", [6379]),
        ("redis://redis:6400/3?protocol=resp3", [6400]),
        ("rediss://[2001:db8::1]:6380", [6380]),
        ("redis://[2001:db8::1]", [6379]),
        ("unix:///run/redis/redis.sock?db=1", []),
    ],
)
def test_the_network_policy_opens_the_port_of_redis(url, ports):
    objects = chart.render(chart.ci("jwt-secret"), redis__url=json.dumps(url))
    rules = chart.one(objects, "NetworkPolicy")["spec"]["egress"]
    opened = [port["port"] for rule in rules for port in rule["ports"]]
    assert opened == [53, 53, *ports]


TO_SENTINELS = {"podSelector": {"matchLabels": {"app.kubernetes.io/name": "sentinel"}}}
TO_REDIS = {"podSelector": {"matchLabels": {"app.kubernetes.io/name": "redis"}}}
TO_RANGE = {"ipBlock": {"cidr": "10.0.0.0/16"}}


@pytest.mark.parametrize(
    ("way", "values", "rules"),
    [
        ("sentinel", {}, [([26379], [TO_SENTINELS]), ([6380], [TO_REDIS])]),
        (
            "sentinel",
            {"networkPolicy__egress__redisPorts": "[]"},
            [([26379], [TO_SENTINELS]), ([6379], [TO_REDIS])],
        ),
        (
            "sentinel",
            {"redis__urls": '["rediss://a:26379", "rediss://b:26380"]'},
            [([26379, 26380], [TO_SENTINELS]), ([6380], [TO_REDIS])],
        ),
        ("cluster", {}, [([6380, 7000, 7001], [TO_RANGE])]),
        (
            "cluster",
            {"redis__urls": '["rediss://a", "rediss://b:7000"]'},
            [([6379, 7000, 7001], [TO_RANGE])],
        ),
        ("cluster", {"networkPolicy__egress__redisPorts": "[]"}, [([6380], [TO_RANGE])]),
        (
            "cluster",
            {"networkPolicy__egress": '{"redis": null, "redisPorts": null}'},
            [([6380], None)],
        ),
    ],
)
def test_the_network_policy_opens_sentinels_and_every_node(way, values, rules):
    objects = chart.render(chart.ci(way), upgradeLayout__enabled="true", **values)
    for policy in ["r-markread", "r-markread-upgrade-layout"]:
        dns, *others = chart.one(objects, "NetworkPolicy", policy)["spec"]["egress"]
        assert {port["port"] for port in dns["ports"]} == {53}
        found = [([port["port"] for port in rule["ports"]], rule.get("to")) for rule in others]
        assert found == rules


@pytest.mark.parametrize(
    ("way", "expected"),
    [
        ("jwt-secret", {"MODE": "standalone", "URL": "redis://redis.default.svc:6379"}),
        ("embedded", {"MODE": "standalone", "URL": "redis://r-markread-redis:6379"}),
        (
            "sentinel",
            {
                "MODE": "sentinel",
                "URL": ",".join(f"rediss://sentinel-{n}.sentinel.default.svc:26379" for n in range(3)),
                "SENTINEL_MASTER": "messages",
                "SENTINEL_PASSWORD_FILE": "/etc/markread/sentinel/password",
                "SENTINEL_CA": "/etc/markread/sentinel-ca/ca.crt",
                "SENTINEL_CERT": "/etc/markread/sentinel-certificate/tls.crt",
                "SENTINEL_KEY": "/etc/markread/sentinel-certificate/tls.key",
            },
        ),
        (
            "cluster",
            {
                "MODE": "cluster",
                "URL": ",".join(f"rediss://redis-{n}.redis.default.svc:6380" for n in range(2)),
            },
        ),
    ],
)
def test_each_mode_of_redis_has_its_variables_and_no_others(way, expected):
    """Those of Redis itself are the same in each mode."""
    env = chart.container(chart.one(chart.rendered(chart.ci(way)), "Deployment"))["env"]
    of_redis = {"USERNAME", "PASSWORD_FILE", "CA", "CERT", "KEY"}
    found = {
        each["name"].removeprefix("MARKREAD_REDIS_"): each.get("value")
        for each in env
        if each["name"].startswith("MARKREAD_REDIS_")
    }
    username = found.pop("SENTINEL_USERNAME", "absent")
    assert username == (None if way == "sentinel" else "absent")
    assert {name: value for name, value in found.items() if name not in of_redis} == expected
    assert (way in ("sentinel", "cluster")) == (of_redis <= found.keys())
    partitions = [each["value"] for each in env if each["name"] == "MARKREAD_PARTITIONS"]
    assert partitions == (["128"] if way == "cluster" else [])


@pytest.mark.parametrize(
    ("image", "name"),
    [
        ({}, "markread:0.1.0"),
        ({"tag": "1.2"}, "markread:1.2"),
        ({"repository": "localhost:5000/a/markread"}, "localhost:5000/a/markread:0.1.0"),
        ({"registry": "registry.example.com:5000"}, "registry.example.com:5000/markread:0.1.0"),
        ({"digest": "sha256:00", "tag": "1.2"}, "markread@sha256:00"),
    ],
)
def test_an_image_reference_is_built_from_its_values(image, name):
    values = {f"image__{key}": json.dumps(value) for key, value in image.items()}
    objects = chart.render(chart.ci("jwt-secret"), **values)
    assert chart.container(chart.one(objects, "Deployment"))["image"] == name
    test = chart.one(objects, "Pod", "r-markread-test")["spec"]
    assert {each["image"] for each in test["initContainers"] + test["containers"]} == {name}


def test_with_an_autoscaler_the_deployment_sets_no_replicas():
    assert "replicas" not in chart.one(chart.rendered(chart.ci("everything")), "Deployment")["spec"]


def test_a_new_chart_version_alone_restarts_no_pod(tmp_path):
    newer = chart.copy(
        tmp_path / "newer", lambda text: text.replace("\nversion: 0.1.0", "\nversion: 0.1.1")
    )
    for kind, name in [("Deployment", "r-markread"), ("StatefulSet", "r-markread-redis")]:
        old = chart.one(chart.rendered(chart.ci("embedded")), kind, name)
        new = chart.one(chart.render(chart.ci("embedded"), chart=newer), kind, name)
        assert without_password(old)["spec"] == without_password(new)["spec"]
        assert old["metadata"]["labels"] != new["metadata"]["labels"]


@every_helm
def test_it_works_as_a_subchart_with_condition_and_globals(tmp_path, binary):
    values = yaml.safe_load(chart.ci("jwt-secret").read_text())
    values = {"global": {"imageRegistry": "example.com"}, "markread": values | {"enabled": True}}
    parent = chart.parent(tmp_path / "parent", values)
    kinds = {each["kind"] for each in chart.render(chart=parent, binary=binary)}
    assert "Deployment" in kinds
    assert chart.render(chart=parent, binary=binary, markread__enabled="false") == []


def test_the_password_of_the_embedded_valkey_is_the_same_everywhere():
    objects = chart.rendered(chart.ci("embedded"))
    secret = chart.one(objects, "Secret", "r-markread-redis")["stringData"]
    assert len(secret["password"]) == 32
    assert f"requirepass {secret['password']}\n" in secret["valkey.conf"]
    assert f"user markread on \">{secret['password']}\" ~markread:* " in secret["valkey.conf"]


def test_the_user_of_the_embedded_valkey_has_the_rights_of_the_settings():
    def rule(**values):
        objects = chart.render(chart.ci("embedded"), **values)
        conf = chart.one(objects, "Secret", "r-markread-redis")["stringData"]["valkey.conf"]
        return next(line for line in conf.splitlines() if line.startswith("user markread "))

    plain = rule()
    assert ' "~direct_message_mark_read_events" "%R~user:*" +hello ' in plain
    assert "memory" not in plain
    other = rule(
        config__stream='"events"', config__userKeyPrefix='"u:"', config__streamMaxBytes='"1GiB"'
    )
    assert ' "~events" "%R~u:*" +hello ' in other and other.endswith(" +memory|usage")
    assert "waitaof" not in plain
    assert rule(config__fsyncAck="true").endswith(" +wait +waitaof")


def test_every_default_can_be_turned_off():
    objects = chart.render(
        chart.ci("jwt-secret"),
        resources="null",
        topologySpreadConstraints="[]",
        securityContext="null",
        serviceAccount__create="false",
        networkPolicy__enabled="false",
        podDisruptionBudget__enabled="false",
        tests__enabled="false",
        startupProbe__enabled="false",
        livenessProbe__enabled="false",
        readinessProbe__enabled="false",
    )
    assert {each["kind"] for each in objects} == {"Deployment", "Service"}
    pod = chart.one(objects, "Deployment")["spec"]["template"]["spec"]
    assert pod["serviceAccountName"] == "default"
    container = chart.container(chart.one(objects, "Deployment"))
    for left_out in [
        "resources",
        "securityContext",
        "startupProbe",
        "livenessProbe",
        "readinessProbe",
    ]:
        assert left_out not in container
    assert "topologySpreadConstraints" not in pod


def test_a_spread_constraint_without_a_selector_gets_the_pods():
    own = {"matchLabels": {"app": "other"}}
    constraints = [{"maxSkew": 1}, {"maxSkew": 2, "labelSelector": own}]
    objects = chart.render(
        chart.ci("jwt-secret"), topologySpreadConstraints=json.dumps(constraints)
    )
    deployment = chart.one(objects, "Deployment")["spec"]
    selector = deployment["selector"]
    assert deployment["template"]["spec"]["topologySpreadConstraints"] == [
        {"maxSkew": 1, "labelSelector": selector},
        {"maxSkew": 2, "labelSelector": own},
    ]


def test_the_alerts_are_the_file_with_additional_labels():
    groups = yaml.safe_load((chart.CHART / "files/rules.yaml").read_text())["groups"]
    rendered = chart.one(chart.rendered(chart.ci("everything")), "PrometheusRule")["spec"]["groups"]
    for group in groups:
        for rule in group["rules"]:
            rule["labels"] = rule.get("labels", {}) | {"team": "messages"}
    assert rendered == groups


def test_the_dashboard_is_the_file():
    config = chart.one(chart.rendered(chart.ci("everything")), "ConfigMap", "r-markread-dashboard")
    assert json.loads(config["data"]["markread.json"]) == json.loads(
        (chart.CHART / "files/dashboard.json").read_text()
    )
