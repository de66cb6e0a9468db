"""The files in deploy/: valid, and in agreement with the service and with each other."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from app import create_app
from app.settings import Settings
from devkit.deliver import API_KEY, SECRET
from tests.conftest import Receiver
from tests.deploy.conftest import version
from tests.support import pages
from tests.support.images import ROOT

TOOLS = ROOT / ".venv-deploy" / "bin"
COMPOSE = ROOT / "deploy" / "compose" / "compose.yaml"
KUBERNETES = sorted((ROOT / "deploy" / "kubernetes").glob("*.yaml"))
KEDA = ROOT / "deploy" / "keda" / "worker.yaml"
UNIT = ROOT / "deploy" / "systemd" / "stripe-event-receiver.service"
IMAGE = f"stripe-event-receiver:{version()}"
#: Releases of Kubernetes: an old one, and the newest that the validator knows.
VERSIONS = ("1.30", "1.37")


def call(*command: object) -> subprocess.CompletedProcess[str]:
    """Run a program."""
    words = [str(each) for each in command]
    return subprocess.run(words, capture_output=True, text=True, check=False)


def documents(file: Path) -> list[dict[str, Any]]:
    """Return the documents of a YAML file."""
    code = "import json, sys, yaml; print(json.dumps([*yaml.safe_load_all(open(sys.argv[1]))]))"
    done = call(TOOLS / "python", "-c", code, file)
    assert done.returncode == 0, done.stderr
    loaded: list[dict[str, Any]] = json.loads(done.stdout)
    return loaded


def seconds(text: str) -> int:
    """Return a duration in the form of compose, as ``30s``."""
    return int(text.removesuffix("s"))


def settings() -> set[str]:
    """Return all names that a container may set."""
    example = (ROOT / ".env.example").read_text(encoding="utf-8")
    names = re.findall(r"^(?:# )?([A-Z][A-Z_]+)=", example, re.MULTILINE)
    return {*names, *(f"{name}_FILE" for name in names)}


def grace() -> int:
    """Return the seconds that gunicorn waits for its workers at a stop."""
    text = (ROOT / "gunicorn.conf.py").read_text(encoding="utf-8")
    (found,) = re.findall(r"^graceful_timeout = (\d+)", text, re.MULTILINE)
    return int(found)


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    """The services of the compose file."""
    (document,) = documents(COMPOSE)
    return document


@pytest.fixture(scope="module")
def objects() -> dict[tuple[str, str], dict[str, Any]]:
    """The objects for Kubernetes by kind and name."""
    found = [each for file in KUBERNETES for each in documents(file)]
    return {(each["kind"], each["metadata"]["name"]): each for each in found}


def pods(objects: dict[tuple[str, str], dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Yield the specification of each pod."""
    for each in objects.values():
        if "template" in each.get("spec", {}):
            yield each["spec"]["template"]["spec"]


@pytest.mark.parametrize("placeholder", ["your.host", "NAMESPACE", "ingressClassName"])
def test_page_names_what_to_replace(placeholder: str) -> None:
    """The page names each word of the manifests that a reader has to replace."""
    manifests = [file.read_text(encoding="utf-8") for file in (*KUBERNETES, KEDA)]
    assert placeholder in "".join(manifests)
    assert f"`{placeholder}`" in pages.PAGES["docs/deploy.md"]


