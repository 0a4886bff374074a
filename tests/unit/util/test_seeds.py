import subprocess
import sys

from rapo.util.seeds import derive_seed


def test_another_process_derives_the_same_seed():
    """`hash()` would not: it is salted per process."""
    code = "from rapo.util.seeds import derive_seed; import sys; sys.stdout.write(str(derive_seed(0, 'ü.png', 12)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert int(done.stdout) == derive_seed(0, "ü.png", 12)


def test_seeds_differ_in_every_part_and_its_place():
    seeds = {
        derive_seed(*parts) for parts in [(0, "a", 1), (1, "a", 1), (0, "b", 1), (0, "a", 2), (0, 1, "a"), (0, "a1")]
    }
    assert len(seeds) == 6
    many = {derive_seed(0, f"image{i}", step) for i in range(200) for step in range(50)}
    assert len(many) == 10_000


def test_seeds_fit_into_48_bits():
    seeds = [derive_seed(i) for i in range(500)]
    assert all(0 <= seed < 2**48 for seed in seeds)
    assert max(seeds) > 2**47
