from types import SimpleNamespace

from d2check.probe.datasets import count_instances, object_size_px, sample_boxes


class Config(dict):
    def __getattr__(self, name):
        return self[name]


def config(shortest=(640, 800), longest=1333):
    return Config(INPUT=SimpleNamespace(MIN_SIZE_TRAIN=shortest, MAX_SIZE_TRAIN=longest))


def image(*boxes, height=400, width=600, **more):
    annotations = [{"bbox": box, "bbox_mode": 1, **more} for box in boxes]
    return {"height": height, "width": width, "annotations": annotations}


def test_boxes_are_sized_in_either_format_and_crowds_are_left_out():
    corners = image([10, 10, 40, 40], bbox_mode=0)
    assert sample_boxes([image([10, 10, 30, 30]), corners]) == [(30.0, 400, 600)] * 2
    assert sample_boxes([image([0, 0, 9, 9], iscrowd=1), image([0, 0, 9, 0])]) == []
    assert sample_boxes([{"annotations": [{"bbox": [0, 0, 9, 9], "bbox_mode": 1}]}]) == []


def test_a_large_set_is_sampled_over_its_whole_length():
    images = [image([0, 0, n % 50 + 1, n % 50 + 1]) for n in range(100_000)]
    assert 1000 < len(sample_boxes(images)) <= 2050


def test_sizes_are_those_after_resizing():
    boxes = [(30.0, 400, 600)]
    assert object_size_px(boxes, config((800,))) == 60.0
    assert object_size_px(boxes, config((800,), 600)) == 30.0  # the longer side decides
    assert object_size_px(boxes, config((0,))) == 30.0
    assert object_size_px([], config()) is None
    assert object_size_px(boxes, None) is None


def test_objects_are_counted_where_the_set_is_one_of_objects():
    square = [10, 10, 30, 30]
    assert count_instances([image(square, square, category_id=3), image()]) == {3: 2}
    assert count_instances([image(), image()]) == {}  # annotated, and nothing is in it


def test_a_set_with_other_labels_than_objects_is_not_called_empty():
    semantic = {"file_name": "a.jpg", "sem_seg_file_name": "a.png"}
    assert count_instances([semantic]) is None
    assert count_instances([{**image(), "pos_category_ids": [7]}]) is None
