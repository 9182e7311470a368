import pytest

from csm_ft.schedule import Clock, Duration, learning_rate_factor


@pytest.mark.parametrize(
    ("text", "steps"),
    [
        ("100", 100),
        ("0.5ep", 25),
        ("200ex", 25),
        ("10%", 20),
        ("1/9", 22),
        ("0", 0),
        ("5 %", 10),
        ("400sec", 25),
        ("2 ep", 100),
    ],
)
def test_durations_in_steps(text: str, steps: int) -> None:
    assert Clock(200, 1600, 400, sec_per_example=2.0).steps(Duration.parse(text)) == steps


@pytest.mark.parametrize("text", ["", "x", "-5", "1/0", "3x", "1e3", "10 %%", "nan", "5epp"])
def test_bad_durations_name_the_spellings(text: str) -> None:
    with pytest.raises(ValueError, match=r"is not a duration: write 100 \(steps\)"):
        Duration.parse(text)


@pytest.mark.parametrize("batch_size", [1, 7, 8, 32])
@pytest.mark.parametrize("text", ["1/9", "10%", "1ep", "200ex"])
def test_events_come_at_equal_examples(batch_size: int, text: str) -> None:
    total = 1800
    steps = -(-total // batch_size)
    clock = Clock(total_steps=steps, total_examples=total, examples_per_epoch=600)
    duration, due, examples = Duration.parse(text), [], 0
    for step in range(1, steps + 1):
        before, examples = examples, min(total, examples + batch_size)
        if clock.is_due(duration, step=step, examples=examples, examples_before=before):
            due.append(examples)
    length = {"1/9": 200, "10%": 180, "1ep": 600, "200ex": 200}[text]
    assert [d // length for d in due] == list(range(1, total // length + 1))
    assert all(d % length < batch_size for d in due)


def test_nothing_is_due_before_step_one() -> None:
    clock = Clock(10, 80, 80)
    assert not clock.is_due(Duration.parse("1"), step=0, examples=0, examples_before=0)
    assert not clock.is_due(Duration.parse("0"), step=5, examples=40, examples_before=32)


@pytest.mark.parametrize("decay", ["linear", "cosine", "constant", "exponential", "wsd"])
@pytest.mark.parametrize("total_steps", [1, 2, 10, 300])
@pytest.mark.parametrize("warmup_steps", [0, 1, 5])
def test_learning_rate_warms_up_and_falls(decay: str, total_steps: int, warmup_steps: int) -> None:
    warmup_steps = min(warmup_steps, total_steps // 2)
    factors = [
        learning_rate_factor(
            s, total_steps=total_steps, warmup_steps=warmup_steps, decay=decay, min_ratio=0.1
        )
        for s in range(total_steps + 1)
    ]
    assert factors[0] > 0, "the first step must not be lost to a learning rate of 0"
    assert max(factors) == pytest.approx(1.0)
    assert factors[: warmup_steps + 1] == sorted(factors[: warmup_steps + 1])
    assert factors[warmup_steps:] == sorted(factors[warmup_steps:], reverse=True)
    assert factors[-1] == pytest.approx(1.0 if decay == "constant" else 0.1)
