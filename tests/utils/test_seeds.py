"""Seeds of different purposes and runs do not meet."""

from openmm_cgkd.utils.seeds import derived_seed


def test_runs_share_no_seed():
    seeds = [
        derived_seed(run, purpose, k)
        for run in range(1, 30)
        for purpose in ("teacher", "replica", "dynamics")
        for k in range(40)
    ]
    assert len(set(seeds)) == len(seeds)
    assert all(0 < seed < 2**31 - 1 for seed in seeds)


def test_numbers_tell_apart():
    given = [(), (0,), (1,), (0, 0), (0, 1), (1, 0)]
    assert len({derived_seed(1, "a", *numbers) for numbers in given}) == len(given)


def test_seed_stays():
    """The same on every machine and in every version: results depend on it."""
    assert [derived_seed(1, "teacher", k) for k in range(2)] == [1307190859, 473764763]