class TestCompose:
    """deploy/compose/compose.yaml."""

    def test_schema(self) -> None:
        """It follows the schema of the Compose specification."""
        done = call(TOOLS / "check-jsonschema", "--builtin-schema", "vendor.compose-spec", COMPOSE)
        assert done.returncode == 0, done.stdout

    def test_two_of_each(self, compose: dict[str, Any]) -> None:
        """Two web containers and two workers run this version, and only they run the service."""
        services = compose["services"]
        ours = {name for name, each in services.items() if each["image"] == IMAGE}
        assert ours == {"web", "worker", "migrate"}
        assert [services[name]["deploy"]["replicas"] for name in ("web", "worker")] == [2, 2]

    def test_settings_exist(self, compose: dict[str, Any]) -> None:
        """Each variable of our containers is a setting, and each file of one is a secret."""
        for name in ("web", "worker", "migrate"):
            service = compose["services"][name]
            assert set(service["environment"]) <= settings()
            files = {
                value for key, value in service["environment"].items() if key.endswith("_FILE")
            }
            assert files == {f"/run/secrets/{each}" for each in service["secrets"]}
            assert set(service["secrets"]) <= set(compose["secrets"])

    def test_stop_waits_for_callbacks(self, compose: dict[str, Any]) -> None:
        """A container is killed later than gunicorn ends by itself."""
        for name in ("web", "worker"):
            assert seconds(compose["services"][name]["stop_grace_period"]) > grace()

    def test_containers_are_limited(self, compose: dict[str, Any]) -> None:
        """Each container has a limit of its memory and of its log."""
        for service in compose["services"].values():
            assert service["mem_limit"]
            assert service["logging"]["options"] == {"max-size": "10m", "max-file": "5"}

    def test_network_facing_containers_are_confined(self, compose: dict[str, Any]) -> None:
        """Nginx and the service have no capabilities that they do not need, and get no others."""
        for name in ("nginx", "web", "worker", "migrate"):
            service = compose["services"][name]
            assert service["cap_drop"] == ["ALL"]
            assert service["security_opt"] == ["no-new-privileges:true"]

    def test_renewed_certificate_is_seen(self, compose: dict[str, Any]) -> None:
        """Nginx reads the certificate from a mounted folder, where a renamed file is seen."""
        text = (COMPOSE.parent / "nginx.conf").read_text(encoding="utf-8")
        files = re.findall(r"^ *ssl_certificate(?:_key)? (.*);$", text, re.MULTILINE)
        volumes = [each.split(":") for each in compose["services"]["nginx"]["volumes"]]
        folders = {target for source, target, _ in volumes if not Path(source).suffix}
        assert len(files) == 2
        assert {str(Path(each).parent) for each in files} == folders


