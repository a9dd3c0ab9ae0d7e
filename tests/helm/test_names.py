"""Every name and label is one that the API server takes."""

import re

import kubernetes_validate
import pytest

import chart

BASE = chart.ci("jwt-secret")
PART = "[a-z0-9]([-a-z0-9]*[a-z0-9])?"
NAME = re.compile(rf"{PART}(\.{PART})*")
SERVICE_NAME = re.compile("[a-z]([-a-z0-9]{0,61}[a-z0-9])?")
LABEL = re.compile("[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?")


def check(objects):
    for each in objects:
        name = SERVICE_NAME if each["kind"] == "Service" else NAME
        assert name.fullmatch(each["metadata"]["name"]), each["metadata"]["name"]
        for label in each["metadata"]["labels"].values():
            assert LABEL.fullmatch(label), label
        kubernetes_validate.validate(each, chart.OLDEST, strict=True)


@pytest.mark.parametrize("release", ["my.rel", "0prod", "1.5", "123"])
def test_a_release_name_that_cannot_name_a_service_is_refused(release):
    done = chart.template(BASE, release=release)
    assert done.returncode != 0 and done.stdout == ""
    assert f"the name {release}-markread," in done.stderr
    assert "fullnameOverride" in done.stderr

    check(chart.render(BASE, release=release, fullnameOverride='"other"'))


@pytest.mark.parametrize("release", ["my-rel", "prod0", "e3"])
def test_other_release_names_are_accepted(release):
    check(chart.render(BASE, release=release))


# The cut is after 46 characters.
@pytest.mark.parametrize(
    ("release", "name"),
    [
        ("a" * 53, "a" * 46),
        ("a" * 36 + "-b", "a" * 36 + "-b-markrea"),
        ("a" * 44 + "---b", "a" * 44),
        ("a" * 45 + "-b", "a" * 45),
        ("a" * 45 + ".b", "a" * 45),
    ],
)
def test_a_name_that_is_cut_ends_in_a_letter_or_a_digit(release, name):
    objects = chart.render(chart.ci("embedded"), release=release)
    check(objects)
    chart.one(objects, "Deployment", name)
    # A StatefulSet adds a hash of ten characters and a hyphen to its name, in a label.
    assert len(chart.one(objects, "StatefulSet", f"{name}-redis")["metadata"]["name"]) <= 63 - 11


def test_a_label_that_is_cut_ends_in_a_letter_or_a_digit(tmp_path):
    long = "1.0.0-" + "a" * 46 + "-b+build"
    other = chart.copy(
        tmp_path / "chart",
        lambda text: text.replace("ersion: 0.1.0", f"ersion: {long}"),
    )
    check(chart.render(BASE, chart=other, nameOverride=f'"{"n" * 45}-n"'))


# Names that YAML would read as something else than text.
@pytest.mark.parametrize("text", ["123", "1e3", "true", "null"])
def test_a_name_stays_text(text):
    names = [
        "nameOverride",
        "serviceAccount__name",
        "priorityClassName",
        "auth__jwt__secret__existingSecret",
        "redis__embedded__persistence__storageClass",
        "tests__token__existingSecret",
        "tls__existingSecret",
        "tls__clientCA__existingSecret",
    ]
    values = dict.fromkeys(names, f'"{text}"')
    fullname = text if text.isalpha() else "other"
    objects = chart.render(
        chart.ci("embedded"),
        release=text,
        fullnameOverride=f'"{fullname}"',
        options=["--namespace", text],
        **values,
    )
    check(objects)
    deployment = chart.one(objects, "Deployment", fullname)
    assert deployment["metadata"]["namespace"] == text
    assert deployment["spec"]["template"]["spec"]["priorityClassName"] == text
