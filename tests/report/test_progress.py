import io

import pytest

from d2check.report.progress import LiveProgress, NoProgress, PlainProgress, Watch

FACTS = {"images": 45_000, "images_per_batch": 2, "planned_iterations": 10_000}


def records(number, *, total_s=0.8, data_s=0.08, first=0, loss=2.0):
    yield {"t": "begin", "facts": FACTS}
    yield {"t": "phase", "name": "as-configured", "first_iteration": 0}
    for i in range(first, first + number):
        yield {
            "t": "iter",
            "i": i,
            "clock": 1000.0 + i * total_s,
            "scalars": {"total_loss": loss},
            "total_s": total_s,
            "data_s": data_s,
            "memory": {"reserved_mib": 3276.8},
        }


def watched(number, **plan):
    watch = Watch(**({"iterations": 300} | plan))
    for record in records(number):
        watch.take(record)
    return watch


def test_a_line_tells_the_check_and_the_full_training():
    progress = PlainProgress(io.StringIO(), watched(40))
    assert progress.now() == (
        "iter 40/300 loss 2 0.8 s/it data 10 % memory 3.2 GiB 0.0018 epochs"
        " eta 3 min 28 s; full training 2 h 13 min"
    )


def test_lines_come_at_once_and_then_every_ten_seconds_of_training():
    stream = io.StringIO()
    progress = PlainProgress(stream, Watch(iterations=300))
    for record in records(40):
        progress.record(record)
    lines = stream.getvalue().splitlines()
    assert [line.split()[1] for line in lines] == ["1/300", "14/300", "27/300", "40/300"]


def test_before_the_second_iteration_no_pace_is_made_up():
    watch = watched(1)
    assert watch.seconds_per_iteration is None
    assert watch.left_s is None
    assert watch.full_training_s is None
    assert "eta" not in PlainProgress(io.StringIO(), watch).now()


def test_a_phase_that_is_left_out_is_not_waited_for():
    watch = watched(40, iterations=390, by_phase={"as-configured": 300, "ramp": 90})
    watch.take({"t": "note", "kind": "phase-skipped", "message": "ramp: ...", "phase": "ramp"})
    watch.take({"t": "note", "kind": "phase-skipped", "message": "worst", "phase": "worst-batch"})
    assert PlainProgress(io.StringIO(), watch).now().startswith("iter 40/300 ")


def test_an_early_end_is_told_at_once():
    stream = io.StringIO()
    progress = PlainProgress(stream, watched(40))
    progress.record({"t": "note", "kind": "ended-early", "message": "at iteration 40 of 300: x"})
    assert stream.getvalue() == "ended early at iteration 40 of 300: x\n"
    assert progress.now().startswith("iter 40/40 ")
    assert progress._watch.left_s == 0


def test_the_first_iteration_does_not_spoil_the_pace():
    watch = Watch(iterations=100)
    for record in records(1, total_s=30.0):
        watch.take(record)
    for record in records(9, total_s=0.5, first=1):
        watch.take(record)
    assert watch.seconds_per_iteration == pytest.approx(0.5)


def test_the_sooner_of_budget_and_iterations_ends_the_check():
    assert watched(11, budget_s=60.0).left_s == pytest.approx(60 - 8)
    assert watched(11, iterations=20, budget_s=600.0).left_s == pytest.approx(9 * 0.8)
    assert watched(11, iterations=None, budget_s=16.0).share_done == pytest.approx(0.5)


def test_epochs_are_told_for_the_plan():
    assert watched(40).full_training() == (
        "full training 10,000 iterations = 0.44 epochs, 2 h 13 min"
    )


def test_a_loss_that_is_no_number_is_shown_as_such():
    watch = Watch(iterations=10)
    for record in records(3, loss="NaN"):
        watch.take(record)
    assert "loss nan" in PlainProgress(io.StringIO(), watch).now()


@pytest.mark.parametrize(
    "record",
    [
        {},
        {"t": "iter"},
        {"t": "iter", "scalars": None, "memory": None, "total_s": "soon"},
        {"t": "begin", "facts": None},
        {"t": "unheard-of", "facts": 3},
    ],
)
def test_a_record_without_the_usual_keys_is_no_accident(record):
    for progress in (PlainProgress(io.StringIO(), Watch()), NoProgress()):
        progress.record(record)
        progress.close()


def test_a_reader_who_has_gone_does_not_end_the_check():
    class Gone(io.StringIO):
        def write(self, text):
            raise BrokenPipeError

    progress = PlainProgress(Gone(), Watch())
    for record in records(2):
        progress.record(record)
    progress.line("still here")


def test_without_a_gpu_it_is_the_hosts_memory_that_is_told():
    watch = Watch()
    watch.take({"t": "iter", "rss_mib": 812.0})
    assert watch.figures() == ["host memory 812 MiB"]


def test_memory_of_the_loss_stays_bounded():
    watch = watched(10_000)
    assert len(watch.losses) <= 4000
    assert len(watch.recent) == 50


def test_the_live_screen_shows_the_same_figures_and_never_reads_markup():
    class Terminal(io.StringIO):
        encoding = "utf-8"

        def isatty(self):
            return True

    stream = Terminal()
    progress = LiveProgress(stream, Watch(iterations=300), title="[red]config[/red].yaml")
    for record in records(40):
        progress.record(record)
    progress.line("[bold]from the training[/bold]\x1b[31m")
    progress.close()
    text = stream.getvalue()
    assert "[red]config[/red].yaml" in text
    assert "[bold]from the training[/bold]" in text
    assert "0.8 s/it" in text
    assert "full training 10,000 iterations" in text
