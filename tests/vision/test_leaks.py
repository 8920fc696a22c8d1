from __future__ import annotations

from elinvar.testing import assert_no_leak


def test_pairs_leave_nothing_behind(engine, images):
    def work():
        engine.clear_cache()
        with engine.infer(images[0], images[1]) as result:
            result.compute()
            engine.match(result, top_k=5)
        engine.infer_batch_pipelined(images)

    assert_no_leak(work, repeats=10, warmup=3)
