"""The page served while a sweep really runs: it follows the trials, and votes reach the results."""

from pathlib import Path

import pandas as pd
import pytest

from csm_ft.report import watch
from csm_ft.report.watch import Server
from tests.helpers.voting import make_vote
from tests.integration.test_sweep_chaos import Sweep, wait_for
from tests.unit.report.test_watch import Client, body_of, serving


def test_page_and_votes_beside_a_running_sweep(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch, "POLL_SEC", 0.0)
    monkeypatch.setattr(watch, "LARGEST_SHARE", 1e9)
    argv = ("--n_trials", "4", "--n_gpus", "2", "--pruner", "none")
    sweep = Sweep(tmp_path, *argv, faults={"until": {"3": ["voted", 1]}})
    with sweep.start() as process:
        wait_for(lambda: sweep.events("ended"))
        server = Server(sweep.out, watch._sweep_page(sweep.out), takes_votes=True, port=0)
        with serving(server) as client:
            before = page(client)
            assert client.vote(body_of(sweep.out, [make_vote(1, 0, 1)]))[0] == 200
            wait_for(lambda: "1 blind vote by 1 listener" in page(client))
            assert process.poll() is None, "all of this happened while it ran"
            sweep.tell("voted")
            output = process.communicate(timeout=100)[0]
            assert process.returncode == 0, output
            after = page(client)
    assert sweep.check_whole(4) == {"completed": 4}
    sweep.check_metrics()
    said = sweep.summary()["preference"]["text"]
    assert "1 blind vote by 1 listener prefers trial 0" in said
    assert said in after
    assert said not in before
    table = pd.read_csv(sweep.out / "trials.csv")
    assert list(table["preference"].notna()) == [True, True, False, False]
    preferred, other = table["preference"][:2].tolist()
    assert preferred > other


def page(client: Client) -> str:
    status, _, body = client.ask("GET", "/")
    assert status == 200
    return body.decode()
