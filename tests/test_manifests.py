"""The Kubernetes manifests of k8s/, against the published schemas and against each other."""

from pathlib import Path

import kubernetes_validate
import pytest
import yaml

from faceflow.pipelines import images

ROOT = Path(__file__).parent.parent
FOLDERS = sorted(path for path in (ROOT / "k8s").iterdir() if path.is_dir())
KUBERNETES = "1.34"


def documents(folder):
    """The objects that a kustomization lists."""
    listed = yaml.safe_load((folder / "kustomization.yaml").read_text())["resources"]
    return [each for name in listed for each in yaml.safe_load_all((folder / name).read_text())]


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_every_object_fits_its_schema(folder):
    found = documents(folder)
    for each in found:
        kubernetes_validate.validate(each, KUBERNETES, strict=True)
    listed = yaml.safe_load((folder / "kustomization.yaml").read_text())["resources"]
    assert {path.name for path in folder.glob("*.yaml")} == {*listed, "kustomization.yaml"}
    names = [(each["kind"], each["metadata"]["name"]) for each in found]
    assert len(names) == len(set(names))


def test_a_schema_refuses_a_misspelt_field():
    (broken, *_) = [each for each in documents(ROOT / "k8s" / "flink") if each["kind"] == "Deployment"]
    broken["spec"]["template"]["spec"]["containers"][0]["imagePullPolicies"] = "Always"
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(broken, KUBERNETES, strict=True)


def pods_of(folder):
    """The pod of each deployment, by name."""
    return {
        each["metadata"]["name"]: each["spec"]["template"] for each in documents(folder) if each["kind"] == "Deployment"
    }


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_every_service_leads_to_ports_that_a_pod_offers(folder):
    pods = pods_of(folder)
    for service in (each for each in documents(folder) if each["kind"] == "Service"):
        (pod,) = [pod for pod in pods.values() if pod["metadata"]["labels"] == service["spec"]["selector"]]
        offered = {port["containerPort"] for each in pod["spec"]["containers"] for port in each["ports"]}
        assert {port["port"] for port in service["spec"]["ports"]} <= offered


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_a_container_mounts_the_volumes_of_its_pod(folder):
    for pod in pods_of(folder).values():
        mounted = [
            mount["name"]
            for each in [*pod["spec"].get("initContainers", []), *pod["spec"]["containers"]]
            for mount in each.get("volumeMounts", [])
        ]
        assert set(mounted) == {volume["name"] for volume in pod["spec"].get("volumes", [])}


def test_flink_s_parts_find_each_other():
    folder = ROOT / "k8s" / "flink"
    pods = pods_of(folder)
    configuration = next(each["data"]["FLINK_PROPERTIES"] for each in documents(folder) if each["kind"] == "ConfigMap")
    assert "jobmanager.rpc.address: flink-job-manager\n" in configuration
    (server,) = pods["flink-job-server"]["spec"]["containers"]
    assert "--flink-master=flink-job-manager:8081" in server["args"] and "--job-port=8099" in server["args"]
    flink = {each["image"] for pod in pods.values() for each in pod["spec"]["containers"] if "flink:" in each["image"]}
    assert len(flink) == 1 and server["image"].startswith(f"apache/beam_flink{flink.pop()[6:10]}_job_server:")


def test_spark_s_parts_find_each_other():
    pods = {name: pod["spec"] for name, pod in pods_of(ROOT / "k8s" / "spark").items()}
    (master,), (server,), worker = (
        pods[name]["containers"] for name in ("spark-master", "spark-job-server", "spark-worker")
    )
    assert master["args"][:2] == ["--port", "7077"]
    assert worker[0]["args"][-1] == "spark://spark-master:7077"
    assert "--spark-master-url=spark://spark-master:7077" in server["args"] and "--job-port=8099" in server["args"]
    assert master["image"] == worker[0]["image"]
    # A service named spark-master would otherwise set SPARK_MASTER_PORT to tcp://..., which ends the master.
    assert not any(spec["enableServiceLinks"] for spec in pods.values())
    options = dict(option[2:].split("=") for option in server["env"][-1]["value"].split())
    assert [each["name"] for each in server["env"]] == ["POD_IP", "JAVA_TOOL_OPTIONS"]
    assert options["spark.driver.host"] == "$(POD_IP)"
    # The executors' jar is the job server's own, from the same image, and fits into what the worker may give away.
    (copy,) = pods["spark-worker"]["initContainers"]
    assert copy["image"] == server["image"]
    jar, to = copy["command"][1:]
    assert options["spark.executor.extraClassPath"] == to + Path(jar).name
    assert {"name": "beam", "mountPath": to.rstrip("/"), "readOnly": True} in worker[0]["volumeMounts"]
    given = dict(zip(worker[0]["args"][:-1:2], worker[0]["args"][1:-1:2], strict=True))
    assert options["spark.executor.memory"] == given["--memory"]


@pytest.mark.parametrize("engine, workers", [("flink", "flink-task-manager"), ("spark", "spark-worker")])
def test_every_data_stage_has_a_worker_pool_at_the_port_that_the_page_names(engine, workers):
    folder = ROOT / "k8s" / engine
    pools = [each for each in pods_of(folder)[workers]["spec"]["containers"] if each["name"].startswith("pool-")]
    kustomization = yaml.safe_load((folder / "kustomization.yaml").read_text())
    page = (ROOT / "docs" / "scaling.md").read_text()
    section = next(each for each in page.split("\n## ") if each.startswith(f"{engine.title()} on Kubernetes"))
    assert f"--job_endpoint={engine}-job-server.{kustomization['namespace']}:8099" in section
    assert [each["image"] for each in pools] == [each["name"] for each in kustomization["images"]]
    for pool, stage in zip(pools, ("align", "augment", "pack"), strict=True):
        assert stage in images.STAGES and pool["image"] == f"faceflow/{stage}"
        (port,) = [each["containerPort"] for each in pool["ports"]]
        assert pool["command"][-1] == f"--service_port={port}" and f"localhost:{port}" in section
