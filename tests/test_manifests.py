"""The manifests for Kubernetes: against its schemas, and against the code."""

import http.client
import re
import shlex
import subprocess
import sys
from typing import Any

import pytest
import yaml

from abs_dssp.cluster import keys
from abs_dssp.report import metrics
from scripts import ROOT, start_many

NAMES = ("kubernetes", "jobset", "trainjob")
KUBERNETES = "1.31"  # the oldest whose schema they must follow


def documents(name: str) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all((ROOT / "scripts" / f"{name}.yaml").read_text()))


def kind(name: str, wanted: str) -> dict[str, Any]:
    [found] = [d for d in documents(name) if d["kind"] == wanted]
    return found


def jobs(name: str) -> dict[str, dict[str, Any]]:
    """The Jobs that there will be, by name, as controllers make them of templates."""
    made = {}
    for document in documents(name):
        spec = document.get("spec", {})
        if document["kind"] == "Job":
            made[document["metadata"]["name"]] = document
        if document["kind"] == "TrainingRuntime":
            spec = spec["template"]["spec"]
        for each in spec.get("replicatedJobs", []):
            job = {"apiVersion": "batch/v1", "kind": "Job"} | each["template"]
            job["metadata"] = {"name": each["name"]} | job.get("metadata", {})
            made[each["name"]] = job
    return made


def pods(name: str) -> dict[str, dict[str, Any]]:
    return {n: job["spec"]["template"]["spec"] for n, job in jobs(name).items()}


def command(name: str, job: str) -> str:
    """What the shell of a container runs."""
    [container] = pods(name)[job]["containers"]
    if name == "trainjob":
        container = kind(name, "TrainJob")["spec"]["trainer"]
    return " ".join([*container["command"], *container["args"]])


def flags(text: str) -> dict[str, str]:
    found = re.findall(r"--(\w+)(?:=(\"[^\"]*\"|\S+))?", text)
    return {name: value.strip('"') for name, value in found}


PODS = [(name, job) for name in NAMES for job in pods(name)]


@pytest.mark.parametrize("name", NAMES)
def test_what_kubernetes_knows_follows_its_schema(name):
    validate = pytest.importorskip("kubernetes_validate")
    known = [d for d in documents(name) if "." not in d["apiVersion"].split("/")[0]]
    known += [d for d in documents(name) if "networking.k8s.io" in d["apiVersion"]]
    assert len(known) >= 2
    for document in [*known, *jobs(name).values()]:
        validate.validate(document, KUBERNETES, strict=True)


def test_the_schema_would_notice():
    validate = pytest.importorskip("kubernetes_validate")
    [job] = jobs("kubernetes").values()
    job["spec"]["podFailurePolicy"]["rules"][0]["onExitCode"] = {}
    with pytest.raises(validate.ValidationError):
        validate.validate(job, KUBERNETES, strict=True)


# Of JobSet v1alpha2 and Trainer v1alpha1, whose schemas no package has: the fields
# of their API references, and which of them must be there.
FIELDS = {
    ("JobSet",): (
        "replicatedJobs network successPolicy failurePolicy startupPolicy suspend "
        "coordinator managedBy ttlSecondsAfterFinished",
        "replicatedJobs",
    ),
    ("JobSet", "network"): (
        "enableDNSHostnames subdomain publishNotReadyAddresses",
        "",
    ),
    ("JobSet", "successPolicy"): ("operator targetReplicatedJobs", "operator"),
    ("JobSet", "failurePolicy"): ("maxRestarts rules restartStrategy", ""),
    ("JobSet", "failurePolicy", "rules"): (
        "name action targetReplicatedJobs onJobFailureReasons",
        "action",
    ),
    ("JobSet", "replicatedJobs"): (
        "name groupName template replicas dependsOn",
        "name template",
    ),
    ("TrainingRuntime",): ("mlPolicy podGroupPolicy template", "template"),
    ("TrainingRuntime", "mlPolicy"): ("numNodes torch mpi jax", ""),
    ("TrainJob",): (
        "runtimeRef initializer trainer labels annotations suspend managedBy",
        "runtimeRef",
    ),
    ("TrainJob", "runtimeRef"): ("name apiGroup kind", "name"),
    ("TrainJob", "trainer"): (
        "image command args env numNodes resourcesPerNode numProcPerNode",
        "",
    ),
}


