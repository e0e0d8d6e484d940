"""Leaps of the loss are noted with the images of their batch."""

from __future__ import annotations

import math

from d2check.probe.spikes import NOTED, SpikeWatch


class Recorder:
    def __init__(self):
        self.notes = []

    def note(self, kind, message, **more):
        self.notes.append({"kind": kind, "message": message, **more})


def watch(losses):
    recorder = Recorder()
    spikes = SpikeWatch(recorder)
    for iteration, loss in enumerate(losses):
        spikes.look(iteration, loss, lambda: ["images/a.png", "images/b.png"])
    return recorder.notes


def test_a_leap_names_the_images_of_its_batch():
    notes = watch([1.0] * 30 + [4.0] + [1.0] * 10)
    assert [note["i"] for note in notes] == [30]
    assert notes[0]["batch_files"] == ["images/a.png", "images/b.png"]
    assert notes[0]["message"] == "total_loss 4, usually 1: a.png, b.png"


def test_a_crowded_image_is_no_leap():
    assert watch([1.0] * 30 + [2.5] + [1.0] * 10) == []


def test_the_high_losses_of_a_start_are_usual_there():
    assert watch([5.0, 3.0, 9.0, 2.0] + [1.0] * 30) == []


def test_a_training_that_only_leaps_is_told_a_few_times():
    assert len(watch(([1.0] * 20 + [9.0]) * 60)) == NOTED


def test_nan_is_neither_a_leap_nor_usual():
    assert watch([1.0] * 25 + [math.nan, None] + [1.0] * 5) == []


def test_a_loss_that_diverges_is_told_once():
    assert [note["i"] for note in watch([1.0] * 30 + [9.0, 99.0, 999.0, 9999.0])] == [30]
