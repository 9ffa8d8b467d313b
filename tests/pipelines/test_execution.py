"""What kfp.local says, in its words: a view that reads a log breaks with the log, and here is where that shows."""

from pathlib import Path

from kfp import dsl

IMAGE = "localhost/tests/python:1"


def test_the_wording_of_kfp_local(small, run):
    first = run(small, sources=[{"name": "ada"}])
    log = first.run.log.read_text()
    for line in (
        "INFO Running pipeline: 'small'",
        "INFO Executing task 'write'",
        "INFO Task 'write' finished with status SUCCESS",
        "INFO Task 'write' outputs:\n    made: Artifact( name='made',\n                    uri='",
        "INFO Pipeline 'small' finished with status SUCCESS",
    ):
        assert f"\n{line}" in f"\n{log}" or f"] {line}" in log
    assert "[write] [KFP Executor 2" in log and "INFO]: Got executor_input:\n[write] {\n" in log
    Path(first.board.rows["join"].outputs[0]["joined"]).unlink()

    second = run(small, sources=[{"name": "ada"}], fail="typed", rerun_join="x")
    log = second.run.log.read_text()
    assert "ERROR Task 'write' finished with status FAILURE" in log
    assert "INFO Skipping task join: upstream task(s) ['for-loop-1'] failed." in log

    third = run(small, sources=[{"name": "ada"}])
    log = third.run.log.read_text()
    assert "INFO Task write cache hit (key=" in log and "); skipping execution.\n" in log


def test_stages_are_heard_without_kfps_chatter(small, run):
    row = run(small, sources=[{"name": "ada"}]).board.rows["write"]
    (tail,) = row._tails.values()
    assert [line for line in tail if line] == ["writing ada"]


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def stumble(folder: str, made: dsl.Output[dsl.Artifact]):
    from pathlib import Path

    once = Path(folder) / "stumbled"
    if not once.exists():
        once.touch()
        raise RuntimeError("once")
    Path(made.path).write_text("up again")


def test_a_retried_stage_is_not_a_failed_one(compiled, run, tmp_path):
    @dsl.pipeline(name="retried")
    def pipeline(folder: str):
        stumble(folder=folder).set_retry(1, backoff_duration="0s")

    outcome = run(compiled(pipeline), folder=str(tmp_path))
    assert (outcome.status, outcome.board.rows["stumble"].state) == (0, "done")
    assert "INFO Task stumble failed (attempt 1/2). Retrying in 0.0s..." in outcome.run.log.read_text()


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def vanish(made: dsl.Output[dsl.Artifact]):
    import os
    import signal

    os.kill(os.getppid(), signal.SIGKILL)  # the shell
    os.kill(os.getpgid(0), signal.SIGKILL)  # the process that runs kfp.local


def test_a_killed_executor_is_a_failure_of_what_it_ran(compiled, run):
    @dsl.pipeline(name="vanishing")
    def pipeline():
        vanish()

    outcome = run(compiled(pipeline))
    assert outcome.status == 1
    assert outcome.problems == ["vanish: the process that ran it ended, perhaps for want of memory"]
    assert outcome.board.rows["vanish"].state == "failed"


def test_verbose_shows_what_stages_say(small, run):
    assert "Write source | writing ada" in run(small, sources=[{"name": "ada"}], verbose=True).shown
