"""environment.json: what a run depends on, without secrets."""

from lengthen.run.environment import VARIABLES, environment


def test_the_environment_keeps_no_secret() -> None:
    command = ["lengthen", "train", "--api-key=abc", "--token=x", "--run.seed=3"]
    recorded = environment(command)
    masked = ["lengthen", "train", "--api-key=***", "--token=***", "--run.seed=3"]
    assert recorded["command"] == masked
    assert recorded["packages"]["torch"]
    assert set(recorded["variables"]) <= set(VARIABLES)
