from faceflow.pipelines.containers import command_to_look_inside
from faceflow.pipelines.execution import Containers


def test_the_command_that_looks_inside_a_container_shows_no_secret():
    environment = {"HOME": "/tmp", "AWS_ACCESS_KEY_ID": "an id", "AWS_SECRET_ACCESS_KEY": "a secret"}
    command = command_to_look_inside(
        Containers("", (("/data", True),), "run", environment), "localhost/faceflow/align:1"
    )
    assert "--env HOME=/tmp --env AWS_ACCESS_KEY_ID --env AWS_SECRET_ACCESS_KEY --volume /data:/data:ro" in command
    assert "an id" not in command and "a secret" not in command