class TestKubernetes:
    """deploy/kubernetes/."""

    @pytest.mark.parametrize("release", VERSIONS)
    def test_schema(self, release: str) -> None:
        """Each object follows the schema of Kubernetes, without a field that it does not know."""
        done = call(TOOLS / "kubernetes-validate", "--strict", "-k", release, *KUBERNETES)
        assert done.returncode == 0, done.stdout + done.stderr

    def test_pods_are_confined(self, objects: dict[tuple[str, str], dict[str, Any]]) -> None:
        """Each pod runs this version as the image's user, with a read-only root."""
        for pod in pods(objects):
            (container,) = pod["containers"]
            assert container["image"] == IMAGE
            assert container["securityContext"] == {
                "readOnlyRootFilesystem": True,
                "allowPrivilegeEscalation": False,
                "capabilities": {"drop": ["ALL"]},
            }
            context = pod["securityContext"]
            assert (context["runAsUser"], context["runAsGroup"]) == (10001, 0)

    def test_references(self, objects: dict[tuple[str, str], dict[str, Any]]) -> None:
        """Selectors, budgets and the ingress name objects that exist."""
        labels = [
            each["spec"]["template"]["metadata"]["labels"]
            for each in objects.values()
            if "template" in each.get("spec", {})
        ]
        for (kind, _), each in objects.items():
            spec = each.get("spec", {})
            if kind in {"Deployment", "PodDisruptionBudget"}:
                assert spec["selector"]["matchLabels"] in labels
            elif kind == "Service":
                assert spec["selector"] in labels
            elif kind == "Ingress":
                assert spec["ingressClassName"]
                (path,) = spec["rules"][0]["http"]["paths"]
                assert ("Service", path["backend"]["service"]["name"]) in objects
        for pod in pods(objects):
            (source,) = pod["containers"][0]["envFrom"]
            assert ("ConfigMap", source["configMapRef"]["name"]) in objects

    def test_settings_exist(self, objects: dict[tuple[str, str], dict[str, Any]]) -> None:
        """Each variable is a setting, and each file of one is in the mounted secret."""
        data = objects["ConfigMap", "stripe-event-receiver"]["data"]
        own = [
            each["name"] for pod in pods(objects) for each in pod["containers"][0].get("env", [])
        ]
        assert {*data, *own} <= settings()
        files = [Path(value) for name, value in data.items() if name.endswith("_FILE")]
        for pod in pods(objects):
            (secret,) = [each for each in pod["volumes"] if "secret" in each]
            mounts = {m["name"]: m["mountPath"] for m in pod["containers"][0]["volumeMounts"]}
            assert {str(file.parent) for file in files} == {mounts[secret["name"]]}

    def test_probes_are_answered(self, objects: dict[tuple[str, str], dict[str, Any]]) -> None:
        """Each probe asks a path of the service, at its port. Only readiness asks the inbox."""
        spec = objects["Deployment", "stripe-event-receiver-web"]["spec"]["template"]["spec"]
        (container,) = spec["containers"]
        probes = {name: each["httpGet"] for name, each in container.items() if "Probe" in name}
        assert {name: each["path"] for name, each in probes.items()} == {
            "startupProbe": "/healthz",
            "livenessProbe": "/healthz",
            "readinessProbe": "/readyz",
        }
        app = create_app(
            Settings.load({"STRIPE_API_KEY": API_KEY, "STRIPE_WEBHOOK_SECRET": SECRET})
        )
        assert {"/healthz", "/readyz", "/webhook"} <= {
            rule.rule for rule in app.url_map.iter_rules()
        }
        port = container["ports"][0]
        assert {each["port"] for each in probes.values()} == {port["name"]}

    def test_metrics_are_scraped(self, objects: dict[tuple[str, str], dict[str, Any]]) -> None:
        """The annotations name the port of the metrics, which no service leads to."""
        given = {"web": ("env", -1, "value"), "worker": ("command", -1)}
        for name, path in given.items():
            deployment = objects["Deployment", f"stripe-event-receiver-{name}"]
            template = deployment["spec"]["template"]
            (container,) = template["spec"]["containers"]
            port = container["ports"][-1]
            assert template["metadata"]["annotations"] == {
                "prometheus.io/scrape": "true",
                "prometheus.io/port": str(port["containerPort"]),
            }
            found: Any = container
            for each in path:
                found = found[each]
            assert found == str(port["containerPort"])
        (service,) = [each for (kind, _), each in objects.items() if kind == "Service"]
        assert [each["targetPort"] for each in service["spec"]["ports"]] == ["http"]

    def test_stop_waits_for_callbacks(self, objects: dict[tuple[str, str], dict[str, Any]]) -> None:
        """A pod is killed later than gunicorn ends by itself, after the pause of preStop."""
        for name in ("web", "worker"):
            deployment = objects["Deployment", f"stripe-event-receiver-{name}"]
            pod = deployment["spec"]["template"]["spec"]
            hook = pod["containers"][0].get("lifecycle", {}).get("preStop", {}).get("exec", {})
            pause = int(hook.get("command", ["sleep", "0"])[1])
            assert pod["terminationGracePeriodSeconds"] > pause + grace()

    def test_workers_can_write_a_backup(
        self, objects: dict[tuple[str, str], dict[str, Any]]
    ) -> None:
        """`flask db backup -` has a disk for its temporary file, and not the pod's memory."""
        deployment = objects["Deployment", "stripe-event-receiver-worker"]
        pod = deployment["spec"]["template"]["spec"]
        (volume,) = [each["emptyDir"] for each in pod["volumes"] if each["name"] == "tmp"]
        assert volume == {"sizeLimit": "1Gi"}

    def test_each_version_migrates(self, objects: dict[tuple[str, str], dict[str, Any]]) -> None:
        """The name of the job has the version: a job cannot be changed."""
        assert ("Job", f"stripe-event-receiver-migrate-{version()}") in objects


