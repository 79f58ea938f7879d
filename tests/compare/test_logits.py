from types import SimpleNamespace

import numpy as np
import pytest

from ckptdbg.compare.logits import CHUNK_ELEMENTS, compare_greedy, compare_logits, decoder, greedy, log_softmax, tips
from ckptdbg.errors import HarnessError

torch = pytest.importorskip("torch")
F = torch.nn.functional


def pair(shape=(2, 5, 37), scale=3.0, apart=0.3):
    rng = np.random.default_rng(0)
    source = scale * rng.standard_normal(shape)
    return source, source + apart * rng.standard_normal(shape)


# torch advises against the very reduction that torchtitan uses.
@pytest.mark.filterwarnings("ignore:reduction. 'mean' divides:UserWarning")
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_the_figures_are_torchs_own(dtype):
    source, target = (x.astype(dtype) for x in pair())
    figures = compare_logits(source, target)
    s, t = torch.from_numpy(source).double(), torch.from_numpy(target).double()
    per_token = F.kl_div(F.log_softmax(t, -1), F.softmax(s, -1), reduction="none").sum(-1)
    assert figures.kl_mean_nats == pytest.approx(per_token.mean().item(), rel=1e-12)
    assert figures.kl_max_nats == pytest.approx(per_token.max().item(), rel=1e-12)
    last = F.kl_div(F.log_softmax(t[:, -1], -1), F.softmax(s[:, -1], -1), reduction="mean")
    assert figures.kl_torchtitan == pytest.approx(last.item(), rel=1e-12)
    assert figures.max_abs == pytest.approx((s - t).abs().max().item(), rel=1e-12)
    assert figures.top1_agreement == (s.argmax(-1) == t.argmax(-1)).double().mean().item()
    top_s, top_t = (x.topk(10).indices.reshape(-1, 10).tolist() for x in (s, t))
    overlap = np.mean([len(set(a) & set(b)) / 10 for a, b in zip(top_s, top_t, strict=True)])
    assert figures.topk_overlap == pytest.approx(overlap)
    assert 0 < overlap < 1


def test_the_divergence_has_a_direction():
    source, target = pair(apart=2.0)
    assert compare_logits(source, target).kl_mean_nats != pytest.approx(compare_logits(target, source).kl_mean_nats)


def test_equal_logits_are_zero_apart_and_a_shift_is_no_difference_in_probability():
    source, _ = pair()
    assert compare_logits(source, source).kl_max_nats == 0
    shifted = compare_logits(source, source + 100)
    assert shifted.kl_max_nats == pytest.approx(0, abs=1e-12)
    assert shifted.max_abs == pytest.approx(100)


def test_torchtitans_figure_shrinks_with_the_vocabulary_and_ours_does_not():
    source, target = pair((1, 3, 16))
    # Tokens that neither model would ever say.
    padding = np.full((1, 3, 16 * 63), -1e4)
    small = compare_logits(source, target)
    large = compare_logits(np.concatenate([source, padding], -1), np.concatenate([target, padding], -1))
    assert large.kl_mean_nats == pytest.approx(small.kl_mean_nats)
    assert large.kl_torchtitan == pytest.approx(small.kl_torchtitan / 64)


def test_padding_does_not_count():
    source, target = pair((2, 5, 37))
    mask = np.array([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]], bool)
    target[0, 3:] += 50 * np.random.default_rng(1).standard_normal((2, 37))
    kept = compare_logits(source, target, mask=mask)
    assert kept.kl_max_nats < compare_logits(source, target).kl_max_nats
    first, second = compare_logits(source[:1, :3], target[:1, :3]), compare_logits(source[1:], target[1:])
    assert kept.kl_mean_nats == pytest.approx((3 * first.kl_mean_nats + 5 * second.kl_mean_nats) / 8)
    assert kept.kl_torchtitan == pytest.approx((first.kl_torchtitan + second.kl_torchtitan) / 2)
    assert kept.max_abs == max(first.max_abs, second.max_abs)


def test_ruled_out_tokens_agree_and_one_ruled_out_by_the_target_alone_is_infinitely_far():
    source, target = pair((1, 2, 9))
    source[..., 4] = target[..., 4] = -np.inf
    assert np.isfinite(compare_logits(source, target).kl_mean_nats)
    target[..., 5] = -np.inf
    assert compare_logits(source, target).kl_mean_nats == np.inf


def test_a_nan_is_not_hidden():
    source, target = pair()
    target[1, 2, 3] = np.nan
    figures = compare_logits(source, target)
    assert np.isnan(figures.kl_mean_nats)
    assert np.isnan(figures.max_abs)


def test_chunks_change_nothing(monkeypatch):
    source, target = pair((3, 7, 41))
    whole = compare_logits(source, target)
    assert source.size < CHUNK_ELEMENTS
    monkeypatch.setattr("ckptdbg.compare.logits.CHUNK_ELEMENTS", 2 * 41)
    assert compare_logits(source, target) == whole


def test_bfloat16_logits():
    import ml_dtypes

    source, target = pair()
    low = compare_logits(source.astype(ml_dtypes.bfloat16), target.astype(ml_dtypes.bfloat16))
    assert low.kl_mean_nats == pytest.approx(compare_logits(source, target).kl_mean_nats, rel=0.2)