@pytest.mark.parametrize("path", FIELDS, ids=".".join)
def test_what_others_define_has_their_fields(path):
    name = "jobset" if path[0] == "JobSet" else "trainjob"
    place = kind(name, path[0])["spec"]
    for step in path[1:]:
        place = place[step]
    allowed, needed = (set(text.split()) for text in FIELDS[path])
    for each in place if isinstance(place, list) else [place]:
        assert needed <= set(each) <= allowed


@pytest.mark.parametrize(("name", "job"), PODS)
def test_pods_have_no_rights_and_mount_what_they_name(name, job):
    pod = pods(name)[job]
    assert pod["automountServiceAccountToken"] is False
    assert (
        pod["securityContext"]["runAsNonRoot"] and pod["securityContext"]["runAsUser"]
    )
    assert pod["restartPolicy"] == "Never"  # podFailurePolicy demands it
    [container] = pod["containers"]
    locked = container["securityContext"]
    assert locked["readOnlyRootFilesystem"] and not locked["allowPrivilegeEscalation"]
    assert locked["capabilities"] == {"drop": ["ALL"]}
    volumes = {v["name"]: v for v in pod.get("volumes", [])}
    mounts = {m["name"]: m["mountPath"] for m in container.get("volumeMounts", [])}
    assert set(volumes) == set(mounts)
    if volumes:
        assert volumes["memory"]["emptyDir"]["medium"] == "Memory"
        assert mounts["memory"] == "/dev/shm"
        text = command(name, job)
        assert f"install -m 400 {mounts['secret']}/cluster.key" in text
        for flag in ("key_file", "out"):
            assert any(flags(text)[flag].startswith(p) for p in mounts.values())
    if "out" in volumes:
        claim = volumes["out"]["persistentVolumeClaim"]["claimName"]
        assert claim == kind(name, "PersistentVolumeClaim")["metadata"]["name"]


@pytest.mark.parametrize(("name", "job"), PODS)
def test_a_mistake_fails_the_job_and_a_disruption_is_not_counted(name, job):
    spec = jobs(name)[job]["spec"]
    mistake, disruption = spec["podFailurePolicy"]["rules"]
    [container] = spec["template"]["spec"]["containers"]
    assert mistake["action"] == "FailJob"
    assert mistake["onExitCodes"] == {
        "containerName": container["name"],
        "operator": "In",
        "values": [2],
    }
    assert disruption["action"] == "Ignore"
    assert disruption["onPodConditions"] == [
        {"type": "DisruptionTarget", "status": "True"}
    ]


def test_a_mistake_in_the_flags_has_the_status_that_fails_the_job():
    script = ["experiments/train.py", "--cluster=auto", "--out=out"]
    wrong = ("--epocs=1", "--seed=x", "surplus")
    for code, _, said in start_many([[*script, each] for each in wrong]):
        assert code == 2, said


def test_processes_are_as_many_as_they_say():
    [job] = jobs("kubernetes").values()
    given = flags(command("kubernetes", "abs-dssp"))
    assert int(given["num_processes"]) == job["spec"]["completions"]
    assert job["spec"]["parallelism"] == job["spec"]["completions"]
    assert given["process_id"] == "$JOB_COMPLETION_INDEX"
    made = jobs("jobset")
    counts = {n: made[n]["spec"]["parallelism"] for n in made}
    together = counts["server"] + counts["workers"]
    for name in made:
        assert int(flags(command("jobset", name))["num_processes"]) == together
    assert flags(command("jobset", "server"))["process_id"] == "0"
    shell = flags(command("jobset", "workers"))["process_id"]
    indices = [
        subprocess.run(
            ["sh", "-c", f"echo {shell}"],
            env={"JOB_COMPLETION_INDEX": str(i)},
            capture_output=True,
            text=True,
        ).stdout.strip()
        for i in range(counts["workers"])
    ]
    assert indices == [str(i + 1) for i in range(counts["workers"])]
    assert kind("trainjob", "TrainJob")["spec"]["trainer"]["numNodes"] == together


