"""Before processes wait for NCCL, which kills one that waits too long, they ask over gloo, which raises an error."""

from itertools import pairwise

import pytest
from support.runs import distilling


def flags(digits_teacher, folder, few_digits) -> list[str]:
    more = ["--output_dir", folder, "--data_path", few_digits, "--batch_size", "24", "--checkpoint_steps", "3"]
    return ["train", *distilling(digits_teacher, *more, epochs=1)]


@pytest.mark.parametrize("backend", ["nccl", "gloo"])
def test_a_run_exchanges_nothing_over_nccl_that_it_has_not_asked_for(
    ranks, digits_teacher, few_digits, tmp_path, backend
):
    results = ranks("support.as_if_nccl:training", backend, *flags(digits_teacher, tmp_path / "run", few_digits))
    assert [result.status for result in results] == [0, 0], results
    for result in results:
        ways = [way for _, way in result.exchanged]
        unasked = [
            (before, after)
            for before, after in pairwise(result.exchanged)
            if after[1] == "main" and before[1] != "hosts" and not before == after == ("broadcast", "main")  # buffers
        ]
        names = {name for name, way in result.exchanged if way == "main"}
        if backend == "nccl":
            assert not unasked and names == {"broadcast", "all_gather", "all_reduce"}
        else:
            assert "hosts" not in ways
    assert ways.count("step") == 4


def test_a_process_that_hangs_is_told_of_in_time_and_nobody_waits_for_nccl(ranks):
    first, second = ranks("support.as_if_nccl:one_hangs", 1.0)
    assert first.sums == second.sums == 2
    assert "has not answered for 0.0166667 minutes" in first.words and "the same command goes on" in first.words
    assert 0.9 < first.seconds < 1.9
    assert "main" not in [way for _, way in first.exchanged]


def test_gloo_tells_before_nccl_kills(ranks):
    for asked, main in ranks("support.as_if_nccl:timeouts", 5.0):
        assert (asked, main) == (5, 65)