class TestKeda:
    """deploy/keda/."""

    def test_signal_exists(
        self,
        objects: dict[tuple[str, str], dict[str, Any]],
        make_receiver: Callable[..., Receiver],
    ) -> None:
        """It scales the workers by a number that the readiness of a web service shows."""
        (scaled,) = documents(KEDA)
        target = scaled["spec"]["scaleTargetRef"]["name"]
        assert objects["Deployment", target]["spec"]["template"]["spec"]["containers"]
        (trigger,) = scaled["spec"]["triggers"]
        url = urlsplit(trigger["metadata"]["url"])
        assert url.hostname is not None
        name, *domain = url.hostname.split(".")
        assert ("Service", name) in objects
        assert domain == ["namespace", "svc"]  # KEDA runs in a namespace of its own
        receiver = make_receiver(processing="queue", worker_threads=0)
        answer = receiver.client.get(url.path).json
        assert answer is not None
        assert answer[trigger["metadata"]["valueLocation"]] == 0.0


class TestSystemd:
    """deploy/systemd/."""

    @pytest.fixture
    def unit(self, tmp_path: Path) -> Path:
        """The unit, for a checkout of this repository."""
        folder = tmp_path / "checkout"
        folder.mkdir()
        (folder / ".venv").symlink_to(sys.prefix)
        text = UNIT.read_text(encoding="utf-8")
        file = tmp_path / UNIT.name
        file.write_text(text.replace("/opt/stripe-event-receiver", str(folder)), encoding="utf-8")
        return file

    def test_unit_is_valid(self, unit: Path) -> None:
        """Systemd knows each line, and finds the program."""
        done = call("systemd-analyze", "verify", unit)
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")

    def test_unit_is_confined(self, unit: Path) -> None:
        """Systemd rates the exposure below 2, from 0 for none to 10 for all."""
        security = ("systemd-analyze", "security", "--offline=yes", "--threshold=20")
        done = call(*security, unit)
        assert done.returncode == 0, done.stdout

    def test_stop_waits_for_callbacks(self) -> None:
        """The service is killed later than gunicorn ends by itself."""
        text = UNIT.read_text(encoding="utf-8")
        (stop,) = re.findall(r"^TimeoutStopSec=(\d+)$", text, re.MULTILINE)
        assert int(stop) > grace()

    def test_settings_exist(self) -> None:
        """Each variable is a setting, and each file of one is a credential."""
        text = UNIT.read_text(encoding="utf-8")
        variables = dict(re.findall(r"^Environment=(\w+)=(.*)$", text, re.MULTILINE))
        assert set(variables) <= settings()
        files = {value for name, value in variables.items() if name.endswith("_FILE")}
        loaded = re.findall(r"^LoadCredential=(\w+):", text, re.MULTILINE)
        assert files == {f"%d/{name}" for name in loaded}

    def test_service_is_behind_a_proxy(self) -> None:
        """It listens on this machine only: live events arrive over TLS."""
        assert "\nEnvironment=BIND_HOST=127.0.0.1\n" in UNIT.read_text(encoding="utf-8")

    def test_commands_have_the_settings_of_the_unit(self, tmp_path: Path) -> None:
        """deploy/systemd/flask gives user, folders, credentials and settings to `systemd-run`.

        The two programs are replaced: no systemd runs here that they could ask.
        """
        for name, line in {
            "systemctl": f'cat "{UNIT}"',
            "systemd-run": "printf '%s\\n' \"$@\"",
        }.items():
            (tmp_path / name).write_text(f"#!/bin/sh\n{line}\n", encoding="utf-8")
            (tmp_path / name).chmod(0o755)
        path = f"{tmp_path}:{os.environ['PATH']}"
        done = call("env", f"PATH={path}", UNIT.parent / "flask", "events", "retry", "two words")
        assert (done.returncode, done.stderr) == (0, "")

        given = done.stdout.splitlines()
        assert given[-4:] == [f"{ROOT}/.venv/bin/flask", "events", "retry", "two words"]
        (unit,) = [each.removeprefix("--unit=") for each in given if each.startswith("--unit=")]
        names = (
            "User|DynamicUser|StateDirectory|WorkingDirectory|UMask|LoadCredential|Environment\\w*"
        )
        lines = re.findall(rf"^(?:{names})=.*$", UNIT.read_text(encoding="utf-8"), re.MULTILINE)
        properties = {each.replace("%d", f"/run/credentials/{unit}") for each in lines}
        assert len(properties) == 12
        assert {f"--property={each}" for each in properties} <= set(given)