def test_the_coordinator_is_where_the_others_look_for_it():
    [job] = jobs("kubernetes").values()
    subdomain = pods("kubernetes")["abs-dssp"]["subdomain"]
    service = kind("kubernetes", "Service")
    assert service["metadata"]["name"] == subdomain
    label = {"job-name": job["metadata"]["name"]}
    assert service["spec"]["selector"] == label
    host = f"{job['metadata']['name']}-0.{subdomain}"
    address = flags(command("kubernetes", "abs-dssp"))["coordinator_address"]
    assert address.rsplit(":", 1)[0] == host
    # JobSet: <set>-<job>-<its index>-<pod's index>.<set>
    name = kind("jobset", "JobSet")["metadata"]["name"]
    bind = flags(command("jobset", "coordinator"))["bind"]
    for each in ("server", "workers"):
        given = flags(command("jobset", each))
        assert "coordinator_apart" in given
        wanted = f"{name}-coordinator-0-0.{name}:{bind.rsplit(':', 1)[1]}"
        assert given["coordinator_address"] == wanted


@pytest.mark.parametrize("name", NAMES)
def test_the_network_is_open_to_the_run_and_to_prometheus_alone(name):
    spec = kind(name, "NetworkPolicy")["spec"]
    owner = "job-name" if name == "kubernetes" else "jobset.sigs.k8s.io/jobset-name"
    assert spec["podSelector"] == {"matchLabels": {owner: "abs-dssp"}}
    assert spec["policyTypes"] == ["Ingress", "Egress"]
    own, scraper = spec["ingress"]
    assert own == {"from": [{"podSelector": spec["podSelector"]}]}
    server = "server" if name == "jobset" else next(iter(pods(name)))
    port = int(flags(command(name, server))["metrics_port"])
    assert scraper["ports"] == [{"port": port}]
    assert flags(command(name, server))["metrics_host"] == "0.0.0.0"
    out, names = spec["egress"]
    assert out == {"to": own["from"]} and {p["port"] for p in names["ports"]} == {53}


def test_probes_ask_for_pages_that_there_are():
    [container] = pods("jobset")["server"]["containers"]
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    served = metrics.MetricsServer(0)
    try:
        for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
            get = container[probe]["httpGet"]
            given = flags(command("jobset", "server"))
            assert ports[get["port"]] == int(given["metrics_port"])
            link = http.client.HTTPConnection("127.0.0.1", served.port, timeout=5)
            link.request("GET", get["path"])
            assert link.getresponse().status != 404
            link.close()
    finally:
        served.close()


def test_the_key_is_taken_as_the_pods_make_it(tmp_path):
    """A group may read what a Secret holds, so that it is copied."""
    keys.make(tmp_path / "secret")
    (tmp_path / "secret").chmod(0o440)
    with pytest.raises(keys.KeyFileError, match="has mode 440"):
        keys.load(tmp_path / "secret")
    for _ in range(2):  # a container may start again
        words = ["install", "-m", "400", tmp_path / "secret", tmp_path / "copy"]
        subprocess.run(words, check=True)
        assert keys.load(tmp_path / "copy").pem


def test_every_flag_of_a_manifest_is_one():
    known = subprocess.run(
        [sys.executable, "experiments/train.py", "--helpfull"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    ).stdout
    for name, job in PODS:
        if job == "coordinator":
            continue
        _, _, own = command(name, job).partition("experiments/train.py")
        for word in shlex.split(own):
            flag = word.lstrip("-").partition("=")[0]
            assert re.search(rf"--(\[no\])?{flag}\b", known), flag


def test_the_image_is_made_of_what_there_is():
    lines = (ROOT / "Dockerfile").read_text().splitlines()
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    kept = {line[1:] for line in ignored if line.startswith("!")}
    copied = {
        source
        for line in lines
        if line.startswith("COPY")
        for source in line.split()[1:-1]
    }
    assert all((ROOT / source).exists() for source in copied)
    assert {source.split("/")[0] for source in copied} == kept
    [user] = [line.split()[1] for line in lines if line.startswith("USER")]
    for name, job in PODS:
        who = pods(name)[job]["securityContext"]
        assert user == f"{who['runAsUser']}:{who['runAsGroup']}"