def test_log_softmax_does_not_overflow():
    assert np.isfinite(log_softmax(np.array([[1e4, -1e4, 0.0]]))).all()


@pytest.mark.parametrize(
    ("source", "target", "mask", "says"),
    [
        ((2, 3, 4), (2, 3, 5), None, r"found shapes \(2, 3, 4\) and \(2, 3, 5\); expected one shape"),
        ((4,), (4,), None, "expected one shape"),
        ((2, 3, 4), (2, 3, 4), np.ones((2, 4), bool), r"found \(2, 4\); expected \(2, 3\)"),
        ((2, 3, 4), (2, 3, 4), np.zeros((2, 3), bool), "every token of the probe is padding"),
    ],
)
def test_what_cannot_be_compared_is_refused(source, target, mask, says):
    with pytest.raises(HarnessError, match=says):
        compare_logits(np.zeros(source), np.zeros(target), mask=mask)


def counting(vocabulary, step=1, seen=None):
    """A model that says the last id plus ``step``, and records the lengths it was called with."""

    def run(ids):
        if seen is not None:
            seen.append(ids.shape)
        return np.eye(vocabulary)[(ids + step) % vocabulary]

    return run


def test_greedy_decodes_each_sequence_at_one_length():
    seen = []
    ids = np.array([[3, 4], [7, 8]])
    assert greedy(counting(11, seen=seen), ids, 4, pad=10).tolist() == [[5, 6, 7, 8], [9, 10, 0, 1]]
    assert set(seen) == {(2, 6)}


def test_greedy_names_the_first_step_that_differs():
    def late(ids):
        logits = counting(50)(ids)
        logits[:, 4:] = np.roll(logits[:, 4:], 1, axis=-1)
        return logits

    ids = np.array([[1, 2, 3], [5, 6, 7]])
    apart = compare_greedy(counting(50), late, ids, 5)
    assert (apart.agree, apart.first_difference) == (False, 2)
    same = compare_greedy(counting(50), counting(50), ids, 5)
    assert (same.agree, same.first_difference) == (True, None)


def test_greedy_refuses_an_output_that_is_not_logits():
    with pytest.raises(HarnessError, match=r"found output \(2, 11\)"):
        greedy(lambda ids: np.zeros((len(ids), 11)), np.array([[1, 2], [3, 4]]), 2)


HEALTHY = "The river rose in the night, and by morning the lower fields were under water; nobody had heard it come."
LOOP = "The river rose and the river and the river and the river and the river and the river and the riv"
LOOP_JA = "川は夜に増水した。水が来た水が来た水が来た水が来た水が来た"
SOUP = "The rivеrом nightαλ fieldsкий wеre undеr watеrей nobоdyλο heаrd"


@pytest.mark.parametrize(
    ("source", "target", "says"),
    [
        (HEALTHY, LOOP, "repeats itself"),
        (HEALTHY, LOOP_JA, "repeats itself"),
        (HEALTHY, SOUP, "writes garbage"),
        (HEALTHY, "a\ufffd\ufffdb\x00c", "writes garbage"),
    ],
)
def test_tips_name_what_only_the_target_shows(source, target, says):
    (tip,) = tips([HEALTHY, source], [HEALTHY, target])
    assert says in tip


@pytest.mark.parametrize("text", [HEALTHY, "no no no, I said", "使用Python的方法很简单,读一读就明白。", "", "Wait...."])
def test_healthy_text_gives_no_tips(text):
    assert tips([HEALTHY], [text]) == []


def test_what_the_source_shows_too_is_no_tip():
    assert tips([LOOP], [LOOP]) == []


class Echo:
    """A side that answers with the last id plus one, counting only what the mask lets it see."""

    def __init__(self):
        self.calls = []

    def run(self, inputs):
        self.calls.append(inputs)
        logits = np.eye(50)[(inputs["input_ids"] + 1) % 50]
        return SimpleNamespace(output=logits.reshape(-1, 50), output_shape=logits.shape)


def test_a_side_decodes_with_its_mask_and_positions_continued():
    side = Echo()
    inputs = {
        "input_ids": np.array([[0, 3, 4], [5, 6, 7]]),
        "attention_mask": np.array([[0, 1, 1], [1, 1, 1]]),
        "position_ids": np.array([[0, 0, 1], [0, 1, 2]]),
    }
    run = decoder(side, inputs, 2)
    assert greedy(run, inputs["input_ids"], 2).tolist() == [[5, 6], [8, 9]]
    seen = side.calls[-1]
    assert seen["attention_mask"].tolist() == [[0, 1, 1, 1, 1], [1, 1, 1, 1, 1]]
    assert seen["position_ids"].tolist() == [[0, 0, 1, 2, 3], [0, 1, 2, 3, 4]]


def test_what_cannot_be_continued_is_refused():
    inputs = {"input_ids": np.zeros((1, 2), int), "decoder_input_ids": np.zeros((1, 3), int)}
    with pytest.raises(HarnessError, match="found inputs decoder_input_ids"):
        decoder(Echo(), inputs, 2)
