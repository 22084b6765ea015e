"""Both executors keep one contract: an outcome per item, failures by name, nothing silent."""

import os
import time
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest

from pipelines import execute
from pipelines.config import RunSection
from pipelines.execute import InlinePool, Lost, Outcome, Underway, local_ray, open_pool, worker_count
from store.errors import ConfigError, RunIncomplete
from tests.pipelines import stages


@pytest.fixture(scope="module")
def ray_here():
    with local_ray():
        yield


@pytest.fixture(params=["inline", "ray"])
def run(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> RunSection:
    monkeypatch.setattr(execute, "_RETRY_SECONDS", 0.01)
    monkeypatch.setattr(execute, "_NEWS_SECONDS", 0.0)
    if request.param == "ray":
        request.getfixturevalue("ray_here")
    return RunSection(executor=request.param, workers=2, cpus_per_worker=0.5)


def outcomes(run: RunSection, stage, items, folder: Path):
    found = [one for one in news(run, stage, items, folder) if isinstance(one, Outcome)]
    return sorted(found, key=lambda outcome: outcome.item)


def news(run: RunSection, stage, items, folder: Path):
    with open_pool(run, partial(stages.make_counter, str(folder))) as pool:
        return list(pool.map(stage, items))


def test_each_item_has_its_record(run: RunSection, tmp_path: Path) -> None:
    found = outcomes(run, stages.square, range(7), tmp_path)
    assert [(one.item, one.record, one.failure) for one in found] == [(n, n * n, None) for n in range(7)]


def test_no_items_no_outcomes(run: RunSection, tmp_path: Path) -> None:
    assert outcomes(run, stages.square, [], tmp_path) == []


def test_a_failure_costs_its_own_item_only(run: RunSection, tmp_path: Path) -> None:
    found = outcomes(run, stages.odd_ones_fail, range(4), tmp_path)
    assert [(one.record, one.failure) for one in found] == [
        (0, None),
        (None, "ValueError: 1 is odd"),
        (2, None),
        (None, "ValueError: 3 is odd"),
    ]


def test_a_wrong_configuration_stops_the_run_by_name(run: RunSection, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        outcomes(run, stages.forbidden, range(4), tmp_path)
    assert (caught.value.what, caught.value.where, caught.value.fix) == ("no such thing", "key", "remove it")


def test_storage_that_was_away_is_asked_again(run: RunSection, tmp_path: Path) -> None:
    found = outcomes(run, stages.away_once, range(3), tmp_path)
    assert [(one.record, one.attempts) for one in found] == [(0, 2), (1, 2), (2, 2)]


def test_a_killed_worker_is_replaced_and_its_item_done_again(ray_here, tmp_path: Path) -> None:
    run = RunSection(executor="ray", workers=2, cpus_per_worker=0.5)
    found = outcomes(run, stages.kills_worker_once, range(6), tmp_path)
    assert [(one.record, one.attempts) for one in found] == [(n, 2 if n == 3 else 1) for n in range(6)]


def test_an_item_that_keeps_killing_its_worker_is_set_aside(ray_here, tmp_path: Path) -> None:
    run = RunSection(executor="ray", workers=2, cpus_per_worker=0.5, max_attempts=2)
    found = outcomes(run, stages.always_kills, range(6), tmp_path)
    assert [one.record for one in found] == [0, 1, 2, None, 4, 5]
    assert found[3].failure is not None
    assert found[3].failure.startswith("its worker died 2 times")


def test_a_stage_that_tells_how_far_it_is_gives_its_record_last(run: RunSection, tmp_path: Path) -> None:
    heard = news(run, stages.counts_up, [4], tmp_path)
    assert [(type(one), one.item) for one in heard[:-1]] == [(Underway, 4)] * (len(heard) - 1)
    assert [one.working.images for one in heard[:-1]] == [1, 2, 3, 4]
    assert (heard[-1].record, heard[-1].attempts) == ("counted to 4", 1)


def test_a_stage_that_fails_half_way_costs_its_item(run: RunSection, tmp_path: Path) -> None:
    found = outcomes(run, stages.counts_up, [2, -1], tmp_path)
    assert [(one.record, one.failure) for one in found] == [
        (None, "ValueError: it went wrong on the way"),
        ("counted to 2", None),
    ]


def test_a_lost_worker_is_news(ray_here, tmp_path: Path) -> None:
    run = RunSection(executor="ray", workers=2, cpus_per_worker=0.5, max_attempts=2)
    heard = news(run, stages.always_kills, range(4), tmp_path)
    assert [(one.item, one.attempts) for one in heard if isinstance(one, Lost)] == [(3, 1)]


def test_after_work_that_stopped_a_pool_hears_of_new_work_only(ray_here, tmp_path: Path) -> None:
    """One item stops the run while another is still at work: its news are not for whoever comes next."""
    run = RunSection(executor="ray", workers=2, cpus_per_worker=0.5)
    with open_pool(run, partial(stages.make_counter, str(tmp_path))) as pool:
        with pytest.raises(ConfigError):
            list(pool.map(stages.stops_beside_one_at_work, [0, 1]))
        (tmp_path / "go on").touch()
        found = [
            (one.item, one.record) for one in pool.map(stages.square, [7, 8]) if isinstance(one, Outcome)
        ]
    assert sorted(found) == [(7, 49), (8, 64)]


class Clock:
    """The driver's clock, which a test sets: no busy machine makes a worker late."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now, self.pace = 0.0, 0.0
        monkeypatch.setattr(execute, "time", SimpleNamespace(monotonic=self._look, sleep=time.sleep))

    def _look(self) -> float:
        self.now += self.pace
        return self.now


def test_an_item_without_end_is_given_up_and_the_others_are_done(
    ray_here, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(execute, "_LISTEN_SECONDS", 0.1)
    clock = Clock(monkeypatch)
    run = RunSection(executor="ray", workers=2, cpus_per_worker=0.5, max_attempts=2, silence=60)
    found = {}
    with open_pool(run, partial(stages.make_counter, str(tmp_path))) as pool:
        for one in pool.map(stages.never_ends, range(5)):
            if isinstance(one, Outcome):
                found[one.item] = one
            if len(found) == 4:  # only the one without end is left
                clock.pace = 100.0
    assert [found[item].record for item in range(5)] == [0, 1, 2, None, 4]
    assert found[3].failure == "its worker died 2 times (silent for 60 s)"


def test_a_worker_that_hangs_is_given_up_while_another_speaks(
    ray_here, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock(monkeypatch)
    run = RunSection(executor="ray", workers=2, cpus_per_worker=0.5, silence=60)
    heard = []
    with open_pool(run, partial(stages.make_counter, str(tmp_path))) as pool:
        for one in pool.map(stages.hangs_beside_one_that_speaks, [0, 1]):
            heard.append(one)
            clock.now += 40.0 if isinstance(one, Underway) else 0.0  # 0 was just heard
            if isinstance(one, Lost):
                (tmp_path / "given up").touch()
    lost = [(one.item, one.reason) for one in heard if isinstance(one, Lost)]
    assert lost == [(1, "silent for 60 s")]
    before = heard[: heard.index(next(one for one in heard if isinstance(one, Lost)))]
    assert before
    assert {type(one) for one in before} == {Underway}
    assert sorted(one.record for one in heard if isinstance(one, Outcome)) == [0, 1]


def test_ray_works_in_other_processes_and_inline_in_this_one(ray_here, tmp_path: Path) -> None:
    away = outcomes(
        RunSection(executor="ray", workers=2, cpus_per_worker=0.5), stages.process_of, range(4), tmp_path
    )
    here = outcomes(RunSection(executor="inline"), stages.process_of, range(4), tmp_path)
    assert os.getpid() not in {one.record for one in away}
    assert {one.record for one in here} == {os.getpid()}


def test_a_pool_without_work_makes_no_bench() -> None:
    def refuse() -> None:
        raise AssertionError("no bench was needed")

    with InlinePool(RunSection(executor="inline"), refuse) as pool:
        assert list(pool.map(stages.square, [])) == []


@pytest.mark.parametrize(("has", "cores"), [(True, 3), (False, 8)])
def test_cores_are_counted_where_the_system_knows_no_affinity(
    has: bool, cores: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    if has:
        monkeypatch.setattr(os, "sched_getaffinity", lambda process: {0, 1, 5}, raising=False)
    else:
        monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    assert worker_count(RunSection(executor="ray", cpus_per_worker=1)) == cores


def decoded(stage, items, folder: Path, **options):
    run = RunSection(executor="ray", workers=1, cpus_per_worker=0.5, cpus_per_decoder=0.5, **options)
    with open_pool(run, stages.Asker, partial(stages.make_answering, str(folder))) as pool:
        return {one.item: one.record for one in pool.map(stage, items) if isinstance(one, Outcome)}


def test_decoders_answer_from_processes_of_their_own(ray_here, tmp_path: Path) -> None:
    found = decoded(stages.ask_decoders, [1, 2], tmp_path, decoders=1)
    answers = {item: answer for item, ((answer, _), _) in found.items()}
    assert answers == {1: 10, 2: 20}
    assert all(theirs != own for (_, theirs), own in found.values())


def test_a_decoder_that_dies_costs_a_request_to_another(ray_here, tmp_path: Path) -> None:
    ((answer, process), own) = decoded(stages.ask_decoders, [3], tmp_path, decoders=2)[3]
    assert (answer, process != own, (tmp_path / "died").exists()) == (30, True, True)


def test_a_request_that_no_decoder_can_answer_is_left_to_the_worker_and_they_come_back(
    ray_here, tmp_path: Path
) -> None:
    assert decoded(stages.ask_once, [4, 5], tmp_path, decoders=1) == {4: (None, 10), 5: (None, 10)}


def test_decoders_that_cannot_be_made_stop_the_run(ray_here) -> None:
    run = RunSection(executor="ray", workers=1, cpus_per_worker=0.5, cpus_per_decoder=0.5, decoders=1)
    with (
        pytest.raises(RunIncomplete, match=r"No decoder can be started: .*no weights here"),
        open_pool(run, stages.Asker, stages.cannot_decode) as pool,
    ):
        list(pool.map(stages.slow_square, range(100)))
